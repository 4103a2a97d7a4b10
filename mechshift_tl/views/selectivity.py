"""How much of a quantity's variance lies between groups, and how much would by chance.

With values a_i in groups g of n_g members,

    η² = Σ_g n_g (mean_g − mean)² / Σ_i (a_i − mean)²          in [0, 1]; 0 where nothing varies

(the correlation ratio; effect size of one-way ANOVA). It is above 0 by chance alone, the more so the more groups there are: over shuffled
labels its mean is exactly (groups − 1)/(n − 1), and its spread depends on the values, so its 95 % point is drawn. The largest of many
columns is larger still; what the head of a sorted list must beat is the 95 % point of the largest.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: A spread below this share of a column's largest value is rounding, not variance.
ROUNDING = 1e-6


def eta_squared(values: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, " d"]:
    """η² of each column for groups `labels` in 0 … g − 1, none empty; in [0, 1]."""
    return _between(_standardized(values), _indicator(labels)).float()


def group_means(values: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "g d"]:
    """Mean of each column in each group."""
    indicator = _indicator(labels)
    return (indicator.T @ values.double() / indicator.sum(0)[:, None]).float()


def expected_by_chance(labels: Int[Tensor, " n"]) -> float:
    """Mean of η² over all ways to shuffle `labels`, the same for every column that varies."""
    return int(labels.max()) / (len(labels) - 1)


def null_95(values: Float[Tensor, "n d"], labels: Int[Tensor, " n"], shuffles: int, seed: int) -> tuple[Float[Tensor, " d"], float]:
    """95 % points of η² over `shuffles` shuffled labels: each column's `(d,)`, and that of the largest column."""
    generator = torch.Generator().manual_seed(seed)
    standardized, indicator = _standardized(values), _indicator(labels)
    shuffled = (indicator[torch.randperm(len(labels), generator=generator)] for _ in range(shuffles))
    draws = torch.stack([_between(standardized, rows).float() for rows in shuffled]).numpy()
    return torch.from_numpy(np.quantile(draws, 0.95, axis=0)).float(), float(np.quantile(draws.max(1), 0.95))


def _indicator(labels: Int[Tensor, " n"]) -> Float[Tensor, "n g"]:
    return torch.nn.functional.one_hot(labels).double()


def _standardized(values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Centred columns of unit length; zero where a column does not vary."""
    values = values.double()
    centred = values - values.mean(0)
    varies = centred.abs().amax(0) > ROUNDING * values.abs().amax(0)
    return torch.where(varies, centred / centred.norm(dim=0).clamp_min(torch.finfo(torch.double).tiny), 0.0)


def _between(standardized: Float[Tensor, "n d"], indicator: Float[Tensor, "n g"]) -> Float[Tensor, " d"]:
    return ((indicator.T @ standardized) ** 2 / indicator.sum(0)[:, None]).sum(0).clamp(0, 1)
