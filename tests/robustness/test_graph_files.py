"""Graph files of EAP-IG and MIB from anyone: read, or refused in one line, whatever they hold."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from mechshift_tl.circuits import read_graph, read_graph_scores
from mechshift_tl.graph import Graph

from .mutations import VALUES, damaged, every, mutated

GRAPH = Graph(2, 2, 2)
CFG = {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8, "n_key_value_heads": 2}
EDGES = {
    "input->a0.h1<k>": {"score": -0.25, "in_graph": True},
    "a0.h1->m1": {"score": 0.5, "in_graph": False},
    "m1->logits": {"in_graph": True},
}
DOCUMENT = {"cfg": CFG, "nodes": {"input": {"in_graph": True}, "m1": True}, "edges": EDGES}
ALL = GRAPH.possible * 0.5
TENSORS = {
    "cfg": CFG, "src_nodes": GRAPH.writers, "dst_nodes": GRAPH.readers, "edges_scores": ALL, "edges_in_graph": ALL > 0,
    "nodes_in_graph": torch.ones(7) > 0,
}  # fmt: skip
OTHER_TENSORS = st.sampled_from(
    [
        torch.ones(2),
        torch.zeros(0),
        torch.full(GRAPH.shape, torch.nan),
        torch.ones(GRAPH.shape).long(),
        torch.ones(GRAPH.shape).half(),
        torch.ones(GRAPH.shape, dtype=torch.complex64),
        torch.ones(1).expand(10**5, 10**5),
        torch.eye(3).to_sparse(),
    ]
)
COUNTS = [pytest.param(10, id="few"), pytest.param(400, id="many", marks=pytest.mark.slow)]


@pytest.fixture
def read_both(serve: Callable[..., None]) -> Callable[[Path], None]:
    """Reads the circuit, and the scores: a file that lacks one of them may still hold the other."""

    def read(path: Path) -> None:
        serve(path, read_graph)
        serve(path, read_graph_scores)

    return read


@pytest.mark.parametrize("n", COUNTS)
def test_json_of_any_content(read_both, tmp_path: Path, n: int) -> None:
    path = tmp_path / "graph.json"

    def check(document: Any) -> None:
        path.write_text(json.dumps(document), encoding="utf-8")
        read_both(path)

    every(mutated(DOCUMENT), check, n)


@pytest.mark.parametrize("n", COUNTS)
def test_json_of_damaged_bytes(read_both, tmp_path: Path, n: int) -> None:
    path = tmp_path / "graph.json"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        read_both(path)

    every(damaged(json.dumps(DOCUMENT).encode()), check, n)


@pytest.mark.parametrize("n", COUNTS)
def test_tensors_of_any_kind(read_both, tmp_path: Path, n: int) -> None:
    path = tmp_path / "graph.pt"

    def check(data: Any) -> None:
        torch.save(data, path)
        read_both(path)

    every(mutated(TENSORS, VALUES | OTHER_TENSORS), check, n)


@pytest.mark.parametrize("n", COUNTS)
def test_tensor_files_of_damaged_bytes(read_both, tmp_path: Path, n: int) -> None:
    path, whole = tmp_path / "graph.pt", io.BytesIO()
    torch.save(TENSORS, whole)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        read_both(path)

    every(damaged(whole.getvalue()), check, n)
