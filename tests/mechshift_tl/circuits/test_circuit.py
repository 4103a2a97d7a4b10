"""Circuits of hand-made scores: selection, pruning, component arithmetic, files."""

import networkx as nx
import pytest
import torch
from safetensors.torch import save_file

from hooked_diffusion import artefact
from mechshift_tl.attribution.settings import AttributionSettings
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.paths import on_a_path
from mechshift_tl.graph import Graph

PLAIN = Graph(2, 2, 2)
GROUPED = Graph(2, 4, 2)
PATH = {("input", "a0.h0<q>"): 3.0, ("a0.h0", "m1"): -2.0, ("m1", "logits"): 4.0}


def random_matrix(graph: Graph, seed: int) -> torch.Tensor:
    return torch.randn(graph.possible.shape, generator=torch.Generator().manual_seed(seed)) * graph.possible


def test_the_largest_magnitudes_are_kept_with_their_signs(scored):
    circuit = Circuit.from_scores(scored(PLAIN, PATH | {("input", "logits"): 1.0}), 3)
    assert circuit.edge_set() == PATH.keys()
    assert (circuit.requested, circuit.kept, len(circuit)) == (3, 3, 3)
    table = circuit.to_dataframe()
    assert list(table["reader"]) == ["logits", "a0.h0<q>", "m1"]
    assert list(table["score"]) == [4.0, 3.0, -2.0]
    assert list(table["writer_layer"]) == [1, -1, 0]
    assert list(table["reader_layer"]) == [2, 0, 1]


def test_edges_that_cannot_exist_or_score_zero_never_enter(scored):
    matrix = torch.full(PLAIN.possible.shape, 9.0).masked_fill(PLAIN.possible, 0.0)
    matrix[0, 0] = 1.0
    circuit = Circuit.from_scores(scored(PLAIN, matrix), 10, prune=False)
    assert circuit.edge_set() == {("input", "a0.h0<q>")}
    assert (circuit.requested, circuit.kept) == (10, 1)


def test_pruning_drops_what_nothing_reaches_and_what_leads_nowhere(scored):
    dangling = {("a0.h1", "logits"): 5.0, ("input", "a1.h0<v>"): 6.0, ("m0", "a1.h0<q>"): 7.0}
    scores = scored(PLAIN, PATH | dangling)
    assert Circuit.from_scores(scores, 6).edge_set() == PATH.keys()
    assert Circuit.from_scores(scores, 6, prune=False).edge_set() == (PATH | dangling).keys()


def test_a_path_enters_a_group_and_leaves_by_any_of_its_heads(scored):
    kept = {("input", "a0.g0<k>"): 1.0, ("a0.h1", "logits"): 1.0, ("a0.h0", "a1.g1<v>"): 1.0, ("a1.h3", "logits"): 1.0}
    dropped = {("a0.h2", "logits"): 1.0, ("input", "a1.g0<v>"): 1.0}
    assert Circuit.from_scores(scored(GROUPED, kept | dropped), 6).edge_set() == kept.keys()


