"""Run the clean rows of a batch once, and keep only the activations at the positions that are read.

A *read* is one target position of one row. Reads have the order of `Readouts.to_dataframe`, so results do not depend on batching.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.bridge.alignment import hidden_tokens
from mechshift_tl.bridge.hooks import Kept, capture
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.readouts import Batch, Readouts


def fixed_position(batch: Batch, position: int) -> Int[Tensor, "rows 1"]:
    """`(rows, 1)`: the same canvas position in every row; a negative one counts from the row's end."""
    rows, length = batch.clean.shape
    return torch.full((rows, 1), position % length, device=batch.clean.device)


def read_numbers(readouts: Readouts, batch: Batch) -> Int[Tensor, " reads"]:
    """`(reads,)`: the number of each read of the batch among all reads, row by row."""
    first = readouts.n_read.cumsum(0) - readouts.n_read
    return (first[batch.index][:, None] + torch.arange(batch.target_pos.shape[1])).flatten()


@torch.no_grad()
def run_at(
    model: HookedModel, batch: Batch, positions: Int[Tensor, "rows k"], names: Sequence[str]
) -> tuple[Kept, Float[Tensor, "reads d_vocab"]]:
    """Each named activation `(reads, …)` and the raw logits at `positions` (rows × k, flattened), in float32. Runs the clean rows once."""
    seen: Kept = {}
    rows = torch.arange(len(batch), device=positions.device)[:, None]

    def taken(tensor: Tensor) -> Tensor:
        return tensor[rows.to(tensor.device), positions.to(tensor.device)].flatten(0, 1).to(positions.device, torch.float32)

    with model.hooks(fwd_hooks=capture(names, seen, take=taken)):
        logits = model(batch.clean, **hidden_tokens(model, batch.clean_mask))[rows, positions].flatten(0, 1).float()
    return seen, logits
