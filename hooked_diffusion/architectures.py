"""The native classes that models are built on, and TransformerLens adapters for them that know which way attention points.

Hugging Face's Llama, Qwen2, Qwen3 and GPT2 attend both ways when their config says `is_causal = False`, but TransformerLens rebuilds
attention itself and draws its own triangle, unless its adapter is told before the bridge is built. These adapters read it off the config:

- `Guarded…` is TransformerLens' own adapter for a native class that points attention as `config.is_causal` says (causal if it is silent);
- `…ForMaskedDiffusion` points it both ways unless the config says causal.
"""

from __future__ import annotations

from typing import Any

from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures import (
    GPT2ArchitectureAdapter,
    LlamaArchitectureAdapter,
    Qwen2ArchitectureAdapter,
    Qwen3ArchitectureAdapter,
)


def direct_attention(adapter: Any, causal: bool) -> None:
    """Tell an adapter, before its bridge exists, which way attention points; later writes would reach only the wrapped module.

    What attends ahead has no next-token loss and writes nothing from left to right: TransformerLens then refuses both.
    """
    adapter.component_mapping["blocks"].submodules["attn"].is_causal = causal
    adapter.cfg.attention_dir = "causal" if causal else "bidirectional"
    adapter.supports_causal_loss = adapter.supports_generation = causal


class _Guard(ArchitectureAdapter):
    """Points attention as the model's config says, once the model is known."""

    causal_by_default = True

    def prepare_model(self, hf_model: Any) -> None:
        """Direct attention, then what TransformerLens' own adapter does. Raises ValueError when it is block-causal: that needs a mask."""
        config = hf_model.config
        spec = getattr(config, "diffusion_spec", None) or {}
        if spec.get("attention") == "block" and self.cfg.attention_dir == "causal":
            raise ValueError(
                f"{self.cfg.model_name} attends in blocks of {spec.get('block_length')}, which TransformerLens alone would not see; "
                "open it by hooked_diffusion.HookedDiffusionTransformer.from_pretrained"
            )
        config.is_causal = bool(getattr(config, "is_causal", self.causal_by_default))
        direct_attention(self, config.is_causal)
        super().prepare_model(hf_model)


class GuardedGPT2(_Guard, GPT2ArchitectureAdapter):
    """GPT2LMHeadModel, either way."""


class GuardedLlama(_Guard, LlamaArchitectureAdapter):
    """LlamaForCausalLM, either way."""


class GuardedQwen2(_Guard, Qwen2ArchitectureAdapter):
    """Qwen2ForCausalLM, either way."""


class GuardedQwen3(_Guard, Qwen3ArchitectureAdapter):
    """Qwen3ForCausalLM, either way."""


class GPT2ForMaskedDiffusion(GuardedGPT2):
    """GPT2LMHeadModel, both ways unless its config says causal."""

    causal_by_default = False


class LlamaForMaskedDiffusion(GuardedLlama):
    """LlamaForCausalLM, both ways unless its config says causal."""

    causal_by_default = False


class Qwen2ForMaskedDiffusion(GuardedQwen2):
    """Qwen2ForCausalLM, both ways unless its config says causal."""

    causal_by_default = False


class Qwen3ForMaskedDiffusion(GuardedQwen3):
    """Qwen3ForCausalLM, both ways unless its config says causal."""

    causal_by_default = False


#: Hugging Face's class → the adapter that reads its config.
NATIVE = {
    "GPT2LMHeadModel": GuardedGPT2,
    "LlamaForCausalLM": GuardedLlama,
    "Qwen2ForCausalLM": GuardedQwen2,
    "Qwen3ForCausalLM": GuardedQwen3,
}
