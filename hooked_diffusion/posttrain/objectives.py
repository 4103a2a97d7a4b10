"""The two losses, and the attention mask that opens from causal to full between them (the recipe of DiffuGPT and DiffuLLaMA).

Masked diffusion, for a batch of rows x:

1. Draw a noise level t in (t_min, 1) for each row, spread evenly over the batch, so that every batch has low and high levels.
2. Replace each candidate position by the mask token with probability t.
3. The loss is Σ CE / t over the masked positions, divided by the number of candidates. It is an unbiased estimate of the bound on
   −log p(x) per token; CE is the cross-entropy.
4. A token is predicted from the logits one position earlier (logit shift 1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from transformers import PreTrainedModel

from hooked_diffusion.posttrain.recipe import Recipe, Rows


def mask_rows(
    rows: Rows, mask_token_id: int, recipe: Recipe, generator: Generator
) -> tuple[Int[Tensor, "batch pos"], Float[Tensor, "batch pos"]]:
    """`(batch, pos)` twice: noised tokens, and each position's weight in the loss (1/t at masks, else 0, over the row's candidates).

    Position 0 is never masked: a shifted model cannot predict it.
    """
    batch, pos = rows.tokens.shape
    # One draw from each of `batch` equal parts of (0, 1); the permutation below says which row gets which.
    uniform = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    t = (recipe.t_min + (1 - recipe.t_min) * uniform[torch.randperm(batch, generator=generator)])[:, None]
    whole_row = torch.rand(batch, 1, generator=generator) >= recipe.answer_only
    candidates = rows.is_answer | whole_row
    candidates[:, 0] = False
    masked = candidates & (torch.rand(batch, pos, generator=generator) < t)
    # 1/t makes up for how seldom a position is masked: the expected weight is the same at every noise level.
    weight = masked / (t * candidates.sum(1, keepdim=True))
    return torch.where(masked, mask_token_id, rows.tokens), weight


def annealed_attention(step: int, anneal_steps: int, pos: int, generator: Generator) -> Bool[Tensor, "1 1 pos pos"] | None:
    """`(1, 1, pos, pos)`: True where a query sees a key; None once every position sees all others.

    A query sees the keys up to its own position, and each later key with probability (step + 1) / anneal_steps.
    """
    openness = min(1.0, (step + 1) / anneal_steps) if anneal_steps else 1.0
    if openness >= 1.0:
        return None
    causal = torch.ones(pos, pos, dtype=torch.bool).tril()
    # A new draw at every step, shared by the rows of a batch.
    return (causal | (torch.rand(pos, pos, generator=generator) < openness))[None, None]


def shifted_cross_entropy(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"], weight: Float[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    """A scalar in nats: Σ weight · CE of the token at p, predicted from the logits at p − 1, divided by the batch size."""
    # Row p − 1 predicts token p, so the last row and the first token have no partner. `cross_entropy` wants classes in axis 1.
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), tokens[:, 1:], reduction="none")
    return (losses * weight[:, 1:]).sum() / tokens.shape[0]


def loss(
    model: PreTrainedModel, rows: Rows, recipe: Recipe, step: int, mask_token_id: int | None, generator: Generator
) -> Float[Tensor, ""]:
    """A scalar: the recipe's loss on one batch, in nats per answer token. Raises ValueError when masks are wanted without a mask id."""
    if recipe.objective == "next_token":
        weight = torch.where(rows.is_answer, 1.0, recipe.prompt_weight)
        weight = weight / rows.is_answer.sum(1, keepdim=True)
        inputs, attention = rows.tokens, None
    else:
        if mask_token_id is None:
            raise ValueError("the objective masked_diffusion writes masks; pass mask_token_id")
        inputs, weight = mask_rows(rows, mask_token_id, recipe, generator)
        attention = annealed_attention(step, recipe.anneal_steps, rows.tokens.shape[1], generator)
        attention = None if attention is None else attention.expand(rows.tokens.shape[0], -1, -1, -1)
    logits = model(input_ids=inputs, attention_mask=attention, use_cache=False).logits
    return shifted_cross_entropy(logits, rows.tokens, weight)
