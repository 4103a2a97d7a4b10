"""The floor against its closed form."""

import pytest
import torch
from scipy.stats import hypergeom

from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.overlap import expected_jaccard
from mechshift_tl.circuits.random import random_circuits
from mechshift_tl.compare.bounds import floor
from mechshift_tl.graph import Graph

GRAPH = Graph(2, 4, 4)


def in_one_cell(count: int, scored) -> Circuit:
    """`count` of the 65 edges from layer 0 to layer 1."""
    cell = GRAPH.possible & (GRAPH.writer_layers == 0)[:, None] & (GRAPH.reader_layers == 1)
    assert cell.sum() == 65
    return Circuit.from_scores(scored(GRAPH, cell.float()), count, prune=False)


def test_the_jaccard_of_one_cell_is_hypergeometric(scored):
    a, b = in_one_cell(20, scored), in_one_cell(30, scored)
    shared = hypergeom(65, 20, 30)
    mean = shared.expect(lambda i: i / (50 - i))
    low, high = (q / (50 - q) for q in (shared.ppf(0.025), shared.ppf(0.975)))
    spread = floor(a, b, n_random=2000)["edge_jaccard"]
    assert spread.mean == pytest.approx(mean, abs=4 * 0.045 / 2000**0.5)
    assert (spread.low, spread.high) == (pytest.approx(low), pytest.approx(high))
    assert expected_jaccard(a, b) == pytest.approx(mean, abs=0.005)


def test_the_mean_intersection_over_many_cells_is_the_sum_of_the_cells(scored):
    matrices = torch.randn(2, *GRAPH.possible.shape, generator=torch.Generator().manual_seed(0)) * GRAPH.possible
    a, b = (Circuit.from_scores(scored(GRAPH, matrix), 40, prune=False) for matrix in matrices)
    pairs = zip(random_circuits(a, 2000, 0), random_circuits(b, 2000, 1), strict=True)
    shared = sum(int((x.edges & y.edges).sum()) for x, y in pairs) / 2000
    jaccard = expected_jaccard(a, b)
    assert shared == pytest.approx(80 * jaccard / (1 + jaccard), rel=0.02)


def test_equal_circuits_are_redrawn_independently(scored):
    a = in_one_cell(20, scored)
    assert floor(a, a)["edge_jaccard"].mean < 0.3
    everything = Circuit.from_scores(scored(GRAPH, GRAPH.possible.float()), GRAPH.n_edges)
    assert all(spread.low == pytest.approx(1.0) for spread in floor(everything, everything, n_random=5).values())


def test_a_floor_needs_draws(scored):
    a = in_one_cell(20, scored)
    with pytest.raises(ValueError, match="n_random is 0"):
        floor(a, a, n_random=0)
