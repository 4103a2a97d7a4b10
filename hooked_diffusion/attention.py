"""Who sees whom: one boolean mask for both direction and padding.

TransformerLens rebuilds attention itself. Given Hugging Face's two-dimensional padding mask, or none, it may draw its own causal triangle
over it; a four-dimensional boolean mask is used directly. So whenever a token is hidden, or attention points another way than the model
was built for, the whole mask is written out here: `mask[b, 0, q, k]` is True where query q sees key k.

1. Positions count visible tokens only, so padding shifts no token. Learned and rotary position embeddings get these positions.
2. Direction: "causal" sees positions up to its own, "full" all of them, "block" those up to the end of its block of `block_length`.
3. A hidden key is seen by itself alone. If a hidden row saw nothing, its attention would be NaN, and NaN would spread from layer to layer.
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

    Its memory grows with the square of the length. Raises ValueError as `check_direction` does.
    """
    check_direction(direction, block_length)
    place = position_ids(visible)
    if direction == "block":
        place = place // (block_length or 1)
    # Axis 1 is the query, axis 2 the key: a key that is hidden is hidden from every query.
    sees = visible[:, None, :].expand(-1, visible.shape[1], -1)
    if direction != "full":
        sees = sees & (place[:, None, :] <= place[:, :, None])
    # Of every position, hidden or not: a visible position sees itself anyway.
    itself = torch.eye(visible.shape[1], dtype=torch.bool, device=visible.device)
    return (sees | itself)[:, None]


def check_direction(direction: Direction, block_length: int | None) -> None:
    """Raise ValueError on an unknown direction, and on "block" without a `block_length`."""
    if direction not in get_args(Direction):
        raise ValueError(f"attention direction {direction!r} is unknown; choose one of {', '.join(map(repr, get_args(Direction)))}")
    if direction == "block" and not block_length:
        raise ValueError('attention "block" needs block_length, the number of positions that see each other')


def position_ids(visible: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """`(batch, pos)`: how many visible tokens come before each position; hidden ones repeat the position before them, at least 0."""
    # Padding on the left would be at −1, which no position embedding has.
    return (visible.long().cumsum(1) - 1).clamp(min=0)


def visible_tokens(tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None = None) -> Bool[Tensor, "batch pos"]:
    """`(batch, pos)`: `mask` itself, or, without one, True at every token."""
    return torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask


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
