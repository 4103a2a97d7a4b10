"""TransformerLens loads this file where the package is installed: entry points of the group `transformer_lens.architectures` name it.

1. They add the names `…ForMaskedDiffusion`, which `build_bridge_from_module` then finds.
2. Loading any of them also replaces TransformerLens' adapters of the four native classes by ones that read `config.is_causal`. This happens
   before TransformerLens builds its first adapter. It is needed because `boot_transformers` looks at the names of the native classes alone:
   without it, a bidirectional folder would open as a causal model, and nobody would be told.
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
