"""Intervals over examples: how often each draw holds each example, and the central 95 % of what the draws give.

Examples are drawn with replacement; the interval is the 2.5th to the 97.5th percentile (Efron & Tibshirani 1993).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


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


def resamples(n: int, n_boot: int, seed: int = 0) -> Float[Tensor, "n_boot n"]:
    """How often each of `n` examples occurs in each of `n_boot` draws with replacement, float64."""
    drawn = torch.randint(n, (n_boot, n), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(n_boot, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(n_boot, n, dtype=torch.float64))


def check_draws(n_boot: int) -> None:
    """Raises ValueError unless `n_boot` is at least 1."""
    if n_boot < 1:
        raise ValueError(f"n_boot is {n_boot}; an interval needs at least 1 draw of the examples, and some 1000 for its ends")
