"""`mechshift evaluate` against the same by Python: on prompts that the circuit was not found on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.circuits import Circuit, write_graph
from mechshift_tl.evaluation import evaluate_circuit, faithfulness_curve
from mechshift_tl.evaluation.curve import FaithfulnessCurve
from mechshift_tl.evaluation.evaluate import CircuitEvaluation
from mechshift_tl.readouts import readouts
from mechshift_tl.tasks import IOI

N = 4
DRAWS = {"parts": "tenths", "n_random": 1, "n_resamples": 3}
ASKED = ("evaluate", "--task", "ioi", "--n", N, "--parts", "tenths", "--n-random", 1, "--n-resamples", 3)


@pytest.fixture(scope="module")
def tokenizer(model):
    return HookedDiffusionTransformer.from_pretrained(model).tokenizer


@pytest.fixture(scope="module")
def evaluated(invoke, model, attributed, tmp_path_factory) -> Path:
    """Everything there is to ask for."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    asked = (*ASKED, "--model", model, "--circuit", attributed / "circuit.safetensors", "--others", "abc", "--curve", "--out", out)
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert f"{N} examples of ioi; 8 dropped: the circuit was found on them" in result.output
    assert all(word in result.output for word in ("sufficiency", "stability", "corruption abc", "CPR", "CMD"))
    again = invoke(*asked)
    assert again.exit_code == 0 and "holds this run already" in " ".join(again.output.split())
    return out


def test_it_measures_as_python_does(evaluated, attributed, model) -> None:
    opened = HookedDiffusionTransformer.from_pretrained(model)
    further = range(8, 8 + N)
    made, abc = (readouts(opened, task.examples(opened.tokenizer, 8 + N, 0).select(further)) for task in (IOI(), IOI(corruption="abc")))
    circuit, scores = Circuit.load(attributed / "circuit.safetensors"), EdgeScores.load(attributed / "scores.safetensors")
    by_python = evaluate_circuit(opened, made, circuit, scores=scores, others={"corruption abc": abc}, **DRAWS)
    written = CircuitEvaluation.load(evaluated / "evaluation.safetensors")
    pd.testing.assert_frame_equal(written.to_dataframe(), by_python.to_dataframe())
    curve = FaithfulnessCurve.load(evaluated / "curve.safetensors")
    pd.testing.assert_frame_equal(curve.table, faithfulness_curve(opened, made, scores, n_random=1).table)


def test_tables_and_figures_lie_beside(evaluated, attributed) -> None:
    kinds = ("safetensors", "csv", "html")
    expected = {f"{name}.{kind}" for name in ("evaluation", "curve") for kind in kinds} | {"parts.csv", "prompts.csv", "run.json"}
    assert {path.name for path in evaluated.iterdir()} == expected
    found_on, measured_on = (set(pd.read_csv(folder / "prompts.csv")["prompt"]) for folder in (attributed, evaluated))
    assert len(measured_on) == N and not found_on & measured_on
    assert "Plotly.newPlot" in (evaluated / "evaluation.html").read_text()


def test_a_graph_file_is_evaluated_too(invoke, model, attributed, evaluated, tmp_path) -> None:
    """Its edges are per query head, so only floors differ; it holds no scores of single prompts."""
    shutil.copy(attributed / "prompts.csv", tmp_path)
    write_graph(Circuit.load(attributed / "circuit.safetensors"), tmp_path / "circuit.pt")
    out = tmp_path / "out"
    result = invoke(*ASKED, "--model", model, "--circuit", tmp_path / "circuit.pt", "--others", "none", "--out", out)
    assert result.exit_code == 0 and "no stability" in result.output, result.output
    found, ours = (CircuitEvaluation.load(folder / "evaluation.safetensors") for folder in (out, evaluated))
    assert [check.check for check in found.checks] == ["sufficiency", "necessity", "accuracy", "minimality"]
    for check in ("sufficiency", "necessity"):
        assert found[check].value == pytest.approx(ours[check].value, abs=1e-4)