@pytest.mark.parametrize("graph", [PLAIN, GROUPED, Graph(3, 4, 2, "ungrouped")])
@pytest.mark.parametrize("seed", range(5))
def test_pruning_agrees_with_networkx(graph, seed, scored):
    whole = Circuit.from_scores(scored(graph, random_matrix(graph, seed)), graph.n_edges // 6, prune=False)
    net = whole.to_networkx()
    reached, leading = {"input"} | nx.descendants(net, "input"), {"logits"} | nx.ancestors(net, "logits")
    expected = {
        (u, v) for u, v in whole.edge_set() if u in reached and any(target in leading for target in graph.components_of(v) or ["logits"])
    }
    pruned = Circuit(graph, edges := on_a_path(whole.edges, graph), whole.scores * edges, whole.requested)
    assert pruned.edge_set() == expected


def test_component_scores_are_what_enters_and_what_leaves(scored):
    circuit = Circuit.from_scores(scored(PLAIN, PATH), 3)
    table = circuit.components.set_index("component")
    assert table.loc["m1"].to_dict() == {"layer": 1, "score": 6.0, "signed": 2.0, "source": 4.0, "sink": 2.0}
    assert table.loc["a0.h0"].to_dict() == {"layer": 0, "score": 5.0, "signed": 1.0, "source": 2.0, "sink": 3.0}
    assert list(table.index) == ["m1", "a0.h0"]
    assert circuit.component_scores(signed=True).sum().item() == 3.0


def test_an_edge_into_a_group_is_shared_equally_by_its_heads(scored):
    circuit = Circuit.from_scores(scored(GROUPED, {("input", "a0.g1<v>"): -2.0, ("a0.h3", "logits"): 1.0}), 2)
    assert dict(zip(GROUPED.components, circuit.sinks.tolist(), strict=True))["a0.h2"] == 1.0
    assert list(circuit.components["component"]) == ["a0.h3", "a0.h2"]
    assert list(circuit.components["score"]) == [2.0, 1.0]


@pytest.mark.parametrize("graph", [PLAIN, GROUPED])
def test_the_network_s_weights_are_the_component_scores(graph, scored):
    circuit = Circuit.from_scores(scored(graph, random_matrix(graph, 0)), 30)
    net = circuit.to_networkx()
    assert net.nodes["logits"]["layer"] == 2 and net.nodes["input"]["layer"] == -1
    assert {(u, reader) for u, _, reader in net.edges(keys=True)} == circuit.edge_set()
    for component, score in circuit.components.set_index("component")["score"].items():
        around = [*net.in_edges(component, data="score"), *net.out_edges(component, data="score")]
        assert sum(abs(weight) for *_, weight in around) == pytest.approx(score)


def test_save_and_load_return_the_same_circuit(scored, tmp_path):
    scores = scored(
        GROUPED, random_matrix(GROUPED, 1), settings=AttributionSettings(metric="logit_diff"), provenance={"model": "m"}, n_examples=7
    )
    circuit = Circuit.from_scores(scores, 20)
    circuit.save(tmp_path / "circuit.safetensors")
    again = Circuit.load(tmp_path / "circuit.safetensors")
    assert torch.equal(again.edges, circuit.edges) and torch.equal(again.scores, circuit.scores)
    assert (again.graph, again.requested) == (circuit.graph, circuit.requested)
    assert again.settings == scores.made_by() | {"by": "magnitude", "greedy": False, "zeros": False, "prune": True, "choose": "strongest"}
    assert again.settings["metric"] == "logit_diff"
    assert again.provenance == {"model": "m", "n_examples": 7}
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no circuit"):
        Circuit.load(tmp_path / "other.safetensors")


def test_a_notebook_shows_counts_and_the_strongest_edges(scored):
    html = Circuit.from_scores(scored(PLAIN, PATH), 5)._repr_html_()
    assert "3 of 5 requested edges, 2 of 6 components" in html and "a0.h0&lt;q&gt;" in html


def test_scores_that_are_not_finite_are_refused_by_name(scored):
    with pytest.raises(ValueError, match=r"1 of 46 edge scores are not finite \(the first: a0.h0 → m1 = nan\)"):
        Circuit.from_scores(scored(PLAIN, PATH | {("a0.h0", "m1"): float("nan")}), 3)


def test_tensors_that_do_not_fit_are_refused():
    possible, zeros = PLAIN.possible, torch.zeros(PLAIN.possible.shape)
    with pytest.raises(ValueError, match="edges is"):
        Circuit(PLAIN, possible[:2], zeros, 1)
    with pytest.raises(ValueError, match="cannot exist"):
        Circuit(PLAIN, ~possible, zeros, 1)
    with pytest.raises(ValueError, match="edges is torch.float32; give a bool mask"):
        Circuit(PLAIN, possible.float(), zeros, 1)
    with pytest.raises(ValueError, match="not zero outside"):
        Circuit(PLAIN, possible & False, zeros + 1, 1)


def test_a_circuit_s_header_is_held_against_its_edges(scored, tmp_path):
    """A header may name a graph of any size: nothing of that size is made unless it fits in memory and the edges fit the graph."""
    circuit = Circuit.from_scores(scored(GROUPED, random_matrix(GROUPED, 1)), 20)
    circuit.save(tmp_path / "good")
    tensors, values = artefact.read(tmp_path / "good", "circuit", "Circuit.save")
    graph = values["graph"]
    for name, (changed, message) in {
        "huge": (graph | {"n_layers": 10**9}, "1000000000 layers of 4 heads have .*over 100000000"),
        "small": (graph | {"n_layers": 1}, "edges holds an index outside the graph's 6 writers × 10 readers"),
        "none": (graph | {"n_heads": 0}, "n_heads is 0; give a whole number of at least 1"),
        "text": (graph | {"n_heads": "4"}, "graph.n_heads is '4', not int"),
    }.items():
        artefact.write(tmp_path / name, "circuit", tensors, values | {"graph": changed})
        with pytest.raises(ValueError, match=f"{name} is damaged: .*{message}.*; give a file written by Circuit.save"):
            Circuit.load(tmp_path / name)
