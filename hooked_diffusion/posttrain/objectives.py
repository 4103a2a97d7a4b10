"""The two losses, and the attention mask that opens between them (CHECKPOINTS: DiffuGPT / DiffuLLaMA recipe).

Masked diffusion, per batch of rows x:
1. draw t in (t_min, 1) per row, stratified over the batch so that every noise level is seen in every batch;
2. replace each candidate position by the mask token with probability t;
3. loss = Σ over masked positions of CE / t, divided by the number of candidates: an unbiased estimate of the bound on −log p(x) per token;
4. logits are read one position earlier than the token they predict (shift 1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from hooked_diffusion.posttrain.recipe import Recipe, Rows


def mask_rows(
    rows: Rows, mask_token_id: int, recipe: Recipe, generator: Generator
) -> tuple[Int[Tensor, "batch pos"], Float[Tensor, "batch pos"]]:
    """Noised tokens and the weight of each position in the loss (1/t where masked, 0 elsewhere, divided by the row's candidates).

    Position 0 is never masked: a shifted model cannot predict it.
    """
    batch, pos = rows.tokens.shape
    uniform = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    t = (recipe.t_min + (1 - recipe.t_min) * uniform[torch.randperm(batch, generator=generator)])[:, None]
    whole_row = torch.rand(batch, 1, generator=generator) >= recipe.answer_only
    candidates = rows.is_answer | whole_row
    candidates[:, 0] = False
    masked = candidates & (torch.rand(batch, pos, generator=generator) < t)
    weight = masked / (t * candidates.sum(1, keepdim=True))
    return torch.where(masked, mask_token_id, rows.tokens), weight


def annealed_attention(step: int, anneal_steps: int, pos: int, generator: Generator) -> Bool[Tensor, "1 1 pos pos"] | None:
    """True where a query may look: the causal triangle, and each future position with probability (step + 1) / anneal_steps.

    None once all is open.
    """
    openness = min(1.0, (step + 1) / anneal_steps) if anneal_steps else 1.0
    if openness >= 1.0:
        return None
    causal = torch.ones(pos, pos, dtype=torch.bool).tril()
    return (causal | (torch.rand(pos, pos, generator=generator) < openness))[None, None]


def shifted_cross_entropy(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"], weight: Float[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    """Σ weight · CE of the token at p given the logits at p − 1, divided by the batch size; in nats."""
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), tokens[:, 1:], reduction="none")
    return (losses * weight[:, 1:]).sum() / tokens.shape[0]


def loss(model, rows: Rows, recipe: Recipe, step: int, mask_token_id: int | None, generator: Generator) -> Float[Tensor, ""]:
    """The recipe's loss on one batch, in nats per answer token."""
    if recipe.objective == "next_token":
        weight = torch.where(rows.is_answer, 1.0, recipe.prompt_weight)
        weight = weight / rows.is_answer.sum(1, keepdim=True)
        inputs, attention = rows.tokens, None
    else:
        assert mask_token_id is not None
        inputs, weight = mask_rows(rows, mask_token_id, recipe, generator)
        attention = annealed_attention(step, recipe.anneal_steps, rows.tokens.shape[1], generator)
        attention = None if attention is None else attention.expand(rows.tokens.shape[0], -1, -1, -1)
    logits = model(input_ids=inputs, attention_mask=attention, use_cache=False).logits
    return shifted_cross_entropy(logits, rows.tokens, weight)
