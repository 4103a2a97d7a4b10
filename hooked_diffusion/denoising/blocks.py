"""In which block each mask is denoised. Blocks are finished from left to right.

- Without a `block_length` a row is one block.
- With one, a row's masks are cut, in order, into blocks of that many (LLaDA, dllm); the last may be shorter.
- A block-causal model cannot see past its own blocks, which lie on the canvas, counted from the first visible token: they are the blocks,
  or `block_length` cuts them further (Fast-dLLM v2's small blocks). When it also reads a token off the position before (logit shift 1), the
  first position of an attention block is predicted by the finished block before it and by nothing in its own: it is a block by itself, a
  *lead*, committed before the rest, as Fast-dLLM v2 does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_diffusion.attention import position_ids
from hooked_diffusion.spec import DiffusionSpec


@dataclass(frozen=True)
class Blocks:
    """`number (batch, pos)`: each mask's block, from 0 in every row; `masks[row][block]` counts them, `lead[row][block]` marks leads."""

    number: Int[Tensor, "batch pos"]
    masks: tuple[tuple[int, ...], ...]
    lead: tuple[tuple[bool, ...], ...]


def cut(masked: Bool[Tensor, "batch pos"], visible: Bool[Tensor, "batch pos"], spec: DiffusionSpec, block_length: int | None) -> Blocks:
    """The blocks of a canvas. Raises ValueError when `block_length` does not divide the blocks that the attention has."""
    order = masked.cumsum(1) - 1
    key, lead = order // block_length if block_length else torch.zeros_like(order), torch.zeros_like(masked)
    if spec.block_length is not None:
        length = block_length or spec.block_length
        if spec.block_length % length:
            raise ValueError(f"block_length {length} does not divide the {spec.block_length} positions of the model's attention blocks")
        place = position_ids(visible)
        lead = (place % spec.block_length == 0) & (spec.logit_shift == 1)
        key = 2 * (place // length) + (~lead).long()
    number, counts, leads = torch.zeros_like(key), [], []
    for row in range(len(masked)):
        at = masked[row]
        _, number[row, at], count = key[row, at].unique(return_inverse=True, return_counts=True)
        counts.append(tuple(count.tolist()))
        leads.append(tuple(bool((lead[row, at] & (number[row, at] == block)).any()) for block in range(len(count))))
    return Blocks(number, tuple(counts), tuple(leads))
