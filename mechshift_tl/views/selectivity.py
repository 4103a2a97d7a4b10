"""η²: the share of a quantity's variance that lies between groups, beside the share that chance alone would give.

With values a_i in groups g of n_g members,

    η² = Σ_g n_g (mean_g − mean)² / Σ_i (a_i − mean)²          in [0, 1]; 0 where nothing varies

(the correlation ratio; the effect size of one-way ANOVA). Chance alone gives an η² above 0, and more of it with more groups. Over shuffled
labels its mean is exactly (groups − 1)/(n − 1). Its 95 % point depends on the values, so it is found by shuffling. The largest η² of many
columns is larger still by chance, so the top of a sorted list is compared with the 95 % point of the largest. A column's `p_corrected` is
the share of shuffles whose largest η² reaches it (single-step max-statistic, Westfall & Young 1993): below 0.05 in any column with
probability 0.05 at most where no column depends on the group, however the columns depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Where a column spreads by less than this share of its largest value, it spreads by rounding alone.
ROUNDING = 1e-6


def eta_squared(values: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, " d"]:
    """`(d,)`: η² of each column, in [0, 1]. `labels` are group numbers 0 … g − 1; no group is empty."""
    return _between(_standardized(values), _indicator(labels)).float()


def group_means(values: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "g d"]:
    """`(g, d)`: mean of each column in each group."""
    indicator = _indicator(labels)
    return (indicator.T @ values.double() / indicator.sum(0)[:, None]).float()


def expected_by_chance(labels: Int[Tensor, " n"]) -> float:
    """Mean η² over all ways to shuffle `labels`, in [0, 1]. It is the same for every column that varies."""
    return int(labels.max()) / (len(labels) - 1)


def null_95(values: Float[Tensor, "n d"], labels: Int[Tensor, " n"], shuffles: int, seed: int) -> tuple[Float[Tensor, " d"], float]:
    """The 95 % point of η² over `shuffles` shuffled labels: of each column, `(d,)`, and of the largest column."""
    draws = torch.stack(list(_shuffled(values, labels, shuffles, seed))).numpy()
    return torch.from_numpy(np.quantile(draws, 0.95, axis=0)).float(), float(np.quantile(draws.max(1), 0.95))


def p_corrected(values: Float[Tensor, "n d"], labels: Int[Tensor, " n"], shuffles: int, seed: int) -> Float[Tensor, " d"]:
    """`(d,)`: p of each column's η², corrected for their number by the largest η² of every shuffle, in [1/(1 + shuffles), 1]."""
    largest = torch.stack([draw.max() for draw in _shuffled(values, labels, shuffles, seed)])
    reached = (largest[:, None] >= eta_squared(values, labels)).sum(0)
    return (1 + reached).float() / (1 + shuffles)


def weighted_eta_squared(
    values: Float[Tensor, "n d"], labels: Int[Tensor, " n"], weights: Float[Tensor, "draws n"]
) -> Float[Tensor, "draws d"]:
    """η² of each column where example i counts `weights[:, i]` times; groups that a draw leaves out do not count.

    A draw with replacement repeats examples, so within a group it varies less: η² over draws lies higher than the sample's. Compare models
    on the same draws only.
    """
    standardized, indicator = _standardized(values), _indicator(labels)
    sums = weights @ standardized
    mean_part = sums**2 / weights.sum(1, keepdim=True)
    between = -mean_part
    for group in indicator.T:
        own = weights * group
        between = between + (own @ standardized) ** 2 / own.sum(1, keepdim=True).clamp_min(1)
    total = weights @ standardized**2 - mean_part
    return (between / total).nan_to_num(0.0).clamp(0, 1)


def _shuffled(values: Float[Tensor, "n d"], labels: Int[Tensor, " n"], shuffles: int, seed: int) -> Iterator[Float[Tensor, " d"]]:
    """η² of each column for one shuffle of the labels after another."""
    generator = torch.Generator().manual_seed(seed)
    standardized, indicator = _standardized(values), _indicator(labels)
    for _ in range(shuffles):
        yield _between(standardized, indicator[torch.randperm(len(labels), generator=generator)]).float()


def _indicator(labels: Int[Tensor, " n"]) -> Float[Tensor, "n g"]:
    return torch.nn.functional.one_hot(labels).double()


def _standardized(values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The columns, centred and of unit length; a column that does not vary is zero."""
    values = values.double()
    centred = values - values.mean(0)
    varies = centred.abs().amax(0) > ROUNDING * values.abs().amax(0)
    return torch.where(varies, centred / centred.norm(dim=0).clamp_min(torch.finfo(torch.double).tiny), 0.0)


def _between(standardized: Float[Tensor, "n d"], indicator: Float[Tensor, "n g"]) -> Float[Tensor, " d"]:
    return ((indicator.T @ standardized) ** 2 / indicator.sum(0)[:, None]).sum(0).clamp(0, 1)
