"""The soft top-k mask: σ((s − τ) / T), with the threshold τ at which the masks of all scores sum to k.

As T shrinks it becomes the hard mask of the k largest scores. τ follows the scores, so the gradient only moves scores against each other.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

#: Halvings of the range that holds τ: as far as float32 can tell.
HALVINGS = 40


def soft_top_k(scores: Float[Tensor, " m"], sizes: Float[Tensor, " n"], temperature: float) -> Float[Tensor, "n m"]:
    """A mask in [0, 1] of every score, for each of `sizes` in (0, m); differentiable with respect to the scores, at constant sums."""
    fixed = scores.detach()
    found = threshold(fixed, sizes, temperature)
    slope = torch.sigmoid((fixed - found[:, None]) / temperature)
    slope = slope * (1 - slope)
    # τ moves by the mean of the scores' moves, weighted by how steep each mask is: then the sum stays k.
    weights = slope / slope.sum(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    moved = weights @ (scores - fixed)
    return torch.sigmoid((scores - (found + moved)[:, None]) / temperature)


def threshold(scores: Float[Tensor, " m"], sizes: Float[Tensor, " n"], temperature: float) -> Float[Tensor, " n"]:
    """τ for each size, by bisection: Σ σ((s − τ) / T) = size."""
    low, high = (torch.full_like(sizes, float(end)) for end in scores.aminmax())
    # Beyond these ends no size in (0, m) has its threshold, whatever it is: σ is at most e^x.
    low, high = low - 40 * temperature, high + 40 * temperature
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        more = torch.sigmoid((scores - middle[:, None]) / temperature).sum(1) > sizes
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return (low + high) / 2


def by_rank(strength: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """1 − log rank / log(m + 1) in (0, 1]: the share of sizes, on a log scale from one to all, at which an entry is among the largest.

    The largest entry has rank 1. Of equal entries the first has the lower rank.
    """
    order = strength.argsort(descending=True, stable=True)
    ranks = torch.empty(len(strength), dtype=torch.float64)
    ranks[order.cpu()] = torch.arange(1, len(strength) + 1, dtype=torch.float64)
    return (1 - ranks.log() / torch.tensor(len(strength) + 1.0).double().log()).float()
