"""Intervals over examples: drawing examples anew, and the central 95 % of what a statistic is on the draws.

Examples are drawn with replacement; the interval is the 2.5th to the 97.5th percentile of the draws (Efron & Tibshirani 1993). Where
`benchmarks/coverage.py` finds that this holds the truth too rarely, it is the value ± 1.96 standard deviations of the draws.
Every random choice of an analysis comes from a generator of `seeded`, so that one seed gives the same draws everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: The most numbers that the draws of one interval may hold, draws × examples: 64 million are 512 MiB.
MAX_DRAWN = 2**26


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
    # A statistic can be undefined on a draw, such as a correlation of constant values.
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(*[float("nan")] * 3, n_draws=0)
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return Interval(values.mean().item(), low, high, len(values))


def intervals(draws: Iterable[Mapping[str, float]]) -> dict[str, Interval]:
    """One interval per name, from draws that all have the same names."""
    rows = list(draws)
    return {name: interval(row[name] for row in rows) for name in rows[0]}


def normal_interval(value: float, draws: Iterable[float], low: float = -inf, high: float = inf) -> Interval:
    """`value` ± 1.96 standard deviations of the draws, within [low, high]; `mean` is that of the draws. NaN when none is defined.

    For statistics that every draw shifts one way, so that percentiles leave the value out.
    """
    over = interval(values := list(draws))
    if not over.n_draws:
        return over
    spread = 1.96 * float(np.nanstd(values))
    return Interval(over.mean, float(max(low, value - spread)), float(min(high, value + spread)), over.n_draws)


def judged(holds: bool) -> str:
    """The word that begins every verdict: "Supported" where an interval bears the statement out, "Not supported" where it does not."""
    return "Supported" if holds else "Not supported"


def drawn_examples(n: int, n_boot: int, seed: int = 0) -> Int[Tensor, "n_boot n"]:
    """Indices of the `n` examples in each of `n_boot` draws with replacement. Raises ValueError on more draws than memory should hold."""
    if n * n_boot > MAX_DRAWN:
        raise ValueError(f"n_boot is {n_boot}: {n_boot} draws of {n} examples do not fit; give n_boot of at most {MAX_DRAWN // n}")
    return torch.randint(n, (n_boot, n), generator=seeded(seed))


def draw_counts(n: int, n_boot: int, seed: int = 0) -> Float[Tensor, "n_boot n"]:
    """How often each of `n` examples occurs in each draw of `drawn_examples`, float64."""
    drawn = drawn_examples(n, n_boot, seed)
    # With counts, a statistic that is a ratio of sums needs one matrix product for all draws.
    return torch.zeros(n_boot, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(n_boot, n, dtype=torch.float64))


def sample_and_draws(n: int, n_boot: int, seed: int = 0) -> Float[Tensor, "draws_and_1 n"]:
    """`(1 + n_boot, n)`: each example once, which is the sample itself, then its count in every draw of `draw_counts`."""
    return torch.cat([torch.ones(1, n, dtype=torch.float64), draw_counts(n, n_boot, seed)])


def mean_of_redrawn(values: Float[Tensor, "draws_and_1 k"], seed: int = 0) -> Float[Tensor, " draws_and_1"]:
    """The mean over `k` columns: of all of them for the sample, in row 0, and of columns drawn with replacement for each draw.

    So what `k` random controls leave uncertain is in the spread over draws.
    """
    k = values.shape[1]
    chosen = torch.randint(k, values.shape, generator=seeded(seed))
    chosen[0] = torch.arange(k)
    return values.gather(1, chosen).mean(1)


def check_draws(n_boot: int, name: str = "n_boot") -> None:
    """Raise ValueError unless `n_boot`, which the caller knows as `name`, is a whole number of at least 1."""
    # `Integral`, since numpy's integers are no `int`.
    if not isinstance(n_boot, Integral) or n_boot < 1:
        raise ValueError(f"{name} is {n_boot}; an interval needs at least 1 draw of the examples, and some 1000 for its ends")


def seeded(seed: int) -> torch.Generator:
    """A generator of random numbers that starts at `seed`. Raises ValueError where that is no whole number of 64 bits."""
    if not isinstance(seed, Integral) or not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed is {seed!r}; give a whole number from −2⁶³ to 2⁶⁴ − 1")
    return torch.Generator().manual_seed(int(seed))
