"""τ by its definition; 1 between equal models, and between relabelled ones once their heads are matched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl.attribution import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.matching import Matching, within_layers
from mechshift_tl.circuits.permuted import permuted_heads
from mechshift_tl.circuits.similarity import similarity_of_weights
from mechshift_tl.evaluation.carried import Carried, carry
from mechshift_tl.evaluation.faithfulness import recovered
from mechshift_tl.evaluation.run import CircuitRun, run_circuits
from mechshift_tl.evaluation.run_once import CircuitRuns
from mechshift_tl.readouts import Readouts
from mechshift_tl.study import truths


@pytest.fixture(scope="module")
def model_and_rows(solved: Callable[..., Any]) -> tuple[HookedDiffusionTransformer, Readouts]:
    return solved(20)


def cut(model: HookedDiffusionTransformer, rows: Readouts, fraction: float = 0.3) -> Circuit:
    return Circuit.from_scores(attribute(model, rows), fraction=fraction)


def test_tau_by_its_definition(model_and_rows: tuple[HookedDiffusionTransformer, Readouts]) -> None:
    model, rows = model_and_rows
    other = truths.noisy(model, 0.1, seed=1)
    circuits = {"arm": cut(model, rows), "mdm": cut(other, rows)}
    found = carry(CircuitRuns({"arm": model, "mdm": other}, {"arm": rows, "mdm": rows}), circuits, {}, n_null=4, n_boot=50, seed=3)
    null = [one.circuit(circuits["mdm"]) for one in permuted_heads(circuits["mdm"].graph, 4, 3)]
    own, cross, *rest = (recovered(run).item() for run in run_circuits(other, rows, [circuits["mdm"], circuits["arm"], *null]))
    mean = sum(rest) / 4
    assert found.tau[0, 0].item() == pytest.approx((cross - mean) / (own - mean), abs=1e-6)
    assert (found.own[0].item(), found.null[0].item(), found.cross[0, 0].item()) == pytest.approx((own, mean, cross), abs=1e-6)
    assert own > mean and found.lower("id") == pytest.approx(found.tau[0].min().item(), nan_ok=True)
    assert found.draws.shape == (50, 1, 2)
    table = found.to_dataframe()
    assert table["circuit"].tolist() == ["arm", "mdm"] and table["model"].tolist() == ["mdm", "arm"]
    low, high = table["low"][0], table["high"][0]
    assert low < high and low == found.draws[:, 0, 0].nanquantile(torch.tensor(0.025, dtype=torch.float64)).item()


def test_equal_models_share_all(model_and_rows: tuple[HookedDiffusionTransformer, Readouts]) -> None:
    model, rows = model_and_rows
    circuit, same = cut(model, rows), truths.copied(model)
    found = carry(
        CircuitRuns({"arm": model, "mdm": same}, {"arm": rows, "mdm": rows}), {"arm": circuit, "mdm": circuit}, {}, n_null=3, n_boot=20
    )
    defined = found.draws[~found.draws.isnan()]
    assert len(defined) and torch.allclose(defined, torch.ones_like(defined)) and found.best == "id"


def test_relabelled_heads_carry_once_matched(model_and_rows: tuple[HookedDiffusionTransformer, Readouts]) -> None:
    model, rows = model_and_rows
    other = truths.heads_permuted(model, 2)
    circuits = {"arm": cut(model, rows), "mdm": cut(other, rows)}
    similarity = similarity_of_weights(model, other)
    graph = circuits["arm"].graph
    ways = {"weights": (within_layers(similarity, graph, "weights"), within_layers(similarity.T, graph, "weights"))}
    found = carry(CircuitRuns({"arm": model, "mdm": other}, {"arm": rows, "mdm": rows}), circuits, ways, n_null=6, n_boot=20)
    assert found.best == "weights" and torch.allclose(found.tau[1], torch.ones(2, dtype=torch.float64), atol=1e-4)
    assert (found.tau[0] < 0.99).all()


def test_it_is_kept_and_refused(model_and_rows: tuple[HookedDiffusionTransformer, Readouts], tmp_path: Any) -> None:
    model, rows = model_and_rows
    circuit = cut(model, rows)
    one = Matching.by_id(circuit.graph)
    by_id = (one, one)
    roles = ("arm", "<b>")
    runs = CircuitRuns(dict.fromkeys(roles, model), dict.fromkeys(roles, rows))
    found = carry(runs, dict.fromkeys(roles, circuit), {"w": by_id}, n_boot=9)
    assert torch.equal(found.draws[:, 0].nan_to_num(7), found.draws[:, 1].nan_to_num(7))
    found.save(tmp_path / "c.safetensors")
    again = Carried.load(tmp_path / "c.safetensors")
    assert (
        torch.equal(again.draws.nan_to_num(7), found.draws.nan_to_num(7))
        and again.matchings == ("id", "w")
        and again.roles == ("arm", "<b>")
    )
    assert "<b>" not in found._repr_html_().replace("<b>Carried</b>", "")
    assert len(found.figure().to_dict()["data"]) == 2


def test_a_draw_where_the_own_circuit_is_no_better_than_its_null_says_nothing(
    model_and_rows: tuple[HookedDiffusionTransformer, Readouts],
) -> None:
    """A circuit of all edges and its null are one: the denominator is 0."""
    model, rows = model_and_rows
    whole = Circuit.from_scores(attribute(model, rows), fraction=1.0)
    found = carry(CircuitRuns({"a": model, "b": model}, {"a": rows, "b": rows}), {"a": whole, "b": whole}, {}, n_null=2, n_boot=20)
    assert found.own.tolist() == found.null.tolist() and found.draws.isnan().all() and found.tau.isnan().all()


def test_every_circuit_runs_once(model_and_rows: tuple[HookedDiffusionTransformer, Readouts], monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = model_and_rows
    circuit, other = cut(model, rows), cut(model, rows, 0.1)
    ran: list[int] = []

    def counted(model: object, rows: object, circuits: list[Circuit], **settings: object) -> list[CircuitRun]:
        ran.append(len(circuits))
        return run_circuits(model, rows, circuits, **settings)  # pyright: ignore

    monkeypatch.setattr("mechshift_tl.evaluation.run_once.run_circuits", counted)
    runs = CircuitRuns({"arm": model}, {"arm": rows})
    first = runs.of("arm", [circuit, other, circuit])
    assert [one.kept for one in first] == [circuit.kept, other.kept, circuit.kept]
    assert runs.of("arm", [other])[0] is first[1] and ran == [2]


def test_different_examples_are_refused(model_and_rows: tuple[HookedDiffusionTransformer, Readouts]) -> None:
    model, rows = model_and_rows
    fewer = {"arm": rows, "mdm": rows.select(range(4))}
    with pytest.raises(ValueError, match=r"20 \(arm\) and 4 \(mdm\) examples"):
        CircuitRuns({"arm": model, "mdm": model}, fewer)
