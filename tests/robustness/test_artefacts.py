"""Results on disk from anyone: every kind is loaded, or refused in one line, whatever its header and its tensors hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from hooked_diffusion import artefact
from hooked_diffusion.artefact import Artefact
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.circuits import Circuit
from mechshift_tl.compare import CircuitComparison, compare
from mechshift_tl.evaluation.curve import Area, FaithfulnessCurve
from mechshift_tl.evaluation.evaluate import Check, CircuitEvaluation
from mechshift_tl.evaluation.transfer import Transfer, Transfers
from mechshift_tl.evaluation.validity import Validity
from mechshift_tl.graph import Graph

from .mutations import VALUES, damaged, every, mutated

GRAPH = Graph(2, 2, 2)
COUNTS = [pytest.param(3, id="few"), pytest.param(60, id="many", marks=pytest.mark.slow)]
OTHER_TENSORS = st.sampled_from(
    [
        torch.ones(2),
        torch.full((3, 2), -1),
        torch.full((3, 2), 10**9),
        torch.full((3,), torch.nan),
        torch.zeros(0, 2).long(),
        torch.ones(7, 15).half(),
    ]
)


def scores() -> EdgeScores:
    """Scores of three examples."""
    per_example = torch.randn(3, *GRAPH.shape, generator=torch.Generator().manual_seed(0)) * GRAPH.possible
    matrix, ones = per_example.mean(0), torch.ones(3, dtype=torch.long)
    return EdgeScores(
        matrix=matrix, graph=GRAPH, per_step=matrix[None], steps=[0], n_read=[3], clean=1.0, corrupt=0.0, n_examples=3,
        per_example=per_example, ends_per_example=torch.ones(2, 3), read_per_example=ones, provenance={"model": {"name": "m"}},
    )  # fmt: skip


def curve() -> FaithfulnessCurve:
    """A curve of two sizes."""
    numbers = ("requested", "kept", "share", "faithfulness", "low", "high", "accuracy", "random", "random_low", "random_high")
    table = pd.DataFrame({"rank": ["signed", "magnitude"], **{name: [1.0, 2.0] for name in numbers}}).astype({"kept": int})
    area = Area(1.0, 0.5, 1.5, 0.1)
    return FaithfulnessCurve(table, area, area, 1.0, 0.0, 3, "zero", "logit_diff")


def validity() -> Validity:
    """One method on five edges."""
    exact = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    edges, top = GRAPH.possible.nonzero()[:5], torch.arange(5) < 2
    return Validity(GRAPH, edges, top, exact, exact[None], torch.ones(3, dtype=torch.long), ["a"], "a", 5, 0)


PARTS = pd.DataFrame({"part": ["m0"], "loss": [0.1]})
TENSOR_FILES: dict[str, Artefact] = {
    "scores": scores(),
    "circuit": Circuit.from_scores(scores(), 12),
    "curve": curve(),
    "validity": validity(),
    "evaluation": CircuitEvaluation((Check("sufficiency", 1.0, 0.5, 1.5, 3, 0.1),), PARTS, 3, 9, "zero", "kl"),
}


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("name", TENSOR_FILES)
def test_headers_and_tensors_of_any_content(serve, tmp_path: Path, name: str, n: int) -> None:
    one, path = TENSOR_FILES[name], tmp_path / name
    one.save(path)
    tensors, values = artefact.read(path, one.KIND, "save")

    def check(parts: Any) -> None:
        held = {key: value for key, value in parts["tensors"].items() if isinstance(value, Tensor)}
        artefact.write(path, one.KIND, held, parts["values"] if isinstance(parts["values"], dict) else {})
        serve(path, type(one).load)

    document = {"tensors": tensors, "values": values}
    every(mutated(document, VALUES | OTHER_TENSORS).filter(_is_writable), check, n)


def _is_writable(parts: Any) -> bool:
    """Whether a file can hold it at all: tensors by name, and JSON."""
    try:
        json.dumps(parts["values"])
    except (TypeError, KeyError):
        return False
    return isinstance(parts.get("tensors"), dict)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("name", TENSOR_FILES)
def test_files_of_damaged_bytes(serve, tmp_path: Path, name: str, n: int) -> None:
    one, path = TENSOR_FILES[name], tmp_path / name
    one.save(path)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        serve(path, type(one).load)

    every(damaged(path.read_bytes()), check, n)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("kind", [CircuitComparison, Transfers])
def test_json_results_of_any_content(serve, tmp_path: Path, kind: type[CircuitComparison] | type[Transfers], n: int) -> None:
    path = tmp_path / "result.json"
    if kind is Transfers:
        Transfers((Transfer("arm", "mdm", 1.0, 0.5, 1.5, 0.1, 3, 1.0, 1.0, 3),)).save(path)
    else:
        compare(scores(), scores(), n=12, n_boot=2, n_random=2).save(path)
    document = json.loads(path.read_text(encoding="utf-8"))

    def check(changed: Any) -> None:
        path.write_text(json.dumps(changed), encoding="utf-8")
        serve(path, kind.load)

    every(mutated(document), check, n)
