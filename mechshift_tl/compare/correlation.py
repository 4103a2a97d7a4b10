"""Correlation of two models' log|score| over every edge that can exist: no circuit is cut, so no size decides.

Scores of few prompts are noisy, and noise lowers a correlation whatever the models do. The noise is measured and taken out:

1. Split the prompts into two halves and correlate a model's scores on one with those on the other: r.
2. All prompts together are more reliable than a half: reliability = 2 r / (1 + r) (Spearman 1910, Brown 1910).
3. Divide: corrected = correlation / √(reliability of a · reliability of b) (Spearman 1904).

On a draw of the prompts, copies of one prompt go into the same half: else a half would know the other. The corrected value estimates what
endless prompts of this kind would give. It is not bounded by 1. Noise that both models share, because they read the same prompts, is not
noise to this formula: it makes the corrected value too high, and the more so the fewer the prompts.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.intervals import drawn_examples, seeded

#: Splits of the prompts that the reliability of the sample is a mean over. Each draw of the prompts is split once.
N_SPLITS = 10


def score_correlations(a: EdgeScores, b: EdgeScores) -> dict[str, float]:
    """`score_spearman` and `score_correlation` of log|score|, over all possible edges that score other than 0 in both; in [−1, 1].

    The first is of ranks, the second Pearson's. NaN where fewer than three edges are left.
    """
    x, y = (_logs(one) for one in (a, b))
    return {"score_spearman": _pearson(x, y, ranked=True), "score_correlation": _pearson(x, y)}


def noise_corrected(a: EdgeScores, b: EdgeScores) -> dict[str, float]:
    """`score_correlation_corrected`, `reliability_a` and `reliability_b`, on all prompts. Raises ValueError without per-example parts."""
    generator = seeded(0)
    drawn = torch.arange(a.n_examples)
    splits = [_reliabilities(a, b, drawn, generator) for _ in range(N_SPLITS)]
    return _corrected(a, b, tuple(sum(one) / N_SPLITS for one in zip(*splits, strict=True)))


def noise_corrected_draws(a: EdgeScores, b: EdgeScores, *, n_boot: int, seed: int) -> list[dict[str, float]]:
    """`noise_corrected` on each draw of the prompts, the same draws that `attribution.bootstrap` makes of `n_boot` and `seed`."""
    generator = seeded(seed)
    return [
        _corrected(a.resample(drawn), b.resample(drawn), _reliabilities(a, b, drawn, generator))
        for drawn in drawn_examples(a.n_examples, n_boot, seed)
    ]


def spearman_brown(r: float, times: float = 2.0) -> float:
    """Reliability of a measurement `times` as long as one of reliability `r`, in [−1, 1]."""
    return times * r / (1 + (times - 1) * r)


def _corrected(a: EdgeScores, b: EdgeScores, reliability: tuple[float, ...]) -> dict[str, float]:
    """NaN where a reliability is not above 0: then nothing is known of the scores."""
    known = min(reliability) > 0
    value = score_correlations(a, b)["score_correlation"] / (reliability[0] * reliability[1]) ** 0.5 if known else float("nan")
    return {"score_correlation_corrected": value, "reliability_a": reliability[0], "reliability_b": reliability[1]}


def _reliabilities(a: EdgeScores, b: EdgeScores, drawn: Int[Tensor, " n"], generator: torch.Generator) -> tuple[float, float]:
    """Reliability of each model's log|score| on the prompts `drawn`; NaN where all draws fall into one half."""
    first = torch.rand(a.n_examples, generator=generator).argsort()[drawn] < a.n_examples // 2
    if first.all() or not first.any():
        return float("nan"), float("nan")
    halves = [[_logs(one.resample(drawn[part])) for part in (first, ~first)] for one in (a, b)]
    found = [spearman_brown(_pearson(*pair)) for pair in halves]
    return found[0], found[1]


def _logs(scores: EdgeScores) -> Float[Tensor, " n_edges"]:
    """log|score| of every possible edge, float64; −∞ where it is 0."""
    return scores.matrix[scores.graph.possible].abs().double().log()


def _pearson(x: Float[Tensor, " n_edges"], y: Float[Tensor, " n_edges"], *, ranked: bool = False) -> float:
    both = x.isfinite() & y.isfinite()
    if int(both.sum()) < 3:
        return float("nan")
    pair = [one[both] for one in (x, y)]
    if ranked:
        pair = [torch.from_numpy(rankdata(one.numpy())) for one in pair]
    return torch.corrcoef(torch.stack(pair))[0, 1].item()
