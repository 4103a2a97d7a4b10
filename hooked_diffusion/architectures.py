"""The native classes that models are built on, and the TransformerLens adapters that know which way their attention points.

Hugging Face's Llama, Qwen2, Qwen3 and GPT2 attend both ways when their config says `is_causal = False`. TransformerLens rebuilds attention
itself and draws its own causal triangle, unless its adapter is told otherwise before the bridge is built. These adapters read it off the
config:

- `Guarded…` is TransformerLens' own adapter for a native class. It points attention as `config.is_causal` says; without that field, causal.
- `…ForMaskedDiffusion` points attention both ways, unless the config says causal.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.supported_architectures import (
    GPT2ArchitectureAdapter,
    LlamaArchitectureAdapter,
    Qwen2ArchitectureAdapter,
    Qwen3ArchitectureAdapter,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion.spec import DiffusionSpec
from hooked_diffusion.tokenizers import without_remote_code


def check_native(name: str, hf_model: nn.Module, spec: DiffusionSpec) -> PreTrainedModel:
    """The model, if a bridge can be built around it.

    Raises TypeError on a class other than those of `NATIVE`, ValueError on float8 weights and on a mask id outside the vocabulary.
    """
    architecture = type(hf_model).__name__
    if architecture not in NATIVE:
        raise TypeError(f"from_hf takes {' or '.join(NATIVE)}, got {architecture}; open other checkpoints by from_pretrained")
    native = cast(PreTrainedModel, hf_model)
    for key, weight in native.named_parameters():
        # A floating number of one byte is a float8.
        if weight.is_floating_point() and weight.element_size() == 1:
            raise ValueError(
                f"{name}: weight {key} is {str(weight.dtype).removeprefix('torch.')}, which means nothing without its scales; "
                "convert the checkpoint to bfloat16 first"
            )
    rows = native.config.vocab_size
    if spec.mask_token_id is not None and spec.mask_token_id >= rows:
        raise ValueError(f"{name}: mask token id {spec.mask_token_id} lies outside the vocabulary of {rows}")
    return native


def bridge_around(
    name: str, native: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, *, causal: bool, device: torch.device | None = None
) -> TransformerBridge:
    """A TransformerLens bridge around a native model, in place; its attention points one way or both. Tokens go to `device`."""
    native.config.is_causal, native.config.use_cache = causal, False
    with without_remote_code(tokenizer):
        return build_bridge_from_module(
            cast(nn.Module, native).eval(),
            type(native).__name__,
            hf_config=native.config,
            tokenizer=tokenizer,
            model_name=name,
            device=device,
            post_adapter_hook=lambda adapter: direct_attention(adapter, causal),
        )


def direct_attention(adapter: ArchitectureAdapter, causal: bool) -> None:
    """Tell an adapter, before its bridge exists, which way attention points. Once the bridge exists, only the wrapped module would hear it.

    A model that attends ahead has no next-token loss and does not write from left to right: TransformerLens then refuses both.
    """
    assert adapter.component_mapping is not None  # every adapter of a native class has one
    adapter.component_mapping["blocks"].submodules["attn"].is_causal = causal
    adapter.cfg.attention_dir = "causal" if causal else "bidirectional"
    adapter.supports_causal_loss = adapter.supports_generation = causal


class _Guard(ArchitectureAdapter):
    """Points attention as the model's config says, once the model is known."""

    causal_by_default = True

    def prepare_model(self, hf_model: PreTrainedModel) -> None:
        """Direct attention, then do what TransformerLens' own adapter does. Raises ValueError on block attention, which needs a mask."""
        config = hf_model.config
        stated = vars(config)  # fields that Hugging Face's classes do not declare
        spec = stated.get("diffusion_spec") or {}
        if spec.get("attention") == "block" and self.cfg.attention_dir == "causal":
            raise ValueError(
                f"{self.cfg.model_name} attends in blocks of {spec.get('block_length')}, which TransformerLens alone would not see; "
                "open it by hooked_diffusion.HookedDiffusionTransformer.from_pretrained"
            )
        config.is_causal = bool(stated.get("is_causal", self.causal_by_default))
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
