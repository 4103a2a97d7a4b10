"""Circuits that travel: the graph file of the EAP-IG code (hannamw/EAP-IG, `Graph.to_json` and `Graph.to_pt`), which the MIB circuit
track uses too, both for circuits and for the importances it ranks edges by.

- `.json`: `cfg` (n_layers, n_heads, parallel_attn_mlp, d_model), `nodes` {"a0.h1": {"in_graph": …}}, `edges` {"a0.h1->m3": {"score": …,
  "in_graph": …}}. An edge that the file leaves out is outside and scores 0, and so does one without a score.
- `.pt`: `cfg`, `src_nodes`, `dst_nodes`, `nodes_in_graph (n_writers,)`, `edges_in_graph` and `edges_scores (n_writers, n_readers)`, in the
  order of `Graph.writers` and `Graph.readers`. Tensors and plain values only: nothing else is unpickled.

Their K and V readers are per query head, and so is every file: an edge into a KV group is written to each of its heads with an equal share
of the score, so that sums agree, and is read back as these edges, into a graph with kv="ungrouped". Files hold every edge's score, in the
circuit or not, but do not say how many KV heads the model has; ours add it to `cfg`, where the other readers overlook it. Nodes, which
follow from the edges, are written and not read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.select import check_edges, check_finite
from mechshift_tl.graph import Graph, check_same_graph

GIVE = "give a file written by Graph.to_json or Graph.to_pt of EAP-IG, or by write_graph"


def write_graph(what: Circuit | EdgeScores, path: str | Path, *, scores: EdgeScores | None = None, d_model: int = 0) -> None:
    """Write a circuit, or scores alone (no edge in the circuit: MIB's importances), to `path`, `.json` or `.pt`.

    `scores` are written for all edges, so that others can choose from them again; without them those outside the circuit score 0. `d_model`
    is the model's width, of use to readers of neurons only. Raises ValueError when the suffix is another, the graphs differ, or a score
    is not finite.
    """
    save = {".json": _write_json, ".pt": _write_pt}.get((path := Path(path)).suffix)
    if save is None:
        raise ValueError(f"{path} is neither .json nor .pt; graph files are one of the two")
    if scores is not None:
        check_same_graph(what.graph, scores.graph)
    own, edges = (what.scores, what.edges) if isinstance(what, Circuit) else (what.matrix, torch.zeros_like(what.graph.possible))
    matrix = own if scores is None else scores.matrix
    check_edges(matrix, what.graph)
    check_finite(matrix, what.graph)
    save(path, _File.of(what.graph, edges, matrix), d_model)


def read_graph(path: str | Path, n_kv_heads: int | None = None) -> Circuit:
    """The circuit of a graph file, with the scores of its edges.

    `n_kv_heads` is the model's, where the file does not say; with fewer than query heads the graph is that of kv="ungrouped". Raises
    ValueError when the file is no graph file, is of a graph that `Graph` does not know, or of neurons, or holds scores but no circuit.
    """
    file = _read(path, n_kv_heads)
    if file.scores.any() and not file.edges.any():
        raise ValueError(f"{path} holds scores but no edge in the circuit; read them with read_graph_scores and select a circuit from them")
    scores = file.scores.masked_fill(~file.edges, 0)
    return Circuit(file.graph, file.edges, scores, int(file.edges.sum()), provenance={"file": Path(path).name})


def read_graph_scores(path: str | Path, n_kv_heads: int | None = None) -> EdgeScores:
    """The scores of all edges in a graph file, whichever it has in its circuit; the metric's ends and the examples are not known (NaN, 0).

    Settings and errors as in `read_graph`, and ValueError where every score is 0.
    """
    file, nan = _read(path, n_kv_heads), float("nan")
    if not file.scores.any():
        raise ValueError(f"{path} holds no scores; read its circuit with read_graph")
    parts = {"matrix": file.scores, "per_step": file.scores[None], "steps": [0], "n_read": [0], "clean": nan, "corrupt": nan}
    return EdgeScores(graph=file.graph, **parts, n_examples=0, provenance={"file": Path(path).name})


@dataclass(frozen=True)
class _File:
    """What a graph file says: K and V readers per query head."""

    graph: Graph
    edges: Bool[Tensor, "n_writers n_readers"]
    scores: Float[Tensor, "n_writers n_readers"]

    @classmethod
    def of(cls, graph: Graph, edges: Bool[Tensor, "n_writers n_readers"], scores: Float[Tensor, "n_writers n_readers"]) -> _File:
        """The same with the edges into a K/V group given to each of its heads, with an equal share of the score."""
        size, n_q, n_kv = graph.group_size, graph.n_heads, graph.n_kv_readers
        if size == 1:
            return cls(graph, edges, scores)
        group = torch.arange(n_q) // size
        layer = torch.cat([torch.arange(n_q), n_q + group, n_q + n_kv + group, torch.tensor([n_q + 2 * n_kv])])
        columns = torch.cat([*(start * graph.readers_per_layer + layer for start in range(graph.n_layers)), torch.tensor([-1])])
        shares = torch.tensor([*([1.0] * n_q + [1 / size] * 2 * n_q + [1.0]) * graph.n_layers, 1.0])
        return cls(replace(graph, kv="ungrouped"), edges[:, columns], scores[:, columns] * shares)

    @property
    def nodes(self) -> Bool[Tensor, " n_writers"]:
        """Writers with an edge out of them and, but for input, one into them."""
        entered = self.edges.any(0).float() @ self.graph.membership > 0
        entered[0] = True
        return entered & self.edges.any(1)


def _cfg(graph: Graph, d_model: int) -> dict[str, Any]:
    cfg = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": False, "d_model": d_model}
    return cfg | {"n_key_value_heads": graph.n_kv_heads}


def _write_json(path: Path, file: _File, d_model: int) -> None:
    graph = file.graph
    nodes = {name: {"in_graph": inside} for name, inside in zip(graph.writers, file.nodes.tolist(), strict=True)}
    where = graph.possible.nonzero().tolist()
    inside, scores = file.edges[graph.possible].tolist(), file.scores[graph.possible].tolist()
    edges = {
        f"{graph.writers[u]}->{graph.readers[v]}": {"score": score, "in_graph": within}
        for (u, v), score, within in zip(where, scores, inside, strict=True)
    }
    data = {"cfg": _cfg(graph, d_model), "nodes": nodes | {"logits": {"in_graph": True}}, "edges": edges}
    path.write_text(json.dumps(data), encoding="utf-8")


def _write_pt(path: Path, file: _File, d_model: int) -> None:
    data = {
        "cfg": _cfg(file.graph, d_model), "src_nodes": file.graph.writers, "dst_nodes": file.graph.readers,
        "edges_scores": file.scores.contiguous(), "edges_in_graph": file.edges.contiguous(), "nodes_in_graph": file.nodes,
    }  # fmt: skip
    torch.save(data, path)


def _read(path: str | Path, n_kv_heads: int | None) -> _File:
    path = Path(path)
    load = {".json": _load_json, ".pt": _load_pt}.get(path.suffix)
    if load is None:
        raise ValueError(f"{path} is neither .json nor .pt; {GIVE}")
    try:
        data = load(path)
        if not isinstance(data, dict):
            raise _Malformed("is no dictionary")
        graph = _graph(_part(data, "cfg"), n_kv_heads)
        edges, scores = (_from_json if path.suffix == ".json" else _from_pt)(data, graph)
        return _File(graph, edges & graph.possible, scores.float().masked_fill(~graph.possible, 0))
    except _Malformed as error:
        raise ValueError(f"{path} {error}; {GIVE}") from None


class _Malformed(Exception):
    """What is wrong with a file, to be said of its path."""


def _part(data: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(data.get(name), dict):
        raise _Malformed(f"has no dictionary {name!r}")
    return data[name]


def _graph(cfg: dict[str, Any], n_kv_heads: int | None) -> Graph:
    layers, heads = (_count(cfg, name) for name in ("n_layers", "n_heads"))
    if cfg.get("parallel_attn_mlp"):
        raise _Malformed("is of a model whose attention and MLP run in parallel; only MLPs that read their layer's heads are known")
    n_kv = n_kv_heads or (_count(cfg, "n_key_value_heads") if "n_key_value_heads" in cfg else heads)
    return Graph(layers, heads, n_kv, "grouped" if n_kv == heads else "ungrouped")


def _count(cfg: dict[str, Any], name: str) -> int:
    value = cfg.get(name)
    if not isinstance(value, int) or value < 1:
        raise _Malformed(f"says that {name} is {value!r}")
    return value


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _Malformed(f"is not JSON ({error})") from None


def _load_pt(path: Path) -> Any:
    content = BytesIO(path.read_bytes())
    try:
        return torch.load(content, weights_only=True, map_location="cpu")
    except Exception:  # on damaged bytes torch raises nearly anything
        raise _Malformed("is damaged, or holds more than tensors and plain values, which is not unpickled") from None


def _from_json(data: dict[str, Any], graph: Graph) -> tuple[Tensor, Tensor]:
    if any(isinstance(node, dict) and "neurons" in node for node in _part(data, "nodes").values()):
        raise _Malformed("is of neurons; only circuits of edges are read")
    places = {f"{graph.writers[u]}->{graph.readers[v]}": (u, v) for u, v in graph.possible.nonzero().tolist()}
    found = _part(data, "edges")
    if unknown := next((name for name in found if name not in places), None):
        raise _Malformed(f"has an edge {unknown!r}, which a model of {graph.n_layers} layers and {graph.n_heads} heads has not")
    edges, scores = torch.zeros_like(graph.possible), torch.zeros(graph.possible.shape)
    where = tuple(torch.tensor([places[name] for name in found], dtype=torch.long).view(-1, 2).T)
    edges[where] = torch.tensor([_value(found, name, "in_graph", (bool, int)) for name in found], dtype=torch.bool)
    scores[where] = torch.tensor([_value(found, name, "score", (float, int, type(None))) or 0.0 for name in found])
    return edges, scores


def _value(edges: dict[str, Any], name: str, key: str, kinds: tuple[type, ...]) -> Any:
    value = edges[name].get(key) if isinstance(edges[name], dict) else None
    if not isinstance(value, kinds):
        raise _Malformed(f"says that {key} of {name!r} is {value!r}")
    return value


def _from_pt(data: dict[str, Any], graph: Graph) -> tuple[Tensor, Tensor]:
    if data.get("neurons_in_graph") is not None:
        raise _Malformed("is of neurons; only circuits of edges are read")
    for key, names in (("src_nodes", graph.writers), ("dst_nodes", graph.readers)):
        if list(data.get(key, names)) != names:
            raise _Malformed(f"has other {key} than a model of {graph.n_layers} layers and {graph.n_heads} heads")
    return _matrix(data, "edges_in_graph", graph).bool(), _matrix({"edges_scores": graph.possible * 0.0} | data, "edges_scores", graph)


def _matrix(data: dict[str, Any], key: str, graph: Graph) -> Tensor:
    tensor, shape = data.get(key), tuple(graph.possible.shape)
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
        held = tuple(tensor.shape) if isinstance(tensor, Tensor) else tensor
        raise _Malformed(f"holds {key} {held}; its graph is {shape} writers × readers")
    return tensor
