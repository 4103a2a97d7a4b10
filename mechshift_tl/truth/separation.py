"""How well scores tell true edges from the others: area under the ROC curve, and average precision.

Both take |score|. Scores below a millionth of the largest are rounding and count as equal, and so do all equal scores.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

ROUNDING = 1e-6


def auroc(scores: Float[np.ndarray, " m"], true: Bool[np.ndarray, " m"]) -> float:
    """The chance that a true edge has a larger |score| than another, ties counting half: in [0, 1], 0.5 by chance.

    NaN where all edges are true, or none.
    """
    n_true, n_false = int(true.sum()), int((~true).sum())
    if not n_true or not n_false:
        return float("nan")
    ranks = rankdata(_sizes(scores))
    return float((ranks[true].sum() - n_true * (n_true + 1) / 2) / (n_true * n_false))


def average_precision(scores: Float[np.ndarray, " m"], true: Bool[np.ndarray, " m"]) -> float:
    """The precision, averaged over the true edges as the cut falls from the largest |score|; in [0, 1], the share of true edges = chance.

    Edges of equal |score| are let in together. NaN without a true edge.
    """
    if not true.any():
        return float("nan")
    sizes = _sizes(scores)
    levels = np.unique(sizes)[::-1]
    taken = np.array([(sizes >= level).sum() for level in levels])
    found = np.array([true[sizes >= level].sum() for level in levels])
    return float((np.diff(found, prepend=0) * found / taken).sum() / true.sum())


def _sizes(scores: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    sizes = np.abs(scores)
    return np.where(sizes > ROUNDING * sizes.max(initial=0), sizes, 0.0)
