"""One way to read every model: logits moved to the tokens that they predict, and the facts of a spec that analyses need."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_diffusion.attention import position_ids
from hooked_diffusion.spec import DiffusionSpec
from mechshift_tl.bridge.protocol import HookedModel, says_how_it_is_read


def aligned_logits(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], attention_mask: Bool[Tensor, "batch pos"] | None = None
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits whose row p predicts the token at p: the model's `token_logits`, or a plain TransformerBridge's by its spec (`spec_of`).

    `attention_mask` is True at visible tokens, None when all are. Row 0 of a shifted model is finite but predicts nothing; so are rows at
    hidden tokens.
    """
    if says_how_it_is_read(model):
        return model.token_logits(tokens, **({} if attention_mask is None else {"attention_mask": attention_mask}))
    shift = logit_shift(model)
    logits = model(tokens, **hidden_tokens(model, attention_mask))
    # Raw row p of an ARM predicts token p + 1. Row 0 has no row before it; it repeats itself, so that the shape stays.
    return torch.cat([logits[:, :shift], logits[:, : logits.shape[1] - shift]], dim=1)


def hidden_tokens(model: HookedModel, attention_mask: Bool[Tensor, "batch pos"] | None) -> dict[str, Tensor]:
    """The arguments that tell `model` which tokens are hidden. A plain bridge also needs position ids that do not count padding."""
    if attention_mask is None:
        return {}
    if says_how_it_is_read(model):
        return {"attention_mask": attention_mask}
    return {"attention_mask": attention_mask.long(), "position_ids": position_ids(attention_mask)}


def spec_of(model: HookedModel) -> DiffusionSpec:
    """How the model is read: its own spec, or an ordinary ARM's for a plain causal TransformerBridge.

    A plain bridge may be given a spec: `bridge.spec = DiffusionSpec("full", logit_shift=0)`. Raises ValueError on a plain bridge that
    attends both ways and has none, for nothing else says which token a row predicts; and on a spec of another direction than the bridge's.
    """
    if says_how_it_is_read(model):
        return model.spec
    spec: DiffusionSpec | None = getattr(model, "spec", None)
    direction = "causal" if model.cfg.attention_dir == "causal" else "full"
    if spec is None and direction == "full":
        raise ValueError(
            f"{model.cfg.model_name} attends both ways, and nothing says which token a row of its logits predicts; "
            'set model.spec = DiffusionSpec("full", logit_shift=0), or 1 where row p predicts token p + 1'
        )
    if spec is not None and spec.attention != direction:
        raise ValueError(f"{model.cfg.model_name} attends {direction}; its spec says {spec.attention!r}: set another spec")
    return spec or DiffusionSpec()


def logit_shift(model: HookedModel) -> int:
    """1 when a position is predicted by the one before it, as on a plain TransformerBridge without a spec."""
    return spec_of(model).logit_shift


def is_causal(model: HookedModel) -> bool:
    """Whether no position sees what comes after it, in the direction of attention now in force."""
    return (model.direction if says_how_it_is_read(model) else model.cfg.attention_dir) == "causal"


def mask_token(model: HookedModel) -> int | None:
    """The id an MDM sees where it has yet to commit; None for an ARM, which needs none. Raises ValueError on an MDM without one."""
    spec = spec_of(model)
    if spec.is_mdm and spec.mask_token_id is None:
        raise ValueError(f"{model.cfg.model_name}: an MDM without a mask token cannot be read; give its DiffusionSpec a mask_token_id")
    return spec.mask_token_id if spec.is_mdm else None
