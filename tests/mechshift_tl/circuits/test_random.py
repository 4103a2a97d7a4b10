"""Random circuits: the same counts and scores in every cell, every edge of a cell equally likely."""

import pytest
import torch

from mechshift_tl.circuits import Circuit, random_circuit
from mechshift_tl.circuits.random import _subsets, cell_counts, full_cell_share, random_circuits, random_edges
from mechshift_tl.compare.depth import depth_profile
from mechshift_tl.graph import Graph

GRAPH = Graph(3, 4, 2)


@pytest.fixture
def circuit(scored) -> Circuit:
    matrix = torch.randn(GRAPH.possible.shape, generator=torch.Generator().manual_seed(0)) * GRAPH.possible
    return Circuit.from_scores(scored(GRAPH, matrix), 60)


def test_cells_count_every_possible_edge():
    counts = cell_counts(GRAPH.possible, GRAPH).view(4, 4)
    assert counts.sum() == GRAPH.n_edges
    assert counts[0].tolist() == [9, 9, 9, 1]  # input to each layer's 4 q, 2 k, 2 v and MLP, and to logits
    assert counts[1].tolist() == [4, 45, 45, 5]  # layer 0's heads to its MLP; heads and MLP to later layers


def test_every_cell_keeps_its_count_and_its_scores(circuit):
    for drawn in random_circuits(circuit, 5):
        assert torch.equal(cell_counts(drawn.edges, GRAPH), cell_counts(circuit.edges, GRAPH))
        assert torch.equal(drawn.scores[drawn.edges].sort().values, circuit.scores[circuit.edges].sort().values)
        for at in ("reader", "writer"):
            torch.testing.assert_close(depth_profile(drawn, at=at), depth_profile(circuit, at=at))


def test_every_edge_of_a_cell_is_equally_likely_to_be_drawn_and_to_get_a_score(scored):
    few = {("a0.h0", "a1.h0<q>"): 1.0, ("a0.h0", "a1.h1<q>"): 2.0, ("m0", "m1"): 4.0}
    circuit = Circuit.from_scores(scored(GRAPH, few), 3, prune=False)
    draws = list(random_circuits(circuit, 4000))
    cell = GRAPH.possible & (GRAPH.writer_layers == 0)[:, None] & (GRAPH.reader_layers == 1)
    chance = torch.stack([drawn.edges[cell] for drawn in draws]).float().mean(0)
    mean = torch.stack([drawn.scores[cell] for drawn in draws]).mean(0)
    assert (chance - 3 / 45).abs().max() < 4.5 * (3 / 45 * 42 / 45 / 4000) ** 0.5
    assert (mean - 7 / 45).abs().max() < 4.5 * (21 / 45 / 4000) ** 0.5


@pytest.mark.parametrize("n_draws", [2000, 1], ids=["Floyd's", "a shuffle"])
def test_subsets_are_equally_likely_in_every_order(n_draws):
    """Whichever way is faster: few draws of a large part are shuffled, many of a small one are not."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([_subsets(n_draws, 12, 5, generator) for _ in range(2000 // n_draws)])
    assert all(len(set(row)) == 5 for row in drawn.tolist()) and drawn.min() == 0 and drawn.max() == 11
    for place in range(5):
        share = drawn[:, place].bincount(minlength=12) / 2000
        assert (share - 1 / 12).abs().max() < 4.5 * (11 / 144 / 2000) ** 0.5


def test_the_seed_makes_the_circuit(circuit):
    assert torch.equal(random_circuit(circuit, 3).edges, random_circuit(circuit, 3).edges)
    assert not torch.equal(random_circuit(circuit, 3).edges, random_circuit(circuit, 4).edges)


def test_full_cells_cannot_move(scored):
    edges = {("input", "logits"): 1.0, ("input", "m0"): 1.0}
    circuit = Circuit.from_scores(scored(GRAPH, edges), 2, prune=False)
    assert full_cell_share(circuit) == 0.5
    assert all(("input", "logits") in drawn.edge_set() for drawn in random_circuits(circuit, 20))
    everything = Circuit.from_scores(scored(GRAPH, GRAPH.possible.float()), GRAPH.n_edges)
    assert full_cell_share(everything) == 1.0
    assert torch.equal(random_circuit(everything).edges, everything.edges)


def test_fewer_than_no_draws_are_refused(circuit):
    with pytest.raises(ValueError, match="n_draws is -1; give a whole number, 0 or more"):
        next(random_circuits(circuit, -1))


@pytest.mark.parametrize("n_random", [0, -2, 1.5, None])
def test_random_edges_need_a_whole_number(circuit, n_random):
    with pytest.raises(ValueError, match="n_random is .*; give a whole number of random circuits, at least 1"):
        random_edges(circuit, n_random)


def test_random_edges_are_those_of_random_circuits_and_fit_in_memory(circuit):
    for edges, other in zip(random_edges(circuit, 3, seed=5), random_circuits(circuit, 3, seed=5), strict=True):
        assert torch.equal(edges, other.edges)
    with pytest.raises(ValueError, match="n_random is 1000000000000; of this graph, at most"):
        random_edges(circuit, 10**12)
    with pytest.raises(ValueError, match="1000000000000 draws of .* edges do not fit in memory"):
        next(random_circuits(circuit, 10**12))
