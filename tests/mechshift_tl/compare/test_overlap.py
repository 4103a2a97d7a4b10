"""Overlaps of hand-made circuits."""

import math

import pytest
import torch

from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard, expected_jaccard
from mechshift_tl.compare.overlap import (
    component_jaccard,
    curve_sizes,
    default_k,
    jaccard_curve,
    spearman,
    top_components,
    weighted_jaccard,
)
from mechshift_tl.graph import Graph

GRAPH = Graph(2, 2, 2)
A = {("input", "m0"): 4.0, ("m0", "m1"): 3.0, ("m1", "logits"): 2.0, ("input", "logits"): 1.0}
B = {("input", "m0"): -2.0, ("m0", "m1"): 2.0, ("m0", "logits"): 1.0}


@pytest.fixture
def pair(scored) -> tuple[Circuit, Circuit]:
    return Circuit.from_scores(scored(GRAPH, A), 4), Circuit.from_scores(scored(GRAPH, B), 3, prune=False)


def test_edge_jaccard_counts_shared_edges(pair):
    assert edge_jaccard(*pair) == 2 / 5
    assert edge_jaccard(pair[0], pair[0]) == 1.0


def test_weighted_jaccard_compares_fractions_of_the_total(pair):
    shared = min(4 / 10, 2 / 5) + min(3 / 10, 2 / 5)
    assert weighted_jaccard(*pair) == pytest.approx(shared / (2 - shared))
    a = pair[0]
    assert weighted_jaccard(a, Circuit(GRAPH, a.edges, -3 * a.scores, 4)) == pytest.approx(1.0)


def test_component_jaccard_compares_the_top_k(pair):
    # s(v) of a: m0 7, m1 5; of b: m0 5, m1 2
    assert component_jaccard(*pair, k=1) == 1.0
    assert component_jaccard(*pair, k=6) == 1.0
    assert top_components(pair[1], 6).sum() == 2
    signed = top_components(pair[1], 6, signed=True)  # m0: −2 + 2 + 1, m1: 2
    assert top_components(pair[1], 1, signed=True).tolist() == [False, False, False, False, False, True]
    assert signed.tolist() == top_components(pair[1], 6).tolist()


def test_equal_components_count_in_the_order_of_the_model(scored):
    circuit = Circuit.from_scores(scored(GRAPH, {(head, "logits"): 1.0 for head in ("a1.h1", "a0.h1", "a1.h0")}), 3, prune=False)
    chosen = top_components(circuit, 2)
    assert [name for name, top in zip(GRAPH.components, chosen.tolist(), strict=True) if top] == ["a0.h1", "a1.h0"]


def test_disjoint_circuits_share_nothing(scored):
    a = Circuit.from_scores(scored(GRAPH, {("input", "m0"): 1.0, ("m0", "logits"): 1.0}), 2)
    b = Circuit.from_scores(scored(GRAPH, {("input", "m1"): 1.0, ("m1", "logits"): 1.0}), 2)
    assert (edge_jaccard(a, b), weighted_jaccard(a, b), component_jaccard(a, b)) == (0.0, 0.0, 0.0)


def test_two_empty_circuits_have_no_overlap_to_speak_of(scored):
    empty = Circuit.from_scores(scored(GRAPH, {}), 3)
    assert all(math.isnan(overlap(empty, empty)) for overlap in (edge_jaccard, weighted_jaccard, component_jaccard))


def test_spearman_ranks_signed_scores_where_asked():
    a, b, where = torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([[-3.0, 2.0, 5.0, -9.0]]), torch.tensor([[True, True, True, False]])
    assert spearman(a, b, where) == pytest.approx(1.0)
    assert spearman(a, -b, where) == pytest.approx(-1.0)
    assert spearman(a, b, ~(where & False)) == pytest.approx(-0.2)  # ranks 1 2 3 4 and 2 3 4 1
    assert math.isnan(spearman(a, b, ~where))
    assert math.isnan(spearman(a, torch.zeros_like(b), where))


@pytest.mark.parametrize(("graph", "k"), [(Graph(6, 4, 4), 3), (Graph(28, 28, 4), 82), (Graph(32, 32, 32), 100)])
def test_the_default_k_is_ten_percent_rounded_up_and_at_most_a_hundred(graph, k):
    assert default_k(graph) == k


def test_the_curve_runs_over_halvings_and_doublings(scored):
    assert curve_sizes(8, GRAPH) == [1, 2, 4, 8, 16, 32]
    everything = GRAPH.possible.float()
    curve = jaccard_curve(scored(GRAPH, everything), scored(GRAPH, everything * 2), [12, GRAPH.n_edges], prune=False)
    assert list(curve["n"]) == [12, 46] and list(curve["jaccard"]) == [1.0, 1.0]
    assert curve["expected"][1] == 1.0 and 0 < curve["expected"][0] < 1
    assert list(curve["kept_a"]) == list(curve["kept_b"])


def test_expected_jaccard_by_hand(scored):
    a = Circuit.from_scores(scored(GRAPH, {("input", "m0"): 1.0, ("input", "a0.h0<q>"): 1.0, ("m0", "logits"): 1.0}), 3, prune=False)
    shared = 2 * 2 / 7 + 1 * 1 / 3  # input to layer 0: 7 edges; layer 0 to logits: 3
    assert expected_jaccard(a, a) == pytest.approx(shared / (6 - shared))


def test_graphs_that_differ_are_refused_by_field(scored):
    a, b = (Circuit.from_scores(scored(graph, {("input", "logits"): 1.0}), 1) for graph in (GRAPH, Graph(2, 2, 1)))
    with pytest.raises(ValueError, match="n_kv_heads 2 and 1"):
        edge_jaccard(a, b)


@pytest.mark.parametrize("k", [0, 7])
def test_k_beyond_the_graph_is_refused(pair, k):
    with pytest.raises(ValueError, match=f"k is {k}; the graph has 6 components"):
        component_jaccard(*pair, k=k)
