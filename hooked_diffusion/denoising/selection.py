"""What a step predicts, and which positions it commits.

1. At every position that is open, a token: the most probable, or at temperature T a draw from softmax(logits / T) by the Gumbel-max rule in
   double precision, argmax(logits − T · log(−log u)), as LLaDA draws it.
2. A score per position, higher is committed first: the token's probability, Σ p log p (−entropy, nats), p₁ − p₂, a uniform draw, or the
   negated position. `tempered_scores` takes p from softmax(logits / T) (Dream), else p is the model's own (LLaDA).
3. Per row, the positions of the highest scores. `torch.topk` over the whole row, closed positions at −∞, resolves ties as both samplers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from hooked_diffusion.denoising.settings import DenoisingSettings


@dataclass(frozen=True)
class Proposal:
    """What would be committed where: `tokens`, their `probability` in [0, 1] and `score`, all `(batch, pos)`; score −∞ where closed."""

    tokens: Int[Tensor, "batch pos"]
    probability: Float[Tensor, "batch pos"]
    score: Float[Tensor, "batch pos"]


def propose(
    logits: Float[Tensor, "batch pos d_vocab"], open_: Bool[Tensor, "batch pos"], settings: DenoisingSettings, generator: Generator
) -> Proposal:
    """A token and a score for every open position, from logits aligned with the tokens they predict."""
    rows = logits[open_]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    probs = rows.softmax(-1)
    tokens = sample(rows, settings.temperature, generator)
    tempered = settings.tempered_scores and settings.temperature > 0
    scores = score((rows / settings.temperature).softmax(-1) if tempered else probs, tokens, open_, settings.select, generator)

    def on_canvas(values: Tensor, elsewhere: float) -> Tensor:
        return values.new_full(open_.shape, elsewhere).masked_scatter(open_, values)

    return Proposal(on_canvas(tokens, 0), on_canvas(_at(probs, tokens), 0.0), on_canvas(scores, float("-inf")))


def sample(logits: Float[Tensor, "n d_vocab"], temperature: float, generator: Generator) -> Int[Tensor, " n"]:
    """One token id per row from softmax(logits / temperature); the most probable at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64).to(logits.device)
    return (logits.double() - temperature * (-uniform.log()).log()).argmax(-1)


def score(
    probs: Float[Tensor, "n d_vocab"], tokens: Int[Tensor, " n"], open_: Bool[Tensor, "batch pos"], select: str, generator: Generator
) -> Float[Tensor, " n"]:
    """How early each open position is to be committed: higher is earlier. Range by `select`, see the module docstring."""
    if select == "confidence":
        return _at(probs, tokens)
    if select == "entropy":
        return (probs * (probs + 1e-10).log()).sum(-1)
    if select == "margin":
        best = probs.topk(2).values
        return best[:, 0] - best[:, 1]
    if select == "random":
        return torch.rand(len(tokens), generator=generator).to(probs)
    return -open_.nonzero()[:, 1].to(probs)


def choose(scores: Float[Tensor, "batch pos"], quotas: Sequence[int]) -> Bool[Tensor, "batch pos"]:
    """True at the `quotas[row]` positions of highest score in each row."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    for row, k in enumerate(quotas):
        if k:
            chosen[row, scores[row].topk(k).indices] = True
    return chosen


def _at(probs: Float[Tensor, "n d_vocab"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    return probs.gather(-1, tokens[:, None])[:, 0]
