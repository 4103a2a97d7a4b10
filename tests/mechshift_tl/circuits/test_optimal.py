"""The exact choice of edges against every set of edges, and what is refused."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch

from mechshift_tl.circuits import Circuit, optimal
from mechshift_tl.circuits.paths import on_a_path
from mechshift_tl.graph import Graph


def best_of_all(strength: torch.Tensor, graph: Graph, n: int) -> float:
    """The largest sum over all connected sets of at most n possible edges."""
    best, places = 0.0, graph.possible.nonzero()
    for size in range(1, n + 1):
        for chosen in combinations(range(len(places)), size):
            edges = torch.zeros_like(graph.possible)
            edges[tuple(places[list(chosen)].T)] = True
            if torch.equal(on_a_path(edges, graph), edges):
                best = max(best, float(strength[edges].sum()))
    return best


@pytest.mark.parametrize(("graph", "n"), [(Graph(1, 2, 1), 4), (Graph(1, 2, 2), 3), (Graph(2, 1, 1), 3)])
@pytest.mark.parametrize("seed", range(3))
def test_no_connected_set_of_as_many_edges_has_a_larger_sum(graph, n, seed, scored) -> None:
    matrix = torch.randn(graph.shape, generator=torch.Generator().manual_seed(seed)) * graph.possible
    matrix[0, -1] = 0.01  # the one edge that is a path of its own is weak
    circuit = Circuit.from_scores(scored(graph, matrix), n, choose="optimal")
    assert circuit.kept <= n and torch.equal(on_a_path(circuit.edges, graph), circuit.edges)
    assert float(circuit.scores.abs().sum()) == pytest.approx(best_of_all(matrix.abs(), graph, n), abs=1e-6)


def test_it_is_at_least_as_good_as_ranking_and_walking(scored) -> None:
    graph = Graph(4, 4, 2)
    scores = scored(graph, torch.randn(graph.shape, generator=torch.Generator().manual_seed(0)) * graph.possible)
    hows: list[dict[str, Any]] = [{"choose": "optimal"}, {}, {"greedy": True}]
    sums = [float(Circuit.from_scores(scores, 20, **how).scores.abs().sum()) for how in hows]
    assert sums[0] >= max(sums) and sums[0] > 0
    assert Circuit.from_scores(scores, 20, choose="optimal").settings["choose"] == "optimal"
    assert Circuit.from_scores(scores, 0, choose="optimal").kept == 0
    strong = Circuit.from_scores(scores, threshold=1.0, choose="optimal")
    assert strong.kept and strong.scores[strong.edges].abs().min() >= 1


def test_too_many_candidates_are_refused(scored, monkeypatch) -> None:
    graph = Graph(2, 2, 2)
    monkeypatch.setattr(optimal, "MOST_EDGES", 10)
    with pytest.raises(ValueError, match="46 edges are candidates, and an exact choice is made among at most 10"):
        Circuit.from_scores(scored(graph, graph.possible.float()), 5, choose="optimal")
