"""A small study of the bundled pair, end to end: what it holds, what it saves, what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from hooked_diffusion import load_pair
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.compare.result import CircuitComparison
from mechshift_tl.report import build_report
from mechshift_tl.study import Study, StudyConfig, run_study
from mechshift_tl.tasks import IOI, Countdown


@pytest.fixture(scope="module")
def pair():
    return load_pair("tiny")


@pytest.fixture(scope="module")
def study(pair):
    config = StudyConfig(
        n=8, ig_steps=2, n_boot=10, n_random=10, held_out=6, validity_n=2, validity_edges=5, null_circuits=1, permutations=20,
        verdict_draws=200, measurements="none",
    )  # fmt: skip
    return run_study(pair, [IOI(), Countdown()], config)


def test_the_table_has_a_row_per_task_and_comparison(study):
    table = study.table()
    assert table[["task", "comparison"]].values.tolist() == [
        ["ioi", "ARM → MDM"], ["ioi", "ARM → control"], ["countdown", "ARM → MDM"], ["countdown", "ARM → control"],
    ]  # fmt: skip
    assert table["edge_jaccard"].between(0, 1).all() and (table["n"] == 8).all()


def test_countdown_keeps_scores_per_step(study):
    scores = study.tasks["countdown"].scores["mdm"]
    assert len(scores.steps) > 3 and scores.per_step.shape[0] == len(scores.steps)
    weights = torch.tensor(scores.n_read, dtype=torch.float32)
    torch.testing.assert_close(torch.einsum("s,swr->wr", weights / weights.sum(), scores.per_step), scores.matrix, atol=1e-5, rtol=1e-4)


def test_both_models_of_a_pair_share_ids(study):
    one = study.tasks["ioi"]
    assert one.scores["arm"].readers == one.scores["mdm"].readers and one.scores["arm"].writers == one.scores["mdm"].writers


def test_component_sets_are_disjoint(study):
    sets = study.tasks["ioi"].component_sets
    names = [name for part in sets.values() for name in part]
    assert len(names) == len(set(names)) > 0


def test_every_circuit_runs_in_every_model(study):
    for one in study.tasks.values():
        table = one.evidence.faithfulness
        assert len(table) == 9 and set(table["circuit"]) == set(table["model"]) == {"arm", "mdm", "control"}
        own = table[(table["note"] == "") & (table["circuit"] == table["model"])]
        assert (own["value"] > own["random"]).all() and (table["n"] == 6).all()


def test_the_held_out_prompts_are_not_those_scored(study):
    one = study.tasks["ioi"]
    curve = one.evidence.curves["arm"]
    assert curve.n_examples == 6 and len(one.pool) == one.scores["arm"].n_examples == 8
    assert curve.table["faithfulness"].iloc[-1] == pytest.approx(1, abs=1e-4)


def test_every_task_and_model_has_its_verdicts(study):
    found = study.verdicts.by_task()
    assert set(found) == {"ioi", "countdown"} and all(set(one) == {"mdm", "control"} for one in found.values())
    for one in found.values():
        for role in one.values():
            assert set(role) == {"circuit", "front_loaded", "distributed", "figures"} and role["front_loaded"] in (
                "yes",
                "no",
                "cannot tell",
            )
    assert [line.split(":")[0] for line in study.verdicts.sentence().split("\n")] == ["ioi", "countdown"]


def test_a_less_valid_method_is_said_beside_the_overlap(study):
    one = study.tasks["ioi"]
    note = one.evidence.validity_note("mdm")
    assert (note in one.notes("mdm")) if note else one.notes("mdm") == list(one.comparisons["mdm"].notes)
    assert set(one.evidence.validity) == {"arm", "mdm"}


def test_saved_artefacts_load(study, tmp_path):
    study.save(tmp_path)
    scores = EdgeScores.load(tmp_path / "ioi" / "mdm.scores.safetensors")
    assert torch.equal(scores.matrix, study.tasks["ioi"].scores["mdm"].matrix)
    assert Circuit.load(tmp_path / "ioi" / "arm.circuit.safetensors").kept == study.tasks["ioi"].circuits["arm"].kept
    comparison = CircuitComparison.load(tmp_path / "countdown" / "arm-mdm.comparison.json")
    assert comparison.edge_jaccard == study.tasks["countdown"].comparisons["mdm"].edge_jaccard
    assert json.loads((tmp_path / "study.json").read_text())["config"]["n"] == 8
    assert json.loads((tmp_path / "verdicts.json").read_text())["ioi"]["mdm"]["circuit"] == study.verdicts.answers[0].answer


def test_a_loaded_study_says_the_same(study, tmp_path):
    study.save(tmp_path / "first")
    loaded = Study.load(tmp_path / "first")
    assert build_report(loaded) == build_report(study)
    assert loaded.verdicts.sentence() == study.verdicts.sentence()
    for table in ("table", "overlap_table", "accuracy"):
        assert getattr(loaded, table)().equals(getattr(study, table)())
    assert loaded.config == study.config and loaded.tasks["ioi"].pool.examples == study.tasks["ioi"].pool.examples
    for name, one in study.tasks.items():
        evidence = loaded.tasks[name].evidence
        assert evidence is not None and evidence.grid().equals(one.evidence.grid())
    loaded.save(tmp_path / "second")
    for path in (tmp_path / "first").rglob("*"):
        assert path.is_dir() or path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes(), path


def test_what_is_no_study_is_not_loaded(study, tmp_path):
    with pytest.raises(ValueError, match="holds no study.json; give a folder written by Study.save"):
        Study.load(tmp_path)
    study.save(tmp_path)
    (tmp_path / "ioi" / "pool.json").write_text("{}")
    with pytest.raises(ValueError, match="pool.json holds no task"):
        Study.load(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match="study.json is damaged"):
        Study.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"edges": 10_000}, "edges"),
        ({"components": 31}, "components"),
        ({"cut": 7}, "cut"),
        ({"neuron_layer": 6}, "neuron_layer"),
        ({"n": 10**6}, "can make"),
    ],  # fmt: skip
)
def test_what_does_not_fit_is_refused_before_any_work(pair, config, named, monkeypatch):
    monkeypatch.setattr("mechshift_tl.study.run.common_correct", lambda *_, **__: pytest.fail("work was started"))
    with pytest.raises(ValueError, match=named):
        run_study(pair, [Countdown()], StudyConfig(**config))


@pytest.mark.parametrize(
    "values",
    [{"n": 1}, {"ig_steps": 0}, {"rule": "middle"}, {"edges": 0}, {"n_random": 0}, {"kept": 0.2}, {"recovers": 0}, {"verdict_draws": 0}],
)
def test_a_config_refuses(values):
    with pytest.raises(ValueError):
        StudyConfig(**values)


def test_a_task_twice_is_refused(pair):
    with pytest.raises(ValueError, match="each once"):
        run_study(pair, [IOI(), IOI()])