def test_prompts_can_be_reused_and_means_are_taken_of_others(invoke, model, attributed, tmp_path) -> None:
    circuit, means = attributed / "circuit.safetensors", ("--intervention", "mean", "--means-n", 4)
    result = invoke(*ASKED, "--model", model, "--circuit", circuit, "--reuse-prompts", *means, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Means over 4 further examples" in result.output and "dropped" not in result.output and "corruption" not in result.output
    prompts = [set(pd.read_csv(folder / "prompts.csv")["prompt"]) for folder in (attributed, tmp_path / "out")]
    assert prompts[1] < prompts[0]
    assert CircuitEvaluation.load(tmp_path / "out" / "evaluation.safetensors").intervention == "mean"


def test_prompts_of_a_file_that_the_circuit_was_not_found_on(invoke, refused, model, attributed, tmp_path, tokenizer) -> None:
    examples, data = IOI().examples(tokenizer, 8 + N, 0), tmp_path / "ioi.csv"
    circuit = ("--model", model, "--task", "ioi", "--circuit", attributed / "circuit.safetensors")
    rows = pd.DataFrame({"clean": [e.pair.prompt for e in examples], "corrupted": [e.pair.corrupt_prompt for e in examples]})
    rows.to_csv(data)
    result = invoke("evaluate", *circuit, "--data", data, "--n-random", 1, "--n-resamples", 1)
    assert result.exit_code == 0 and f"{N} examples of ioi; 8 dropped" in result.output, result.output
    rows[:8].to_csv(data)
    refused("can make 0 held_out examples", "evaluate", *circuit, "--data", data)
    refused("--reuse-prompts keeps them", "evaluate", *circuit, "--data", data)
    refused("no column other", "evaluate", *circuit, "--data", data, "--others", "other")


def test_a_corruption_without_meaning_is_left_out_and_said(invoke, model, attributed, monkeypatch) -> None:
    monkeypatch.setattr("mechshift_tl.cli.measuring._meaningless", lambda run: "no gap")
    result = invoke(*ASKED, "--model", model, "--circuit", attributed / "circuit.safetensors", "--others", "s2_to_io")
    assert result.exit_code == 0 and "Note: corruption s2_to_io is left out: no gap" in result.output
    assert "generalisation" not in result.output


def test_a_stopped_evaluation_goes_on_with_what_it_finished(invoke, model, attributed, evaluated, tmp_path, monkeypatch) -> None:
    circuit, out = attributed / "circuit.safetensors", tmp_path / "out"
    asked = (*ASKED, "--model", model, "--circuit", circuit, "--others", "abc", "--curve", "--out", out)

    def stopped(*_: object, **__: object) -> None:
        raise MemoryError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("mechshift_tl.cli.measuring.faithfulness_curve", stopped)
        assert invoke(*asked).exit_code == 2 and (tmp_path / ".out.partial").is_dir()
    monkeypatch.setattr("mechshift_tl.cli.measuring.evaluate_circuit", lambda *_, **__: pytest.fail("done again"))
    drawn = FaithfulnessCurve.load(evaluated / "curve.safetensors")
    monkeypatch.setattr("mechshift_tl.cli.measuring.faithfulness_curve", lambda *_, **__: drawn)
    result = invoke(*asked)
    assert result.exit_code == 0 and "Going on from" in result.output, result.output
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {path.name: path.read_bytes() for path in evaluated.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def bad_files(attributed: Path, tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """What is refused, and how it is asked for."""
    whole = attributed / "circuit.safetensors"
    (tmp_path / "broken.safetensors").write_bytes(whole.read_bytes()[:100])
    (tmp_path / "broken.json").write_text("{")
    shutil.copy(whole, tmp_path / "alone.safetensors")
    circuit = Circuit.load(whole)
    (circuit & ~circuit).save(tmp_path / "empty.safetensors")
    scores = EdgeScores.load(attributed / "scores.safetensors")
    other = scores.provenance | {"model": cast(dict, scores.provenance["model"]) | {"sha256": "0" * 64}}
    replace(scores, provenance=other).save(tmp_path / "other-model.safetensors")
    other = scores.provenance | {"readouts": cast(dict, scores.provenance["readouts"]) | {"task": "countdown"}}
    replace(scores, provenance=other).save(tmp_path / "other-task.safetensors")
    return {
        "none.pt does not exist": ("--circuit", tmp_path / "none.pt"),
        "broken.safetensors is damaged": ("--circuit", tmp_path / "broken.safetensors"),
        "holds no circuit": ("--circuit", attributed / "scores.safetensors"),
        "is not JSON": ("--circuit", tmp_path / "broken.json"),
        "without edges": ("--circuit", tmp_path / "empty.safetensors"),
        "--curve needs the scores": ("--circuit", tmp_path / "alone.safetensors", "--curve"),
        "holds no edge scores": ("--circuit", whole, "--scores", whole),
        "--scores none.safetensors does not exist": ("--circuit", whole, "--scores", "none.safetensors"),
        "--scores and --circuit differ in weights": ("--circuit", whole, "--scores", tmp_path / "other-model.safetensors"),
        "--scores and --circuit differ in task": ("--circuit", whole, "--scores", tmp_path / "other-task.safetensors"),
        "unknown metric 'loss'": ("--circuit", whole, "--metric", "loss"),
        "--intervention is 'noise'": ("--circuit", whole, "--intervention", "noise"),
        "uses no means": ("--circuit", whole, "--means-n", 3),
        "unknown corruption 's3'": ("--circuit", whole, "--others", "s3"),
        "'zero' takes nothing from corrupt prompts": ("--circuit", whole, "--others", "abc", "--intervention", "zero"),
        "has one corruption": ("--circuit", whole, "--others", "abc", "--task", "countdown"),
        "--parts is 'halves'": ("--circuit", whole, "--parts", "halves"),
        "not valid JSON": ("--circuit", whole, "--device-map", "{cpu}"),
        "--n must be at least 1": ("--circuit", whole, "--n", 0),
        "--n-random must be at least 1": ("--circuit", whole, "--n-random", 0),
        "--n-resamples must be at least 1": ("--circuit", whole, "--n-resamples", 0),
    }


def test_bad_input_is_refused_before_the_model_is_opened(refused, attributed, tmp_path) -> None:
    cases = bad_files(attributed, tmp_path)
    before = sorted(tmp_path.iterdir())
    for said, options in cases.items():
        refused(said, *ASKED, "--model", tmp_path / "nosuchmodel", "--out", tmp_path / "out", *options)
    assert sorted(tmp_path.iterdir()) == before


def test_a_circuit_of_another_model_is_refused_before_it_works(refused, model, attributed, native, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mechshift_tl.cli.measuring.Work.run", lambda *_: pytest.fail("work was started"))
    native(vocab_size=512).save_pretrained(tmp_path / "other")
    for path in model.parent.joinpath("tokenizer").iterdir():
        shutil.copy(path, tmp_path / "other")
    refused("n_layers", *ASKED, "--model", tmp_path / "other", "--circuit", attributed / "circuit.safetensors")


def test_a_circuit_of_other_weights_is_refused_before_it_works(refused, model, attributed, tmp_path, monkeypatch) -> None:
    """The graph is the same, so only the provenance tells that the circuit was found in another model."""
    monkeypatch.setattr("mechshift_tl.cli.measuring.Work.run", lambda *_: pytest.fail("work was started"))
    circuit = Circuit.load(attributed / "circuit.safetensors")
    source: Any = circuit.provenance["model"]
    replace(circuit, provenance=circuit.provenance | {"model": source | {"sha256": "0" * 64}}).save(tmp_path / "other.safetensors")
    refused("--circuit and --model differ in weights", *ASKED, "--model", model, "--circuit", tmp_path / "other.safetensors")


def test_a_circuit_of_another_task_is_refused_before_it_works(refused, model, attributed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mechshift_tl.cli.measuring.readouts", lambda *_, **__: pytest.fail("work was started"))
    circuit = Circuit.load(attributed / "circuit.safetensors")
    made_on: Any = circuit.provenance["readouts"]
    replace(circuit, provenance=circuit.provenance | {"readouts": made_on | {"task": "countdown"}}).save(tmp_path / "other.safetensors")
    refused("--circuit and --task differ in task", *ASKED, "--model", model, "--circuit", tmp_path / "other.safetensors")
