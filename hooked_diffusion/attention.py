"""Which positions see which: one boolean mask for direction and padding alike.

TransformerLens rebuilds attention itself: given Hugging Face's two-dimensional padding mask, or none, it may draw its own triangle over it,
while a four-dimensional boolean mask is taken as it is. So whenever anything is hidden, or the direction is not the one the model was built
with, the whole mask is written out here: `mask[b, 0, q, k]` is True where query q sees key k.

1. Positions count visible tokens only (padding shifts nobody): they are what learned and rotary position embeddings get.
2. Direction: "causal" sees positions up to its own, "full" all of them, "block" those up to the end of its block of `block_length`.
3. Hidden keys are seen by nobody but themselves: a row of attention that sees nothing would be NaN, and spread from layer to layer.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Direction = Literal["causal", "full", "block"]


def attention_mask_4d(
    visible: Bool[Tensor, "batch pos"], direction: Direction, block_length: int | None = None
) -> Bool[Tensor, "batch 1 pos pos"]:
    """`(batch, 1, query, key)`, True where the query sees the key; `visible` is False at padding, on either side or in between.

    Raises ValueError on an unknown direction and when "block" comes without a `block_length`. Grows with the square of the length.
    """
    if direction not in get_args(Direction):
        raise ValueError(f"attention direction {direction!r} is unknown; choose one of {', '.join(map(repr, get_args(Direction)))}")
    if direction == "block" and not block_length:
        raise ValueError('attention "block" needs block_length, the number of positions that see each other')
    place = position_ids(visible)
    if direction == "block":
        place = place // (block_length or 1)
    sees = visible[:, None, :].expand(-1, visible.shape[1], -1)
    if direction != "full":
        sees = sees & (place[:, None, :] <= place[:, :, None])
    itself = torch.eye(visible.shape[1], dtype=torch.bool, device=visible.device)
    return (sees | itself)[:, None]


def position_ids(visible: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """`(batch, pos)`: how many visible tokens come before each position; hidden ones repeat the position before them, at least 0."""
    return (visible.long().cumsum(1) - 1).clamp(min=0)


def check_visible(mask: Tensor, shape: tuple[int, ...]) -> Bool[Tensor, "batch pos"]:
    """A padding mask as booleans. Raises ValueError unless it is shaped like the tokens, holds only 0 and 1, and hides no row entirely."""
    if tuple(mask.shape) != shape:
        raise ValueError(f"attention_mask has shape {tuple(mask.shape)}; give one entry per token, {shape}, or a 4D boolean mask")
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("attention_mask holds other values than 0 (hidden) and 1 (visible); pass a boolean mask")
    visible = mask.bool()
    if not visible.any(1).all():
        raise ValueError(f"attention_mask hides all of row {int((~visible.any(1)).nonzero()[0])}; leave the row out instead")
    return visible
