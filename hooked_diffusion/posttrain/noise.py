"""What a masked-diffusion step hides: noise levels, the masked tokens, and how much each of them counts.

1. Draw a noise level t in (t_min, 1) for each text (for each block, where attention is block-causal), spread evenly over the batch, so that
   every batch has low and high levels.
2. Replace each candidate token by the mask with probability t. Candidates are the answer, or the whole text (`Recipe.answer_only`).
3. Weigh each masked token (`Recipe.weighting`). 1/t makes up for how seldom a token is masked: then the loss is an unbiased estimate of the
   bound on −log p(x).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from hooked_diffusion.posttrain.recipe import Recipe
from hooked_diffusion.posttrain.rows import Rows


@dataclass(frozen=True)
class Noised:
    """Rows with masks in them, all `(batch, pos)`.

    `inputs`: what the model reads; `masked`: which tokens it is asked for; `candidates`: which could have been masked; `weight`: of each
    masked token in the loss, 0 elsewhere, before it is averaged.
    """

    inputs: Int[Tensor, "batch pos"]
    masked: Bool[Tensor, "batch pos"]
    candidates: Bool[Tensor, "batch pos"]
    weight: Float[Tensor, "batch pos"]


def add_noise(rows: Rows, mask_token_id: int, recipe: Recipe, generator: Generator) -> Noised:
    """Mask the rows of a step. The first token of a text is never masked where logits are shifted: nothing predicts it."""
    t = noise_levels(rows, recipe, generator)
    # One draw per text.
    everywhere = (torch.rand(rows.n_texts, 1, generator=generator) >= recipe.answer_only)[rows.text, 0]
    candidates = (rows.is_answer | everywhere) & rows.visible
    if recipe.logit_shift:
        candidates = candidates & (rows.place > 0)
    masked = candidates & (torch.rand(rows.tokens.shape, generator=generator) < t)
    return Noised(torch.where(masked, mask_token_id, rows.tokens), masked, candidates, masked * _weights(rows, masked, t, recipe))


def noise_levels(rows: Rows, recipe: Recipe, generator: Generator) -> Float[Tensor, "batch pos"]:
    """`(batch, pos)`: the noise level t of each token, one per text or per block."""
    index, count = rows.text, rows.n_texts
    if recipe.block_length is not None:
        block = rows.place // recipe.block_length
        index = index * (int(block.max()) + 1) + block
        count = int(index.max()) + 1
    # One draw from each of `count` equal parts of (0, 1); the permutation says which text gets which.
    uniform = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (recipe.t_min + (1 - recipe.t_min) * uniform[torch.randperm(count, generator=generator)])[index]


def _weights(
    rows: Rows, masked: Bool[Tensor, "batch pos"], t: Float[Tensor, "batch pos"], recipe: Recipe
) -> Float[Tensor, "batch pos"] | float:
    if recipe.weighting == "1/t":
        return 1 / t
    return cart_weights(rows, masked, recipe.cart_p) if recipe.weighting == "cart" else 1.0


def cart_weights(rows: Rows, masked: Bool[Tensor, "batch pos"], p: float) -> Float[Tensor, "batch pos"]:
    """`(batch, pos)`: ½ Σ p (1 − p)^(d − 1) over the unmasked tokens of the same text that are d ≥ 1 positions away, in [0, 1] (Dream)."""
    at = torch.arange(rows.tokens.shape[1])
    distance = (at[:, None] - at[None, :]).abs()
    near = torch.where(distance > 0, 0.5 * p * (1 - p) ** (distance - 1).clamp(min=0), 0.0)
    same = rows.text[:, :, None] == rows.text[:, None, :]
    seen = (~masked & rows.visible).to(near.dtype)
    return ((near * same) @ seen[:, :, None])[:, :, 0]
