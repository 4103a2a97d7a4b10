"""The reference's graph file: written, read back, and read as others write it."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch

from mechshift_tl.circuits import Circuit, files, read_graph, read_graph_scores, write_graph
from mechshift_tl.graph import Graph

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
GRAPH = Graph(2, 4, 4)
GROUPED = Graph(2, 4, 2)
CFG = {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}
BY_HAND = {
    "cfg": CFG,
    "nodes": {"input": {"in_graph": True}, "a0.h1": {"in_graph": True}, "m0": {"in_graph": False}, "logits": {"in_graph": True}},
    "edges": {
        "input->a0.h1<k>": {"score": -0.25, "in_graph": True},
        "a0.h1->m0": {"score": 0.125, "in_graph": False},
        "a0.h1->logits": {"score": 0.5, "in_graph": True},
    },
}


def random_scores(scored, graph: Graph):
    return scored(graph, torch.randn(graph.possible.shape, generator=torch.Generator().manual_seed(0)) * graph.possible)


def write_json(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


def tensors(graph: Graph, **changed: object) -> dict[str, object]:
    scores = graph.possible * 0.5
    data = {"cfg": {"n_layers": graph.n_layers, "n_heads": graph.n_heads}, "src_nodes": graph.writers, "dst_nodes": graph.readers}
    return data | {"edges_scores": scores, "edges_in_graph": scores > 0, "nodes_in_graph": torch.ones(len(graph.writers)) > 0} | changed


@pytest.mark.parametrize("suffix", ["json", "pt"])
@pytest.mark.parametrize("graph", [GRAPH, Graph(2, 4, 2, "ungrouped")])
def test_a_circuit_is_read_as_it_was_written(graph, suffix, scored, tmp_path):
    scores = random_scores(scored, graph)
    circuit = Circuit.from_scores(scores, 40)
    write_graph(circuit, tmp_path / f"circuit.{suffix}", scores=scores)
    again = read_graph(tmp_path / f"circuit.{suffix}")
    assert again.graph == graph and again.requested == again.kept == circuit.kept
    assert torch.equal(again.edges, circuit.edges) and torch.equal(again.scores, circuit.scores)
    assert torch.equal(read_graph_scores(tmp_path / f"circuit.{suffix}").matrix, scores.matrix)
    write_graph(circuit, tmp_path / f"alone.{suffix}")
    assert torch.equal(read_graph_scores(tmp_path / f"alone.{suffix}").matrix, circuit.scores)


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_importances_hold_no_circuit_until_one_is_selected(suffix, scored, tmp_path):
    scores, path = random_scores(scored, GRAPH), tmp_path / f"importances.{suffix}"
    write_graph(scores, path)
    with pytest.raises(ValueError, match="holds scores but no edge in the circuit; read them with read_graph_scores"):
        read_graph(path)
    chosen = Circuit.from_scores(read_graph_scores(path), 30)
    assert torch.equal(chosen.edges, Circuit.from_scores(scores, 30).edges)
    write_graph(Circuit.from_scores(scores, 0), path)
    assert read_graph(path).kept == 0
    with pytest.raises(ValueError, match="holds no scores; read its circuit with read_graph"):
        read_graph_scores(path)


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_an_edge_into_a_group_is_written_to_each_of_its_heads(suffix, scored, tmp_path):
    edges = {("input", "a0.g1<v>"): -3.0, ("a0.h3", "a1.h2<q>"): 1.0, ("m0", "a1.g0<k>"): 0.5, ("a1.h2", "logits"): 2.0}
    write_graph(Circuit.from_scores(scored(GROUPED, edges), 4, prune=False), path := tmp_path / f"grouped.{suffix}")
    again = read_graph(path)
    assert again.graph == Graph(2, 4, 2, "ungrouped")
    table = again.to_dataframe()
    assert dict(zip(zip(table["writer"], table["reader"], strict=True), table["score"], strict=True)) == {
        ("input", "a0.h2<v>"): -1.5, ("input", "a0.h3<v>"): -1.5, ("a0.h3", "a1.h2<q>"): 1.0, ("m0", "a1.h0<k>"): 0.25,
        ("m0", "a1.h1<k>"): 0.25, ("a1.h2", "logits"): 2.0,
    }  # fmt: skip


def test_grouped_scores_keep_their_sums_and_components(scored, tmp_path):
    circuit = Circuit.from_scores(random_scores(scored, GROUPED), 50)
    write_graph(circuit, tmp_path / "grouped.pt")
    again = read_graph(tmp_path / "grouped.pt")
    torch.testing.assert_close(again.scores.sum(), circuit.scores.sum())
    torch.testing.assert_close(again.component_scores(), circuit.component_scores())


@pytest.mark.parametrize(("folder", "graph"), [("eap_mha", GRAPH), ("eap_gqa", GROUPED)])
def test_names_and_their_order_are_the_reference_s(folder, graph, scored, tmp_path):
    reference = json.loads((GOLDENS / folder / "reference.json").read_text())
    write_graph(random_scores(scored, graph), tmp_path / "scores.pt")
    write_graph(random_scores(scored, graph), tmp_path / "scores.json")
    data, text = torch.load(tmp_path / "scores.pt", weights_only=True), json.loads((tmp_path / "scores.json").read_text())
    assert (data["src_nodes"], data["dst_nodes"]) == (reference["rows"], reference["columns"])
    assert list(data["edges_scores"].shape) == [len(reference["rows"]), len(reference["columns"])]
    assert len(text["edges"]) == reference["n_edges"]
    assert {tuple(name.split("->")) for name in text["edges"]} <= {(u, v) for u in reference["rows"] for v in reference["columns"]}
    assert list(text["nodes"]) == [*reference["rows"], "logits"]
    cfg = {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 0, "n_key_value_heads": graph.n_kv_heads}
    assert text["cfg"] == data["cfg"] == cfg


def test_nodes_have_an_edge_in_and_an_edge_out(scored, tmp_path):
    edges = {("input", "a0.h1<v>"): 1.0, ("a0.h1", "logits"): 1.0, ("m0", "logits"): 1.0, ("input", "a1.h0<q>"): 1.0}
    write_graph(Circuit.from_scores(scored(GRAPH, edges), 4, prune=False), tmp_path / "circuit.json")
    nodes = json.loads((tmp_path / "circuit.json").read_text())["nodes"]
    assert {name for name, node in nodes.items() if node["in_graph"]} == {"input", "a0.h1", "logits"}


def test_a_file_written_by_hand(tmp_path):
    circuit = read_graph(write_json(tmp_path / "hand.json", BY_HAND))
    assert circuit.graph == Graph(1, 2, 2)
    assert circuit.edge_set() == {("input", "a0.h1<k>"), ("a0.h1", "logits")}
    assert list(circuit.to_dataframe()["score"]) == [0.5, -0.25]
    scores = read_graph_scores(tmp_path / "hand.json", n_kv_heads=1)
    assert scores.graph == Graph(1, 2, 1, "ungrouped")
    assert list(scores.top(3)["score"]) == [0.5, -0.25, 0.125]


def test_membership_without_scores_and_earlier_files(tmp_path):
    """MIB takes circuits without scores; earlier EAP-IG files have one bool per node and may have null scores."""
    edges = {"input->m0": {"in_graph": True}, "m0->logits": {"in_graph": 1, "score": None}, "input->logits": {"in_graph": False}}
    path = write_json(tmp_path / "member.json", {"cfg": CFG, "nodes": {"input": True, "m0": True}, "edges": edges})
    assert read_graph(path).edge_set() == {("input", "m0"), ("m0", "logits")}
    data = tensors(GRAPH)
    del data["edges_scores"]
    torch.save(data, tmp_path / "member.pt")
    assert read_graph(tmp_path / "member.pt").kept == GRAPH.n_edges


def test_a_node_s_whole_row_means_its_possible_edges(tmp_path):
    """Circuits of nodes mark whole rows, edges that cannot exist among them."""
    torch.save(tensors(GRAPH, edges_in_graph=torch.ones(GRAPH.possible.shape).bool()), tmp_path / "nodes.pt")
    assert torch.equal(read_graph(tmp_path / "nodes.pt").edges, GRAPH.possible)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cfg": None}, "has no dictionary 'cfg'"),
        ({"nodes": None}, "has no dictionary 'nodes'"),
        ({"edges": [1]}, "has no dictionary 'edges'"),
        ({"cfg": CFG | {"n_heads": "two"}}, "says that n_heads is 'two'"),
        ({"cfg": CFG | {"parallel_attn_mlp": True}}, "is of a model whose attention and MLP run in parallel"),
        ({"nodes": {"m0": {"in_graph": True, "neurons": [True]}}}, "is of neurons"),
        ({"edges": {"m0->a0.h0<q>": {"in_graph": True}}}, "has an edge 'm0->a0.h0<q>', which a model of 1 layers and 2 heads has not"),
        ({"edges": {"input->m0": {"score": 1.0}}}, "says that in_graph of 'input->m0' is None"),
        ({"edges": {"input->m0": {"in_graph": True, "score": "high"}}}, "says that score of 'input->m0' is 'high'"),
        ({"edges": {"input->m0": True}}, "says that in_graph of 'input->m0' is None"),
        ({"edges": {"input->m0": {"in_graph": 7}}}, "says that in_graph of 'input->m0' is 7"),
        ({"edges": {"input->m0": {"in_graph": True, "score": float("nan")}}}, "says that score of 'input->m0' is nan"),
        ({"edges": {"input->m0": {"in_graph": True, "score": 10**400}}}, "says that score of 'input->m0' is a number of over 60 digits"),
        ({"edges": {"input->m0": {"in_graph": True, "score": 1e300}}}, "holds a score that is not finite"),
        ({"cfg": CFG | {"n_heads": True}}, "says that n_heads is True"),
        ({"cfg": CFG | {"n_layers": 10**6, "n_heads": 10**6}}, "is of a graph that is not known .*over 100000000"),
        ({"cfg": CFG | {"n_heads": 3, "n_key_value_heads": 2}}, "is of a graph that is not known .*3 heads cannot share 2 KV heads"),
    ],
)
def test_what_is_wrong_with_a_json_file_is_said_once(changed, message, tmp_path):
    path = write_json(tmp_path / "bad.json", BY_HAND | changed)
    with pytest.raises(ValueError, match=rf"bad\.json {message}.*; give a file written by") as caught:
        read_graph(path)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"edges_in_graph": torch.ones(2, 2)}, r"holds edges_in_graph \(2, 2\); its graph is \(11, 27\)"),
        ({"edges_in_graph": None}, "holds edges_in_graph None"),
        ({"dst_nodes": ["logits"]}, "has other dst_nodes than a model of 2 layers and 4 heads"),
        ({"neurons_in_graph": torch.ones(11, 8)}, "is of neurons"),
        ({"cfg": Path("x")}, "is damaged, or holds more than tensors and plain values"),
        ({"edges_scores": torch.full(GRAPH.possible.shape, torch.nan)}, "holds a score that is not finite"),
        ({"edges_scores": torch.ones(GRAPH.possible.shape, dtype=torch.complex64)}, "holds edges_scores as torch.complex64"),
        ({"cfg": {"n_layers": 10**9, "n_heads": 10**9}}, "is of a graph that is not known .*over 100000000"),
        ({"extra": bytearray(3)}, "is damaged, or holds more than tensors and plain values"),
    ],
)
def test_what_is_wrong_with_a_tensor_file_is_said_once(changed, message, tmp_path):
    torch.save(tensors(GRAPH, **changed), tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=rf"bad\.pt {message}.*; give a file written by"):
        read_graph(tmp_path / "bad.pt")


def test_files_that_are_something_else_are_refused(scored, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.pt").write_bytes(b"PK not a zip")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save([1], tmp_path / "list.pt")
    for name, message in (
        ("broken.json", "is not JSON"), ("broken.pt", "damaged"), ("empty.pt", "damaged"), ("list.pt", "is no dictionary"),
        ("circuit.csv", r"is neither \.json nor \.pt"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            read_graph(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_graph(tmp_path / "absent.pt")


def repacked(path: Path, compression: int) -> Path:
    """The same parts in a zip of another compression."""
    again = path.with_name(f"again-{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w", compression) as new:
        for part in old.namelist():
            new.writestr(part, old.read(part))
    return again


def test_a_tensor_file_that_unfolds_when_read_is_refused(tmp_path):
    torch.save(tensors(GRAPH), tmp_path / "plain.pt")
    assert read_graph(repacked(tmp_path / "plain.pt", zipfile.ZIP_STORED)).kept == GRAPH.n_edges
    with pytest.raises(ValueError, match="again-plain.pt is compressed, as torch.save never does"):
        read_graph(repacked(tmp_path / "plain.pt", zipfile.ZIP_DEFLATED))


def test_a_pickle_that_names_code_is_refused_before_it_runs(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as file:
        file.writestr("evil/data.pkl", b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
        file.writestr("evil/version", "3")
    with pytest.raises(ValueError, match="which is not unpickled"):
        read_graph(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_pipes_and_large_texts_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="pipe.json is no ordinary file"):
        read_graph(tmp_path / "pipe.json")
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 2**20)
    (tmp_path / "large.json").write_text(" " * (2**20 + 1))
    with pytest.raises(ValueError, match="large.json has 1 MiB of text, over 1; write it as .pt"):
        read_graph(tmp_path / "large.json")


def test_what_cannot_be_written_leaves_no_file(scored, tmp_path):
    scores = random_scores(scored, GRAPH)
    with pytest.raises(ValueError, match=r"circuit\.csv is neither \.json nor \.pt"):
        write_graph(scores, tmp_path / "circuit.csv")
    with pytest.raises(ValueError, match="n_kv_heads 4 and 2"):
        write_graph(Circuit.from_scores(scores), tmp_path / "circuit.pt", scores=random_scores(scored, GROUPED))
    with pytest.raises(ValueError, match=r"not finite \(the first: input → m0 = nan\)"):
        write_graph(scored(GRAPH, {("input", "m0"): float("nan")}), tmp_path / "circuit.json")
    assert not list(tmp_path.iterdir())
