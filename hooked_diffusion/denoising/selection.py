"""What a step predicts, and which positions it commits.

1. Every open position gets a token: the most probable one, or, at temperature T, a draw from softmax(logits / T), cut to `top_p` and then
   to `top_k`. The draw is the Gumbel-max rule in double precision, as in LLaDA's sampler.
2. Every open position gets a score; the highest are committed first. By `select`, the score is the token's probability, Σ p log p (minus
   the entropy, in nats), p₁ − p₂, a uniform draw, or minus the position. With `tempered_scores` p is the distribution that tokens are drawn
   from (Dream's sampler), else the model's own (LLaDA's).
3. Each row commits the positions of the highest scores, and all positions whose token has a p above the threshold. With `alg_temp`, Gumbel
   noise is added to score / alg_temp: the top k are then a draw of k positions without replacement from its softmax (Dream's multinomial).
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
    """What a step would commit at each position, all `(batch, pos)`.

    - `tokens`: token ids.
    - `probability`: of the token, by the model at temperature 1, in [0, 1].
    - `ranked`: the token's probability by the distribution that ranks positions, in [0, 1].
    - `score`: how early the position is committed, higher is earlier; −∞ where it is not open.
    """

    tokens: Int[Tensor, "batch pos"]
    probability: Float[Tensor, "batch pos"]
    ranked: Float[Tensor, "batch pos"]
    score: Float[Tensor, "batch pos"]


def propose(
    logits: Float[Tensor, "batch pos d_vocab"], open_: Bool[Tensor, "batch pos"], settings: DenoisingSettings, generator: Generator
) -> Proposal:
    """A token and a score for every open position, from logits aligned with the tokens they predict."""
    rows = logits[open_]
    # Probabilities in half precision tie where logits differ. At least float32; float64 stays float64.
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    own = rows.softmax(-1)
    # At temperature 0 the token is the argmax, so any divisor will do; 1 avoids dividing by 0.
    drawn = restrict(rows / (settings.temperature or 1), settings.top_p, settings.top_k)
    tokens = drawn.argmax(-1) if settings.temperature == 0 else sample(drawn, generator)
    ranking = drawn.softmax(-1) if settings.tempered_scores else own
    scores = score(ranking, tokens, open_, settings.select, generator)

    def on_canvas(values: Tensor, elsewhere: float) -> Tensor:
        return values.new_full(open_.shape, elsewhere).masked_scatter(open_, values)

    places = (on_canvas(tokens, 0), on_canvas(_at(own, tokens), 0.0), on_canvas(_at(ranking, tokens), 0.0))
    return Proposal(*places, on_canvas(scores, float("-inf")))


def restrict(logits: Float[Tensor, "n d_vocab"], top_p: float, top_k: int | None) -> Float[Tensor, "n d_vocab"]:
    """`(n, d_vocab)`: logits, −∞ outside the smallest set of tokens of total probability `top_p`, then outside the `top_k` likeliest."""
    if top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        # A token stays if the tokens before it hold at most `top_p`: so the one that crosses `top_p` stays too.
        mass_before = ordered.softmax(-1).cumsum(-1).roll(1, -1)
        mass_before[..., 0] = 0  # the likeliest token always stays
        logits = logits.masked_fill((mass_before > top_p).scatter(-1, order, mass_before > top_p), float("-inf"))
    if top_k is not None and top_k < logits.shape[-1]:
        # Tokens that tie with the last of the `top_k` stay as well.
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], float("-inf"))
    return logits


def sample(logits: Float[Tensor, "n d_vocab"], generator: Generator) -> Int[Tensor, " n"]:
    """`(n,)`: one token id per row, drawn from softmax(logits)."""
    return (logits.double() + gumbel(logits, generator)).argmax(-1)


def gumbel(like: Tensor, generator: Generator) -> Float[Tensor, ...]:
    """Standard Gumbel noise shaped like `like`, in double precision: x + noise is largest at i with probability softmax(x)[i]."""
    # Drawn on the CPU, so that every device gets the same numbers.
    uniform = torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like.device)
    # A draw of exactly 0 gives −∞, which is never the largest.
    return -(-uniform.log()).log()


def score(
    probs: Float[Tensor, "n d_vocab"], tokens: Int[Tensor, " n"], open_: Bool[Tensor, "batch pos"], select: str, generator: Generator
) -> Float[Tensor, " n"]:
    """`(n,)`: the score of each open position; higher is committed earlier. Its range depends on `select`, see the module docstring."""
    if select == "confidence":
        return _at(probs, tokens)
    if select == "entropy":
        return (probs * (probs + 1e-10).log()).sum(-1)  # Dream's own offset, so that near-ties fall as in its sampler
    if select == "margin":
        best = probs.topk(2).values
        return best[:, 0] - best[:, 1]
    if select == "random":
        return torch.rand(len(tokens), generator=generator).to(probs)
    # `logits[open_]` and `nonzero` list positions in the same order: row by row, from the left.
    return -open_.nonzero()[:, 1].to(probs)


def choose(
    proposal: Proposal, open_: Bool[Tensor, "batch pos"], quotas: Sequence[int], settings: DenoisingSettings, generator: Generator
) -> Bool[Tensor, "batch pos"]:
    """`(batch, pos)`: True at the `quotas[row]` positions of highest score in each row, and at the open ones above the threshold."""
    scores = proposal.score
    if settings.alg_temp > 0:
        scores = scores.double() / settings.alg_temp + gumbel(scores, generator)
    chosen = torch.zeros_like(open_)
    for row, k in enumerate(quotas):
        if k:
            # Over the whole row, closed positions at −∞: so ties go to the same position as in Dream's and LLaDA's samplers.
            chosen[row, scores[row].topk(k).indices] = True
    return chosen if settings.threshold is None else chosen | (open_ & (proposal.ranked > settings.threshold))


def _at(probs: Float[Tensor, "n d_vocab"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    return probs.gather(-1, tokens[:, None])[:, 0]
