"""Measurements of where circuits lie, made of a small study's parts, kept and read back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hooked_diffusion import load_pair
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard
from mechshift_tl.readouts.pool import common_correct
from mechshift_tl.runs.stages import Stages
from mechshift_tl.study import StudyConfig, TaskStudy, run_study
from mechshift_tl.study.measurements import load_measured, measure
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.study.structure import DEPTH, MASKS, MASSES, STEPS, has_steps, measure_depth, measure_masks, measure_steps
from mechshift_tl.tasks import IOI
from mechshift_tl.tasks.task import Task


@pytest.fixture(scope="module")
def parts() -> TaskParts:
    pair = load_pair("tiny")
    config = StudyConfig(n=4, ig_steps=1, n_boot=3, n_random=2, held_out=0, measurements="none")
    one = run_study(pair, [IOI()], config).tasks["ioi"]
    held_out = common_correct(pair.models, IOI(), 8, seed=0).select(range(4, 8))
    assert pair.tokenizer is not None
    return TaskParts(IOI(), pair.models, pair.tokenizer, config, one.pool, held_out, one.scores, one.circuits, one.lenses, lambda _: None)


@pytest.fixture
def echo(echo_task: Task, task_study: TaskStudy, models: Any, word_tokenizer: Any) -> TaskParts:
    """Random models on a task of two steps."""
    config, one = StudyConfig(n=12, ig_steps=2, n_boot=3, edges=40), task_study
    return TaskParts(echo_task, models, word_tokenizer, config, one.pool, None, one.scores, one.circuits, one.lenses, lambda _: None)


def test_steps_of_a_task_that_has_them(echo, parts, tmp_path):
    assert has_steps(echo) and not has_steps(parts)
    found = measure(echo, Stages(tmp_path), (STEPS,))["steps"]
    assert load_measured(tmp_path, (STEPS,))["steps"].finding() == found.finding()
    table = found.to_dataframe()
    assert set(table["model"]) == {"ARM", "MDM", "control"} and set(table["family"]) == {"step", "half"}  # the task has no kinds
    assert not measure(parts, Stages(), (STEPS,))


def test_the_pooled_circuit_of_all_steps_is_the_studys_own(echo):
    one = measure_steps(echo).of("arm", "step")
    assert one is not None and one.n == 12
    by_hand = [edge_jaccard(Circuit.from_scores(echo.scores["arm"].step(step), 40), echo.circuits["arm"]) for step in (0, 1)]
    assert one.with_pooled == pytest.approx(by_hand)


def test_masks_under_which_a_model_was_scored_reuse_its_scores(echo, tmp_path):
    found = measure_masks(echo)
    own = [Circuit.from_scores(echo.scores[role], 40) for role in ("arm", "mdm")]
    assert found.overlap(("arm", "causal"), ("mdm", "full")).value == pytest.approx(edge_jaccard(*own))
    assert [(cell.role, cell.direction) for cell in found.cells] == [
        (role, direction) for role in ("arm", "mdm", "control") for direction in ("causal", "full")
    ]
    assert all(model.direction == model.spec.attention for model in echo.models.values())
    found.save(tmp_path / MASKS.file)
    assert load_measured(tmp_path, (MASKS,))["masks"].finding() == found.finding()


def test_made_kept_and_read_back(parts, tmp_path):
    found = measure(parts, Stages(tmp_path), (DEPTH, MASSES))
    again = load_measured(tmp_path, (DEPTH, MASSES))
    assert {name: one.finding() for name, one in again.items()} == {name: one.finding() for name, one in found.items()}
    assert "by function (n = 4)" in found["depth"].finding()


def test_layers_of_the_bundled_pair_align(parts):
    assert measure_depth(parts).all_aligned


def test_without_prompts_apart_there_is_no_depth_by_function(parts):
    assert "function" not in measure_depth(replace(parts, held_out=None)).finding()


def test_a_model_that_cannot_do_the_task_is_noted(parts):
    rows = parts.held_out.readouts
    same = {role: replace(one, corrupt=one.clean) for role, one in rows.items()}
    found = measure_depth(replace(parts, held_out=replace(parts.held_out, readouts=same)))
    assert len(found.notes) == 3 and found.notes[0].startswith("ARM: faithfulness has no meaning")
