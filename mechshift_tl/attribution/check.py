"""Is the model one that edges describe, and where did a run stop being finite?"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch

from mechshift_tl.attribution.hooks import Kept, capture
from mechshift_tl.interventions import run_writers
from mechshift_tl.readouts import Batch, Side

#: Models whose writers have been summed, or need not be; the sum depends on the architecture alone.
SUMMED: WeakSet[Any] = WeakSet()
TOLERANCE = 2e-2
#: Where to look, layer by layer; attention scores are left out, for masked positions are −∞ by design.
IN_LAYER = (
    "hook_resid_pre", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_pattern", "attn.hook_z",
    "ln2.hook_normalized", "mlp.hook_post", "hook_mlp_out",
)  # fmt: skip


@torch.no_grad()
def check_writers_sum(model: Any, batch: Batch) -> None:
    """Raise ValueError unless input, heads and MLPs sum to the final residual: blocks with norms behind attention or MLP do not.

    Looked at once per model, on one row. The tolerance, 2 % of the residual, is bfloat16's.
    """
    if model in SUMMED:
        return
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    seen: Kept = {}
    row = batch.rows(slice(0, 1))
    with model.hooks(fwd_hooks=capture([last], seen)):
        outputs, _ = run_writers(model, row, "clean")
    total = outputs.input
    for block, z, mlp in zip(model.blocks, outputs.z, outputs.mlp, strict=True):
        total = total + torch.einsum("bphe,hed->bpd", z, block.attn.W_O.detach().float()) + mlp
        bias = getattr(block.attn.o, "bias", None)
        total = total if bias is None else total + bias.detach().float()
    shown = torch.ones_like(row.clean, dtype=torch.bool) if row.clean_mask is None else row.clean_mask
    wanted = seen[last].float()[shown]
    if (total[shown] - wanted).norm() > TOLERANCE * wanted.norm():
        raise ValueError(
            f"{model.cfg.model_name}: input, heads and MLPs do not sum to the final residual (post-norms, parallel or scaled blocks?); "
            "edges of such a model are not known here"
        )
    SUMMED.add(model)


@torch.no_grad()
def locate_not_finite(model: Any, batch: Batch) -> str:
    """Where the first NaN or infinity appears when the batch is run again: side, layer and hook, or that both runs are finite."""
    for side in ("clean", "corrupt"):
        found = _first_not_finite(model, batch, side)
        if found:
            name, count, row = found
            layer = f"layer {name.split('.')[1]}, " if name.startswith("blocks.") else ""
            return f"in the {side} run the first such values are at {layer}hook {name} ({count} of them, row {int(batch.index[row])} first)"
    return "both runs are finite, so it arose between them or in the metric: check the metric, or run in float32"


def _first_not_finite(model: Any, batch: Batch, side: Side) -> tuple[str, int, int] | None:
    found: list[tuple[str, int, int]] = []

    def look(tensor: torch.Tensor, hook: Any) -> None:
        bad = ~tensor.isfinite()
        if not found and bad.any():
            found.append((hook.name, int(bad.sum()), int(bad.nonzero()[0, 0]) if tensor.ndim > 1 else 0))

    in_layers = [f"blocks.{i}.{name}" for i in range(model.cfg.n_layers) for name in IN_LAYER]
    with model.hooks(fwd_hooks=[(name, look) for name in [*in_layers, "ln_final.hook_normalized", "unembed.hook_out"]]):
        batch.logits(model, side)
    return found[0] if found else None
