"""Which edges make a circuit: every setting on hand-made scores, and the greedy walk against a slow one."""

from dataclasses import fields
from typing import Any

import pytest
import torch

from mechshift_tl.attribution import NodeScores
from mechshift_tl.circuits import Circuit, write_graph
from mechshift_tl.circuits.paths import greedy, leading, on_a_path
from mechshift_tl.circuits.select import Selection, default_n, strongest
from mechshift_tl.graph import Graph

PLAIN = Graph(2, 2, 2)
GROUPED = Graph(3, 4, 2)
GRAPHS = [PLAIN, GROUPED, Graph(2, 4, 2, "ungrouped")]
HAND = {("input", "a0.h0<q>"): 3.0, ("a0.h0", "m1"): -2.0, ("m1", "logits"): 4.0, ("input", "logits"): -5.0, ("input", "m0"): 1.0}


def random_matrix(graph: Graph, seed: int) -> torch.Tensor:
    """Scores of every possible edge, many of them equal and some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(graph.possible.shape, generator=generator).mul(4).round() * graph.possible


@pytest.mark.parametrize(("graph", "n"), [(Graph(6, 4, 4), 56), (Graph(1, 1, 1), 1), (Graph(28, 28, 4, "ungrouped"), 1000)])
def test_the_default_size_is_five_percent_rounded_up_and_at_most_a_thousand(graph, n, scored):
    assert default_n(graph) == n
    assert Circuit.from_scores(scored(graph, torch.ones(graph.possible.shape) * graph.possible), prune=False).requested == n


def test_strongest_takes_equal_entries_in_order_and_nothing_that_is_not_above():
    strength = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, -5.0])
    assert strongest(strength, 0).tolist() == [False] * 6
    assert strongest(strength, 1).tolist() == [False, True, False, False, False, False]
    assert strongest(strength, 3).tolist() == [True, True, False, True, False, False]
    assert strongest(strength, 6).tolist() == [True, True, False, True, True, False]
    assert strongest(strength, 6, above=-5.0).tolist() == [True, True, True, True, True, False]


def test_signed_ranking_leaves_what_works_against_the_behaviour_to_the_last(scored):
    def kept(n: int) -> list[float]:
        return list(Circuit.from_scores(scored(PLAIN, HAND), n, by="signed", prune=False).to_dataframe()["score"])

    assert kept(2) == [4.0, 3.0]
    assert kept(4) == [4.0, 3.0, -2.0, 1.0]
    assert kept(46) == [-5.0, 4.0, 3.0, -2.0, 1.0]


def test_a_fraction_is_of_the_possible_edges_rounded_down(scored):
    scores = scored(PLAIN, random_matrix(PLAIN, 0))
    for fraction, n in ((0.0, 0), (0.1, 4), (0.5, 23), (1.0, 46)):
        one, other = Circuit.from_scores(scores, fraction=fraction), Circuit.from_scores(scores, n)
        assert one.requested == n and torch.equal(one.edges, other.edges)
    assert one.settings["fraction"] == 1.0 and "fraction" not in other.settings


def test_a_threshold_takes_what_reaches_it_and_requests_as_many(scored):
    scores = scored(PLAIN, HAND)
    circuit = Circuit.from_scores(scores, threshold=3.0)
    assert circuit.edge_set() == {("input", "logits")}  # m1 → logits and input → a0.h0<q> pass too, on no path
    assert (circuit.requested, circuit.kept) == (3, 1)
    assert Circuit.from_scores(scores, threshold=-2.0, by="signed", prune=False).requested == 4
    assert Circuit.from_scores(scores, threshold=0.0, prune=False).kept == len(HAND)
    assert Circuit.from_scores(scores, threshold=0.0, zeros=True).kept == PLAIN.n_edges


def test_no_edges_make_the_empty_circuit(scored):
    for chosen in (Selection(n=0), Selection(fraction=0.0), Selection(threshold=99.0), Selection(n=0, greedy=True)):
        circuit = Circuit.select(scored(PLAIN, HAND), chosen)
        assert (circuit.requested, circuit.kept) == (0, 0)


def test_zeros_fill_up_what_was_asked_for(scored):
    scores = scored(PLAIN, HAND)
    assert Circuit.from_scores(scores, 46, prune=False).kept == len(HAND)
    assert Circuit.from_scores(scores, 46, zeros=True).kept == PLAIN.n_edges
    assert Circuit.from_scores(scores, 46, zeros=True, greedy=True, by="signed").kept == PLAIN.n_edges


def test_greedy_walks_back_from_the_logits(scored):
    scores = scored(PLAIN, HAND | {("a0.h1", "logits"): 0.5})
    steps = [("input", "logits"), ("m1", "logits"), ("a0.h0", "m1"), ("input", "a0.h0<q>"), ("a0.h1", "logits")]
    for n in range(len(steps) + 1):
        assert Circuit.from_scores(scores, n, greedy=True, prune=False).edge_set() == set(steps[:n])
    assert Circuit.from_scores(scores, 5, greedy=True).edge_set() == set(steps[:4])  # nothing reaches a0.h1
    assert Circuit.from_scores(scores, 6, greedy=True).kept == 4  # input → m0 leads nowhere


def slow_greedy(strength: torch.Tensor, graph: Graph, n: int) -> set[tuple[str, str]]:
    """The definition read literally: look at every candidate each time."""
    taken: set[tuple[str, str]] = set()
    inside = {"logits"}
    ranked = {(graph.writers[u], graph.readers[v]): strength[u, v].item() for u, v in graph.possible.nonzero().tolist()}
    while len(taken) < n:
        candidates = [e for e in ranked if e not in taken and inside & _ends(graph, e[1])]
        if not candidates:
            break
        best = max(candidates, key=lambda edge: ranked[edge])  # the first of equal ones
        taken.add(best)
        inside.add(best[0])
    return taken


def _ends(graph: Graph, reader: str) -> set[str]:
    return set(graph.components_of(reader)) or {"logits"}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("seed", range(3))
def test_greedy_agrees_with_its_definition(graph, seed):
    strength = random_matrix(graph, seed).masked_fill(~graph.possible, -torch.inf)
    for n in (1, 7, 20, graph.n_edges):
        edges = greedy(strength, graph, n)
        assert {(graph.writers[u], graph.readers[v]) for u, v in edges.nonzero().tolist()} == slow_greedy(strength, graph, n)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("by", ["magnitude", "signed"])
def test_greedy_under_a_threshold_is_every_passing_edge_that_leads_to_the_logits(graph, by, scored):
    matrix = random_matrix(graph, 5)
    whole = Circuit.from_scores(scored(graph, matrix), threshold=5.0, by=by, prune=False)
    walked = Circuit.from_scores(scored(graph, matrix), threshold=5.0, by=by, greedy=True, prune=False)
    assert torch.equal(walked.edges, whole.edges & leading(whole.edges, graph))
    pruned = Circuit.from_scores(scored(graph, matrix), threshold=5.0, by=by, greedy=True)
    assert torch.equal(pruned.edges, on_a_path(whole.edges, graph))


@pytest.mark.parametrize("n", [-1, 47])
def test_sizes_beyond_the_graph_are_refused(n, scored):
    with pytest.raises(ValueError, match=f"n is {n}; a circuit of this graph has 0 to 46 edges"):
        Circuit.from_scores(scored(PLAIN, HAND), n)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 3, "fraction": 0.1}, "n=3 and fraction=0.1 were given; keep one"),
        ({"n": 0.05}, "n is 0.05; give a whole number of edges, or fraction=0.05"),
        ({"fraction": 5}, r"fraction is 5; give a share of the possible edges in \[0, 1\], or n=5"),
        ({"threshold": -0.1}, "threshold is -0.1, but no |score| is below 0"),
        ({"threshold": float("nan")}, "threshold is nan; give a finite score"),
        ({"by": "rank"}, "by is 'rank'; rank edges by 'magnitude' or 'signed'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Selection(**settings)


def test_scores_of_nodes_have_no_edges_to_choose_from(scored):
    parts: dict[str, Any] = {f.name: getattr(scored(PLAIN, HAND), f.name) for f in fields(NodeScores)}
    parts["matrix"] = torch.ones(7)
    nodes: Any = NodeScores(**parts)
    with pytest.raises(TypeError, match="scores is a NodeScores; give the EdgeScores that attribute"):
        Circuit.from_scores(nodes)
    with pytest.raises(ValueError, match="writers × readers"):
        write_graph(nodes, "scores.json")
