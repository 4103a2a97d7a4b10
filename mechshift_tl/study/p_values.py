"""p-values over draws of prompts, and their correction for how many answers a study gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import nan

from jaxtyping import Float
from torch import Tensor


def p_not_at_least(bound: float, draws: Float[Tensor, " n_boot"]) -> float:
    """How much speaks against a value of `bound` or more: the share of the draws below it, with one added to both counts."""
    return (1 + int((~(draws >= bound)).sum())) / (1 + len(draws))


def p_not_below(bound: float, draws: Float[Tensor, " n_boot"]) -> float:
    """How much speaks against a value below `bound`."""
    return (1 + int((~(draws < bound)).sum())) / (1 + len(draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and is not counted."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p == p)
    corrected, highest = [nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[i] = highest
    return corrected


def p_of_some(p_values: Iterable[float]) -> float:
    """How much speaks against all of several statements: the least p-value times how many there are (Bonferroni), at most 1."""
    found = list(p_values)
    return min(1.0, len(found) * min(found))
