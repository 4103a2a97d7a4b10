"""The outputs of all writers on one batch, measured in one forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechshift_tl.bridge.hooks import EMBED, Hooks, Kept, capture
from mechshift_tl.bridge.protocol import HookedModel, mlp_outputs
from mechshift_tl.bridge.weights import gathered
from mechshift_tl.readouts import Batch, Side


@dataclass(frozen=True, eq=False)
class WriterOutputs:
    """Outputs of all writers on one batch, float32; heads stay in head space, before W_O and without its bias.

    `input (b, pos, d)` is the embedding, positions included; per layer `z (b, pos, head, d_head)` and `mlp (b, pos, d)`.
    """

    input: Float[Tensor, "b pos d"]
    z: tuple[Float[Tensor, "b pos head d_head"], ...]
    mlp: tuple[Float[Tensor, "b pos d"], ...]

    def __sub__(self, other: WriterOutputs) -> WriterOutputs:
        """Writer by writer: clean − corrupt is what attribution multiplies with gradients."""
        pairs = (zip(getattr(self, name), getattr(other, name), strict=True) for name in ("z", "mlp"))
        z, mlp = (tuple(mine - theirs for mine, theirs in pair) for pair in pairs)
        return WriterOutputs(self.input - other.input, z, mlp)

    def rows(self, chosen: slice) -> WriterOutputs:
        """The outputs of some of the rows (views)."""
        return WriterOutputs(self.input[chosen], tuple(z[chosen] for z in self.z), tuple(m[chosen] for m in self.mlp))


@torch.no_grad()
def run_writers(
    model: HookedModel, batch: Batch, side: Side = "clean", hooks: Hooks | None = None
) -> tuple[WriterOutputs, Float[Tensor, "b k d_vocab"]]:
    """One forward of a batch's clean or corrupt rows: every writer's output (0 at hidden tokens), and the aligned logits at the targets.

    `hooks`: others that are to be there, too.
    """
    z, mlp = [f"blocks.{i}.attn.hook_z" for i in range(model.cfg.n_layers)], mlp_outputs(model)
    seen: Kept = {}
    with model.hooks(fwd_hooks=[*capture([EMBED, *z, *mlp], seen), *(hooks or [])]):
        logits = batch.logits(model, side)
    seen = {name: _shown(output.float(), batch.mask(side)) for name, output in gathered(seen, batch.clean.device).items()}
    heads = tuple(seen[name].reshape(*seen[name].shape[:2], model.cfg.n_heads, -1) for name in z)
    # An MLP that is not there writes nothing.
    return WriterOutputs(seen[EMBED], heads, tuple(seen[name] for name in mlp) or (torch.zeros_like(seen[EMBED]),) * len(z)), logits


def run_both_sides(
    model: HookedModel, batch: Batch, hooks: Hooks | None = None
) -> tuple[tuple[WriterOutputs, Tensor], tuple[WriterOutputs, Tensor]]:
    """`run_writers` of clean and corrupt in one forward of twice the rows: the weights are read once."""
    outputs, logits = run_writers(model, batch.stacked(), "clean", hooks)
    rows = len(batch)
    return (outputs.rows(slice(0, rows)), logits[:rows]), (outputs.rows(slice(rows, None)), logits[rows:])


def _shown(output: Float[Tensor, "b pos *d"], mask: Bool[Tensor, "b pos"] | None) -> Float[Tensor, "b pos *d"]:
    """The outputs, with 0 at hidden tokens."""
    return output if mask is None else output.masked_fill(~mask.view(*mask.shape, *[1] * (output.ndim - 2)), 0)
