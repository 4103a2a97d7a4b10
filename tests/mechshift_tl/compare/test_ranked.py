"""Rank-biased overlap: against its definition, and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mechshift_tl.circuits import Circuit
from mechshift_tl.compare.ranked import rank_biased_overlap
from mechshift_tl.graph import Graph

GRAPH = Graph(2, 2, 2)


def listed(names: str, scored) -> Circuit:
    """A circuit whose edges, strongest first, are the possible edges numbered by letters."""
    matrix = torch.zeros(GRAPH.possible.shape)
    places = GRAPH.possible.nonzero().tolist()
    for rank, name in enumerate(names):
        row, column = places[ord(name) - ord("a")]
        matrix[row, column] = (-1) ** rank * (100.0 - rank)
    return Circuit.from_scores(scored(GRAPH, matrix), len(names), prune=False)


def by_definition(a: str, b: str, p: float, depth: int = 4000) -> float:
    """(1 − p) Σ p^(d−1) A(d), agreement beyond the lists' ends extrapolated as the paper's section 4 says."""
    short, long = sorted((a, b), key=len)
    at_short = len(set(short) & set(long[: len(short)]))
    total = 0.0
    for d in range(1, depth + 1):
        if d <= len(short):
            found = len(set(short[:d]) & set(long[:d]))
        elif d <= len(long):
            found = len(set(short) & set(long[:d])) + at_short / len(short) * (d - len(short))
        else:
            at_long = len(set(short) & set(long)) + at_short / len(short) * (len(long) - len(short))
            found = at_long / len(long) * d
        total += (1 - p) * p ** (d - 1) * found / d
    return total


@pytest.mark.parametrize(("a", "b"), [("abcdefg", "bacdegf"), ("abcd", "efgh"), ("abcdefgh", "hgab"), ("acb", "abcdefghij")])
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_it_is_the_expected_agreement_of_a_reader_who_walks_down(a, b, p, scored):
    found = rank_biased_overlap(listed(a, scored), listed(b, scored), p)
    assert found == pytest.approx(by_definition(a, b, p), abs=1e-9)
    assert found == pytest.approx(rank_biased_overlap(listed(b, scored), listed(a, scored), p))


def test_the_top_counts_more_than_the_end(scored):
    whole = listed("abcdefgh", scored)
    assert rank_biased_overlap(whole, whole) == pytest.approx(1.0)
    assert rank_biased_overlap(whole, listed("bacdefgh", scored)) < rank_biased_overlap(whole, listed("abcdefhg", scored)) < 1
    assert rank_biased_overlap(whole, listed("ijkl", scored)) == 0.0


def test_what_has_no_overlap_is_nan_or_refused(scored):
    whole = listed("abc", scored)
    assert math.isnan(rank_biased_overlap(whole, listed("", scored)))
    with pytest.raises(ValueError, match="p is 1.0; give the chance to go on"):
        rank_biased_overlap(whole, whole, 1.0)
