"""Circuits as sets of edges: the laws of sets, and the score that an edge keeps."""

from functools import reduce
from operator import and_, or_

import pytest
import torch

from mechshift_tl.attribution.settings import AttributionSettings
from mechshift_tl.circuits import Circuit
from mechshift_tl.graph import Graph

GRAPH = Graph(2, 4, 2)
ONE = {("input", "m0"): 1.0, ("m0", "logits"): -2.0}
TWO = {("input", "m0"): 5.0, ("input", "a0.g1<v>"): 3.0}


@pytest.fixture
def pair(scored) -> tuple[Circuit, Circuit]:
    one = scored(GRAPH, ONE, settings=AttributionSettings(rule="left"), provenance={"model": "arm"}, n_examples=9)
    two = scored(GRAPH, TWO, settings=AttributionSettings(rule="right"), provenance={"model": "mdm"}, n_examples=9)
    return Circuit.from_scores(one, 2, prune=False), Circuit.from_scores(two, 5, prune=False)


def weighed(circuit: Circuit) -> dict[tuple[str, str], float]:
    table = circuit.to_dataframe()
    return dict(zip(zip(table["writer"], table["reader"], strict=True), table["score"], strict=True))


def test_an_edge_keeps_its_score_and_the_left_one_s_where_both_have_it(pair):
    a, b = pair
    assert weighed(a | b) == TWO | ONE
    assert weighed(b | a) == ONE | TWO
    assert weighed(a & b) == {("input", "m0"): 1.0}
    assert weighed(b & a) == {("input", "m0"): 5.0}
    assert weighed(a - b) == {("m0", "logits"): -2.0}
    assert weighed(b - a) == {("input", "a0.g1<v>"): 3.0}


def test_what_was_requested_is_what_there_is_and_settings_are_the_shared_ones(pair):
    union = pair[0] | pair[1]
    assert (union.requested, union.kept) == (3, 3)
    assert union.settings["metric"] == "logit_diff" and union.settings["operation"] == "union" and "rule" not in union.settings
    assert [one["model"] for one in union.provenance["operands"]] == ["arm", "mdm"]
    assert union.provenance["n_examples"] == 9 and "model" not in union.provenance


def test_the_laws_of_sets(pair, scored):
    matrix = torch.randn(GRAPH.possible.shape, generator=torch.Generator().manual_seed(0)) * GRAPH.possible
    a, b, c = *pair, Circuit.from_scores(scored(GRAPH, matrix), 60)
    assert a.kept + (~a).kept == GRAPH.n_edges
    assert torch.equal((~~c).edges, c.edges)
    assert torch.equal((~(a | c)).edges, (~a & ~c).edges)
    assert torch.equal((c - a).edges, (c & ~a).edges)
    assert torch.equal((a & (b | c)).edges, ((a & b) | (a & c)).edges)
    assert reduce(or_, [a, b, c]).edge_set() == a.edge_set() | b.edge_set() | c.edge_set()
    assert reduce(and_, [c, c, c]).edge_set() == c.edge_set()
    assert torch.equal((c | c).scores, c.scores)


def test_a_complement_scores_zero(scored):
    matrix = torch.randn(GRAPH.possible.shape, generator=torch.Generator().manual_seed(1)) * GRAPH.possible
    outside = ~Circuit.from_scores(scored(GRAPH, matrix, n_examples=4), 60)
    assert not outside.scores.any() and outside.n_examples == 4


def test_circuits_of_different_graphs_do_not_mix(pair, scored):
    other = scored(Graph(2, 4, 4), {("input", "m0"): 1.0})
    with pytest.raises(ValueError, match="n_kv_heads 2 and 4"):
        _ = pair[0] | Circuit.from_scores(other, 1)
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = pair[0] & {("input", "m0")}
