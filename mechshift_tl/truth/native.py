"""Models of TransformerLens' own, made from weights that are given, and read at each position's own token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.sources.native import NativeModel

from hooked_diffusion.spec import DiffusionSpec
from mechshift_tl.bridge.protocol import HookedModel

Attention = Literal["causal", "full"]


def native_model(name: str, sizes: Mapping[str, int], weights: Mapping[str, Tensor], attention: Attention) -> HookedModel:
    """A norm-free ReLU model with these weights; row p of its logits says what stands at p."""
    direction = "causal" if attention == "causal" else "bidirectional"
    settings = {"act_fn": "relu", "attention_dir": direction, "normalization_type": None}
    config = TransformerBridgeConfig.from_dict({**sizes, **settings})
    inner = NativeModel(config)
    # Before the bridge is built: afterwards every weight has several names, and a missing one would not be told.
    inner.load_state_dict(dict(weights))
    bridge = build_bridge_from_module(inner.eval(), "TransformerLensNative", tl_config=config, tokenizer=None, model_name=name)
    # TransformerBridge has no such field; `bridge.alignment.spec_of` looks for it.
    setattr(bridge, "spec", DiffusionSpec(attention, logit_shift=0))  # noqa: B010
    return cast(HookedModel, bridge)


def embeddings_of(weights: Mapping[str, Tensor]) -> list[Tensor]:
    """What the input writes: the embeddings of tokens and of positions."""
    return [weights["tok_embed.weight"], weights["pos.weight"]]
