"""Who sees whom while a model trains, as one boolean mask; None where the model's own attention does it.

Texts that share a row do not see each other. Attention that opens ("annealed", DiffuGPT and DiffuLLaMA) shows each later key with a
probability that rises to 1. Under block-causal attention a row stands twice in the input, once with masks and once without:

- a position of the masked copy sees its own block there, and the blocks before it in the clean copy, as it will when it denoises;
- a position of the clean copy sees the clean copy up to the end of its own block.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from hooked_diffusion.posttrain.recipe import Recipe
from hooked_diffusion.posttrain.rows import Rows


def visibility(rows: Rows, recipe: Recipe, step: int, generator: Generator) -> Bool[Tensor, "batch 1 query key"] | None:
    """`(batch, 1, query, key)`, True where a query sees a key; None where nothing is hidden beyond the model's own direction."""
    if recipe.attention == "block":
        return block_visibility(rows, recipe)
    direction = opened(step, recipe.anneal_steps, rows.tokens.shape[1], generator)
    if rows.segment is None:
        return None if direction is None else direction.expand(len(rows), 1, -1, -1)
    if recipe.attention == "causal":
        direction = torch.ones(rows.tokens.shape[1], rows.tokens.shape[1], dtype=torch.bool).tril()
    together = _same_text(rows)
    return (together if direction is None else together & direction)[:, None]


def opened(step: int, anneal_steps: int, pos: int, generator: Generator) -> Bool[Tensor, "pos pos"] | None:
    """`(pos, pos)`: True where a query sees a key; None once every position sees all others.

    A query sees the keys up to its own position, and each later key with probability (step + 1) / anneal_steps.
    """
    openness = min(1.0, (step + 1) / anneal_steps) if anneal_steps else 1.0
    if openness >= 1.0:
        return None
    causal = torch.ones(pos, pos, dtype=torch.bool).tril()
    # A new draw at every step, shared by the rows of a batch.
    return causal | (torch.rand(pos, pos, generator=generator) < openness)


def block_visibility(rows: Rows, recipe: Recipe) -> Bool[Tensor, "batch 1 double double"]:
    """`(batch, 1, 2 pos, 2 pos)`: of the masked copy, then of the clean copy."""
    block = rows.place // (recipe.block_length or 1)
    query, key = block[:, :, None], block[:, None, :]
    together = _same_text(rows)
    own, before, up_to = together & (query == key), together & (key < query), together & (key <= query)
    top = torch.cat([own, before], 2)
    bottom = torch.cat([torch.zeros_like(own), up_to], 2)
    return torch.cat([top, bottom], 1)[:, None]


def _same_text(rows: Rows) -> Bool[Tensor, "batch pos pos"]:
    """`(batch, pos, pos)`: True within a text; padding sees padding, so that no row of attention is empty."""
    segment = torch.zeros_like(rows.tokens) if rows.segment is None else rows.segment
    return segment[:, :, None] == segment[:, None, :]
