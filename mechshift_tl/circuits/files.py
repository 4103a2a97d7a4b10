"""Graph files: the format in which the EAP-IG code (hannamw/EAP-IG, `Graph.to_json` and `Graph.to_pt`) and the MIB circuit track exchange
circuits, and the importances by which MIB ranks edges.

- `.json`: `cfg` (n_layers, n_heads, parallel_attn_mlp, d_model), `nodes` {"a0.h1": {"in_graph": …}}, `edges` {"a0.h1->m3": {"score": …,
  "in_graph": …}}. An edge that the file leaves out is outside and scores 0, and so does one without a score.
- `.pt`: `cfg`, `src_nodes`, `dst_nodes`, `nodes_in_graph (n_writers,)`, `edges_in_graph` and `edges_scores (n_writers, n_readers)`, in the
  order of `Graph.writers` and `Graph.readers`. Only tensors and plain values are read from it (`circuits.pt_file`).

In these files K and V readers are per query head. An edge into a KV group is therefore written to each head of the group, with an equal
share of the score, so that sums agree. It is read back as these edges, into a graph with kv="ungrouped". The format has no place for the
number of KV heads; our files add it to `cfg`, where other programs overlook it. Nodes follow from the edges: they are written, not read.

A file may come from anyone. Its counts are checked before anything of their size is made, and NaN is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_diffusion.artefact import shown
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.pt_file import MalformedFile, load_pt
from mechshift_tl.circuits.select import check_edges, check_finite
from mechshift_tl.graph import Graph, check_same_graph

#: The largest `.json` graph file that is read. Python needs some ten times the size of the text.
MAX_JSON_BYTES = 512 * 2**20
GIVE = "give a file written by Graph.to_json or Graph.to_pt of EAP-IG, or by write_graph"


def write_graph(what: Circuit | EdgeScores, path: str | Path, *, scores: EdgeScores | None = None, d_model: int = 0) -> None:
    """Write a circuit, or scores alone (MIB's importances, a file with no edge in the circuit), to `path`, `.json` or `.pt`.

    - `scores`: written for all edges, so that others can choose from them again. Without them, edges outside the circuit score 0.
    - `d_model`: the model's width, which matters only to programs that read neurons.

    Raises ValueError when the suffix is another, the graphs differ, or a score is not finite.
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

    `n_kv_heads` is the model's, where the file does not say it; with fewer KV heads than query heads, the graph has kv="ungrouped".
    Raises ValueError, naming the file, when it is no graph file, is too large, holds neurons, a score that is not finite or scores but no
    circuit, and when its graph is one that `Graph` does not know.
    """
    file = _read(path, n_kv_heads)
    # Importances are written so: all scores, and no edge in the circuit.
    if file.scores.any() and not file.edges.any():
        raise ValueError(f"{path} holds scores but no edge in the circuit; read them with read_graph_scores and select a circuit from them")
    scores = file.scores.masked_fill(~file.edges, 0)
    return Circuit(file.graph, file.edges, scores, int(file.edges.sum()), provenance={"file": Path(path).name})


def read_graph_scores(path: str | Path, n_kv_heads: int | None = None) -> EdgeScores:
    """The scores of all edges in a graph file, in its circuit or not. The file does not say the metric's ends (NaN) and the examples (0).

    `n_kv_heads` and errors are those of `read_graph`; also raises ValueError where every score is 0.
    """
    file, nan = _read(path, n_kv_heads), float("nan")
    if not file.scores.any():
        raise ValueError(f"{path} holds no scores; read its circuit with read_graph")
    parts = {"matrix": file.scores, "per_step": file.scores[None], "steps": [0], "n_read": [0], "clean": nan, "corrupt": nan}
    return EdgeScores(graph=file.graph, **parts, n_examples=0, provenance={"file": Path(path).name})


@dataclass(frozen=True)
class _File:
    """The content of a graph file, with K and V readers per query head."""

    graph: Graph
    edges: Bool[Tensor, "n_writers n_readers"]
    scores: Float[Tensor, "n_writers n_readers"]

    @classmethod
    def of(cls, graph: Graph, edges: Bool[Tensor, "n_writers n_readers"], scores: Float[Tensor, "n_writers n_readers"]) -> _File:
        """The same with the edges into a K/V group given to each of its heads, with an equal share of the score."""
        size, n_q, n_kv = graph.group_size, graph.n_heads, graph.n_kv_readers
        if size == 1:
            return cls(graph, edges, scores)
        # The KV head of each query head.
        group = torch.arange(n_q) // size
        layer = torch.cat([torch.arange(n_q), n_q + group, n_q + n_kv + group, torch.tensor([n_q + 2 * n_kv])])
        columns = torch.cat([*(start * graph.readers_per_layer + layer for start in range(graph.n_layers)), torch.tensor([-1])])
        # K and V are shared by the heads of a group; q, MLP and logits are not.
        shares = torch.tensor([*([1.0] * n_q + [1 / size] * 2 * n_q + [1.0]) * graph.n_layers, 1.0])
        return cls(replace(graph, kv="ungrouped"), edges[:, columns], scores[:, columns] * shares)

    @property
    def nodes(self) -> Bool[Tensor, " n_writers"]:
        """Writers that have an edge out of them and an edge into them; the input needs only an edge out."""
        entered = self.edges.any(0).float() @ self.graph.membership > 0
        # Nothing leads into the input.
        entered[0] = True
        return entered & self.edges.any(1)


def _cfg(graph: Graph, d_model: int) -> dict[str, object]:
    cfg: dict[str, object] = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": False, "d_model": d_model}
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
    load = {".json": _load_json, ".pt": load_pt}.get(path.suffix)
    if load is None:
        raise ValueError(f"{path} is neither .json nor .pt; {GIVE}")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no ordinary file; {GIVE}")
    try:
        data = _dictionary(load(path), "is no dictionary")
        graph = _graph(_part(data, "cfg"), n_kv_heads)
        edges, scores = (_from_json if path.suffix == ".json" else _from_pt)(data, graph)
        # Other programs may fill cells where no edge can be.
        scores = scores.float().masked_fill(~graph.possible, 0)
        if not scores.isfinite().all():
            raise MalformedFile("holds a score that is not finite")
        return _File(graph, edges & graph.possible, scores)
    except MalformedFile as error:
        raise ValueError(f"{path} {error}; {GIVE}") from None


def _dictionary(value: object, otherwise: str) -> dict[str, object]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise MalformedFile(otherwise)
    return cast("dict[str, object]", value)


def _part(data: dict[str, object], name: str) -> dict[str, object]:
    return _dictionary(data.get(name), f"has no dictionary {name!r}")


def _graph(cfg: dict[str, object], n_kv_heads: int | None) -> Graph:
    layers, heads = (_count(cfg, name) for name in ("n_layers", "n_heads"))
    parallel = cfg.get("parallel_attn_mlp")
    if parallel is not None and not isinstance(parallel, int):
        raise MalformedFile(f"says that parallel_attn_mlp is {shown(parallel)}")
    if parallel:
        raise MalformedFile("is of a model whose attention and MLP run in parallel; only MLPs that read their layer's heads are known")
    n_kv = n_kv_heads or (_count(cfg, "n_key_value_heads") if "n_key_value_heads" in cfg else heads)
    try:
        graph = Graph(layers, heads, n_kv, "grouped" if n_kv == heads else "ungrouped")
        graph.check_room()
    except ValueError as error:
        raise MalformedFile(f"is of a graph that is not known ({error})") from None
    return graph


def _count(cfg: dict[str, object], name: str) -> int:
    value = cfg.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise MalformedFile(f"says that {name} is {shown(value)}")
    return value


def _load_json(path: Path) -> object:
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise MalformedFile(f"has {size / 2**20:.0f} MiB of text, over {MAX_JSON_BYTES // 2**20}; write it as .pt")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"is not JSON ({error})") from None


def _from_json(data: dict[str, object], graph: Graph) -> tuple[Tensor, Tensor]:
    if any(isinstance(node, dict) and "neurons" in node for node in _part(data, "nodes").values()):
        raise MalformedFile("is of neurons; only circuits of edges are read")
    found = _part(data, "edges")
    places = torch.tensor(_places(found, graph), dtype=torch.long).view(-1, 2)
    where = tuple(places.T)
    edges, scores = torch.zeros(graph.shape, dtype=torch.bool), torch.zeros(graph.shape)
    edges[where] = torch.tensor([_inside(name, edge) for name, edge in found.items()], dtype=torch.bool)
    scores[where] = torch.tensor([_score(name, edge) for name, edge in found.items()])
    return edges, scores


def _places(names: Iterable[str], graph: Graph) -> list[tuple[int, int]]:
    """Row and column of every edge "writer->reader". Looks names up one by one: a file may name few edges of a large graph."""
    rows = {name: i for i, name in enumerate(graph.writers)}
    columns = {name: i for i, name in enumerate(graph.readers)}
    places = []
    for name in names:
        writer, _, reader = name.partition("->")
        place = (rows.get(writer, -1), columns.get(reader, -1))
        if min(place) < 0 or not graph.possible[place]:
            raise MalformedFile(f"has an edge {shown(name)}, which a model of {graph.n_layers} layers and {graph.n_heads} heads has not")
        places.append(place)
    return places


def _inside(name: str, edge: object) -> bool:
    value = edge.get("in_graph") if isinstance(edge, dict) else None
    if not isinstance(value, int) or value not in (0, 1):
        raise MalformedFile(f"says that in_graph of {shown(name)} is {shown(value)}")
    return bool(value)


def _score(name: str, edge: object) -> float:
    """The score of an edge; 0 where the file gives none."""
    value = edge.get("score") if isinstance(edge, dict) else None
    if value is None:
        return 0.0
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not _is_finite(value):
        raise MalformedFile(f"says that score of {shown(name)} is {shown(value)}")
    return float(value)


def _is_finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _from_pt(data: dict[str, object], graph: Graph) -> tuple[Tensor, Tensor]:
    if data.get("neurons_in_graph") is not None:
        raise MalformedFile("is of neurons; only circuits of edges are read")
    for key, names in (("src_nodes", graph.writers), ("dst_nodes", graph.readers)):
        held = data.get(key, names)
        if not isinstance(held, list) or not all(isinstance(name, str) for name in held) or held != names:
            raise MalformedFile(f"has other {key} than a model of {graph.n_layers} layers and {graph.n_heads} heads")
    edges = _matrix(data, "edges_in_graph", graph)
    return edges.bool(), _matrix(data, "edges_scores", graph) if "edges_scores" in data else torch.zeros(graph.shape)


def _matrix(data: dict[str, object], key: str, graph: Graph) -> Tensor:
    tensor, shape = data.get(key), graph.shape
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
        held = tuple(tensor.shape) if isinstance(tensor, Tensor) else shown(tensor)
        raise MalformedFile(f"holds {key} {held}; its graph is {shape} writers × readers")
    if tensor.is_complex() or tensor.layout != torch.strided or tensor.is_meta:
        raise MalformedFile(f"holds {key} as {tensor.dtype}, {tensor.layout}, on {tensor.device}; give plain numbers")
    return tensor
