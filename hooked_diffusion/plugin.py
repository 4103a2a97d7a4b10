"""What TransformerLens loads where this package is installed: its entry points of the group `transformer_lens.architectures` point here.

They add the names `…ForMaskedDiffusion`, which `build_bridge_from_module` then finds. Loading any of them, which happens before
TransformerLens builds its first adapter, also replaces the adapters of the four native classes by ones that read `config.is_causal`:
`boot_transformers` looks only at those names, and would open a bidirectional folder as a causal model without a word.
"""

from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

from hooked_diffusion.architectures import (
    NATIVE,
    GPT2ForMaskedDiffusion,
    LlamaForMaskedDiffusion,
    Qwen2ForMaskedDiffusion,
    Qwen3ForMaskedDiffusion,
)

__all__ = ["GPT2ForMaskedDiffusion", "LlamaForMaskedDiffusion", "Qwen2ForMaskedDiffusion", "Qwen3ForMaskedDiffusion"]

for _name, _adapter in NATIVE.items():
    ArchitectureAdapterFactory.register_adapter(_name, _adapter)
