"""Where a run stops being finite: the first hook that holds a NaN or an infinity."""

from __future__ import annotations

import torch
from torch import Tensor

from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.readouts import Batch, Side

#: Where to look, layer by layer; attention scores are left out, for masked positions are −∞ by design.
IN_LAYER = (
    "hook_resid_pre", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_pattern", "attn.hook_z",
    "hook_attn_out", "ln2.hook_normalized", "mlp.hook_post", "hook_mlp_out",
)  # fmt: skip


@torch.no_grad()
def locate_not_finite(model: HookedModel, batch: Batch) -> str:
    """Where the first NaN or infinity appears when the batch is run again: side, layer and hook, or that both runs are finite."""
    for side in ("clean", "corrupt"):
        found = _first_not_finite(model, batch, side)
        if found:
            name, count, row = found
            layer = f"layer {name.split('.')[1]}, " if name.startswith("blocks.") else ""
            return f"in the {side} run the first such values are at {layer}hook {name} ({count} of them, row {int(batch.index[row])} first)"
    return "both runs are finite, so it arose between them or in the metric: check the metric, or run in float32"


def _first_not_finite(model: HookedModel, batch: Batch, side: Side) -> tuple[str, int, int] | None:
    found: list[tuple[str, int, int]] = []

    def look(name: str, tensor: Tensor) -> None:
        bad = ~tensor.isfinite()
        if not found and bad.any():
            found.append((name, int(bad.sum()), int(bad.nonzero()[0, 0])))

    in_layers = [f"blocks.{i}.{name}" for i in range(model.cfg.n_layers) for name in IN_LAYER]
    names = [*in_layers, "ln_final.hook_normalized", "unembed.hook_in", "unembed.hook_out"]
    names = [name for name in names if name in model.hook_dict]  # a model without norms or MLPs lacks some
    with model.hooks(fwd_hooks=[(name, lambda tensor, hook, name=name: look(name, tensor)) for name in names]):
        batch.logits(model, side)
    return found[0] if found else None
