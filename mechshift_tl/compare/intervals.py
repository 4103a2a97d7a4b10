"""Intervals over prompts: bootstrap percentile intervals of any statistic of one or more attributions.

Prompts are drawn with replacement, the same ones for every attribution, and the statistic is computed on each draw; the interval is the
2.5th to the 97.5th percentile (Efron & Tibshirani 1993).

Bias: a draw holds about 63 % of the prompts, some repeatedly, so its scores are noisier than the sample's own. Two models' circuits
therefore overlap less on most draws than on the sample, the interval of an overlap lies low and may even exclude the value itself
(`Interval.mean` − value is the bias); noise that both models share on a draw pulls the other way. Read it as the spread, and as a cautious
bound from below; do not subtract the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from mechshift_tl.attribution.scores import EdgeScores


@dataclass(frozen=True)
class Interval:
    """Mean and central 95 % (`low` … `high`) of the draws of a statistic, over the `n_draws` draws on which it is defined (not NaN)."""

    mean: float
    low: float
    high: float
    n_draws: int


def interval(draws: Iterable[float]) -> Interval:
    """The interval of draws; NaN throughout when none is defined."""
    values = np.fromiter(draws, dtype=float)
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(*[float("nan")] * 3, n_draws=0)
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return Interval(values.mean().item(), low, high, len(values))


def intervals(draws: Iterable[Mapping[str, float]]) -> dict[str, Interval]:
    """One interval per name, from draws that all have the same names."""
    rows = list(draws)
    return {name: interval(row[name] for row in rows) for name in rows[0]}


def can_resample(*scores: EdgeScores) -> bool:
    """Whether all hold per-example parts of at least two examples."""
    return all(s.per_example is not None and s.n_examples > 1 for s in scores)


def bootstrap(statistic: Callable[..., Mapping[str, float]], *scores: EdgeScores, n_boot: int = 200, seed: int = 0) -> dict[str, Interval]:
    """95 % percentile intervals over prompts of every value that `statistic(*scores)` names.

    Each draw resamples the examples, the same ones in all of `scores`, which must therefore come from the same examples. Raises ValueError
    when they differ in number, are fewer than two, or have no per-example parts.
    """
    n = scores[0].n_examples
    if any(s.n_examples != n for s in scores):
        raise ValueError(f"paired intervals need the same examples; these come from {', '.join(str(s.n_examples) for s in scores)}")
    if not can_resample(*scores) or n_boot < 1:
        raise ValueError(
            f"n_boot {n_boot}, {n} examples: a bootstrap needs one draw, two examples and scores attributed with keep_per_example=True"
        )
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in tqdm(range(n_boot), desc="bootstrap over prompts", unit="draw", delay=2, leave=False):
        examples = torch.randint(n, (n,), generator=generator)
        draws.append(statistic(*(s.resample(examples) for s in scores)))
    return intervals(draws)
