"""Measurements of where circuits lie, made of a small study's parts, kept and read back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hooked_diffusion import load_pair
from mechshift_tl.readouts.pool import common_correct
from mechshift_tl.runs.stages import Stages
from mechshift_tl.study import StudyConfig, run_study
from mechshift_tl.study.measurements import load_measured, measure
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.study.structure import DEPTH, MASSES, measure_depth
from mechshift_tl.tasks import IOI


@pytest.fixture(scope="module")
def parts() -> TaskParts:
    pair = load_pair("tiny")
    config = StudyConfig(n=4, ig_steps=1, n_boot=3, n_random=2, held_out=0, measurements="none")
    one = run_study(pair, [IOI()], config).tasks["ioi"]
    held_out = common_correct(pair.models, IOI(), 8, seed=0).select(range(4, 8))
    assert pair.tokenizer is not None
    return TaskParts(IOI(), pair.models, pair.tokenizer, config, one.pool, held_out, one.scores, one.circuits, one.lenses, lambda _: None)


def test_made_kept_and_read_back(parts, tmp_path):
    found = measure(parts, Stages(tmp_path), (DEPTH, MASSES))
    again = load_measured(tmp_path, (DEPTH, MASSES))
    assert {name: one.finding() for name, one in again.items()} == {name: one.finding() for name, one in found.items()}
    assert "by function (n = 4)" in found["depth"].finding()


def test_layers_of_the_bundled_pair_align_by_what_the_caller_says(parts):
    told = measure_depth(parts, {role: range(6) for role in ("mdm", "control")})
    assert told.all_aligned and "aligned" not in told.finding()


def test_without_prompts_apart_there_is_no_depth_by_function(parts):
    assert "function" not in measure_depth(replace(parts, held_out=None)).finding()


def test_a_model_that_cannot_do_the_task_is_noted(parts):
    rows = parts.held_out.readouts
    same = {role: replace(one, corrupt=one.clean) for role, one in rows.items()}
    found = measure_depth(replace(parts, held_out=replace(parts.held_out, readouts=same)))
    assert len(found.notes) == 3 and found.notes[0].startswith("ARM: faithfulness has no meaning")
