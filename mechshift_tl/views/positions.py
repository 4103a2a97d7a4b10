"""One clean run per batch, keeping only what stands at the positions that are read.

A *read* is one target position of one row. Reads are numbered as `Readouts.to_dataframe` lists them, so results do not depend on batching.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.bridge.alignment import hidden_tokens
from mechshift_tl.bridge.hooks import Kept
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.readouts import Batch, Readouts, spec_of

#: Default bounds on one batch: its tokens, and the bytes of its logits.
BATCH_TOKENS = 8192
BATCH_LOGIT_BYTES = 512 * 2**20


def default_batch_tokens(model: HookedModel) -> int:
    """Tokens per batch where the caller names none."""
    return max(1, min(BATCH_TOKENS, BATCH_LOGIT_BYTES // (4 * model.cfg.d_vocab)))


def predicting_positions(model: HookedModel, batch: Batch) -> Int[Tensor, "rows k"]:
    """Positions whose raw logits predict the targets: the targets themselves, or one before them under logit shift 1."""
    return batch.target_pos - spec_of(model).logit_shift


def fixed_position(batch: Batch, position: int) -> Int[Tensor, "rows 1"]:
    """The same canvas position in every row, negative ones counted from its end."""
    rows, length = batch.clean.shape
    return torch.full((rows, 1), position % length, device=batch.clean.device)


def read_numbers(readouts: Readouts, batch: Batch) -> Int[Tensor, " reads"]:
    """Number of each of the batch's reads, row by row."""
    first = readouts.n_read.cumsum(0) - readouts.n_read
    return (first[batch.index][:, None] + torch.arange(batch.target_pos.shape[1])).flatten()


@torch.no_grad()
def run_at(
    model: HookedModel, batch: Batch, positions: Int[Tensor, "rows k"], names: Sequence[str]
) -> tuple[Kept, Float[Tensor, "reads d_vocab"]]:
    """Run the clean rows once: each named activation `(reads, …)` and the raw logits, at `positions` (rows × k flattened), in float32."""
    seen: Kept = {}
    rows = torch.arange(len(batch), device=positions.device)[:, None]

    def hook_for(name: str) -> Callable:
        def hook_fn(tensor: Tensor, hook: Any) -> None:
            seen[name] = tensor[rows.to(tensor.device), positions.to(tensor.device)].flatten(0, 1).to(positions.device, torch.float32)

        return hook_fn

    with model.hooks(fwd_hooks=[(name, hook_for(name)) for name in names]):
        logits = model(batch.clean, **hidden_tokens(model, batch.clean_mask))[rows, positions].flatten(0, 1).float()
    return seen, logits
