"""Circuits run in several real processes: the outcomes of one, and different work refused."""

from __future__ import annotations

import os

import pytest
import torch

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl.circuits import Circuit
from mechshift_tl.evaluation import run_circuits
from mechshift_tl.graph import Graph


@pytest.fixture(scope="module")
def model(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native())


@pytest.fixture(scope="module")
def circuits(model) -> list[Circuit]:
    graph = Graph.of(model)
    drawn = [graph.possible & (torch.rand(graph.possible.shape, generator=torch.Generator().manual_seed(seed)) < 0.3) for seed in range(2)]
    return [Circuit(graph, edges, torch.zeros(edges.shape), int(edges.sum())) for edges in drawn]


@pytest.mark.parametrize("count", [2, 5])
def test_processes_share_the_examples(model, many_shapes, circuits, tmp_path, launched, count) -> None:
    """Four examples: five processes leave one without any."""
    fields = ("metric", "first", "above_foil")

    def measured() -> dict[str, torch.Tensor]:
        runs = run_circuits(model, many_shapes, circuits, batch_tokens=8)
        outcomes = {f"{i}.{end}": getattr(run, end) for i, run in enumerate(runs) for end in ("circuit", "clean", "base")}
        return {f"{name}.{field}": getattr(one, field) for name, one in outcomes.items() for field in fields} | {"read": runs[0].read}

    assert launched(count, lambda: torch.save(measured(), tmp_path / os.environ["RANK"])) == [0] * count
    alone = measured()
    for rank in range(count):
        shared = torch.load(tmp_path / str(rank), weights_only=True)
        assert shared.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(shared[name], value, atol=1e-6, rtol=1e-6)


def test_different_circuits_are_refused(model, many_shapes, circuits, tmp_path, launched) -> None:
    def work() -> None:
        mine = circuits[int(os.environ["RANK"])]
        try:
            run_circuits(model, many_shapes, [mine])
        except ValueError as error:
            (tmp_path / os.environ["RANK"]).write_text(str(error))

    assert launched(2, work) == [0, 0]
    assert all("different work" in (tmp_path / str(rank)).read_text() for rank in range(2))
