"""The table of what moves a conclusion: against attributions made here, and what it says of made-up figures."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import pytest

from hooked_diffusion import load_pair
from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard
from mechshift_tl.evaluation.carried import carry
from mechshift_tl.evaluation.run_once import CircuitRuns
from mechshift_tl.intervals import Interval
from mechshift_tl.readouts import readouts
from mechshift_tl.readouts.pool import Pool
from mechshift_tl.study import StudyConfig
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.study.robustness import robustness
from mechshift_tl.study.robustness_result import Baseline, Change, Robustness
from mechshift_tl.tasks import IOI

CONFIG = StudyConfig(n=4, ig_steps=2, edges=60, n_boot=6)


@pytest.fixture(scope="module")
def parts() -> TaskParts:
    pair = load_pair("tiny")
    assert pair.tokenizer is not None
    examples = IOI().examples(pair.tokenizer, 4)
    rows = {role: readouts(model, examples) for role, model in pair.models.items()}
    scores = {role: attribute_edges(pair.models[role], one, CONFIG.attribution) for role, one in rows.items()}
    others = IOI().examples(pair.tokenizer, 8, seed=3)
    apart = Pool("ioi", others, {role: readouts(model, others) for role, model in pair.models.items()}, 8, {}, {})
    pool = Pool("ioi", examples, rows, 4, {}, {})
    return TaskParts(IOI(), pair.models, pair.tokenizer, CONFIG, pool, apart, scores, {}, {}, lambda step: None, {"mdm": 0.2})


@pytest.fixture(scope="module")
def found(parts) -> Robustness:
    return robustness(parts)


def test_every_factor_is_varied_or_said_to_be_skipped(found):
    assert {change.factor for change in found.changes} == {"edges", "selection", "IG points", "seed", "tail", "corruption"}
    assert set(found.skipped) == {"prompts", "commit order", "revealed", "foil"}
    assert "Not varied: prompts (the pool has 4, fewer than 8)" in found.finding() and "foil (the task has one)" in found.finding()
    corruptions = {change.setting for change in found.changes if change.factor == "corruption"}
    assert corruptions == {"s2_to_io", "abc"}


def test_each_change_is_what_one_measures_by_hand(found, parts):
    lines = {(change.factor, change.setting, change.role): change for change in found.changes}
    arm, mdm = parts.scores["arm"], parts.scores["mdm"]
    assert lines["edges", "30", "mdm"].jaccard == edge_jaccard(Circuit.from_scores(arm, 30), Circuit.from_scores(mdm, 30))
    greedy = edge_jaccard(*(Circuit.from_scores(one, 60, greedy=True) for one in (arm, mdm)))
    assert lines["selection", "greedy", "mdm"].jaccard == greedy
    examples = IOI(corruption="abc").examples(parts.tokenizer, 4)
    other = {
        role: attribute_edges(parts.models[role], readouts(parts.models[role], examples), CONFIG.attribution) for role in ("arm", "mdm")
    }
    expected = edge_jaccard(*(Circuit.from_scores(other[role], 60) for role in ("arm", "mdm")))
    assert lines["corruption", "abc", "mdm"].jaccard == expected


def test_tau_is_of_circuits_of_the_faithful_size_on_prompts_kept_apart(found, parts):
    runs = CircuitRuns({role: parts.models[role] for role in ("arm", "mdm")}, parts.held_out.readouts)

    def by_hand(share: float) -> float:
        circuits = {role: Circuit.from_scores(parts.scores[role], fraction=share) for role in ("arm", "mdm")}
        return carry(runs, circuits, {}, n_null=2, n_boot=3).lower("id")

    base = {one.role: one for one in found.baselines}
    lines = {(change.setting, change.role): change.tau for change in found.changes}
    assert base["mdm"].tau == pytest.approx(by_hand(0.2)) and base["mdm"].tau_over.low <= base["mdm"].tau <= base["mdm"].tau_over.high
    assert lines["120", "mdm"] == pytest.approx(by_hand(0.4))  # twice the study's 60 edges: twice the share
    assert isnan(base["control"].tau) and isnan(lines["greedy", "control"])  # no size is known at which the control's circuit is faithful


def made(seed: float) -> Robustness:
    """Overlaps of .3 (MDM) and .7 (control); another seed moves the MDM's to `seed`."""
    over = Interval(0.0, -0.1, 0.1, 9)
    base = [Baseline(role, j, Interval(j, j - 0.05, j + 0.05, 9), 0.0, over) for role, j in (("mdm", 0.3), ("control", 0.7))]
    return Robustness(tuple(base), (Change("seed", "1", "mdm", seed, 0.2),), {}, 16)


def test_the_failure_sign_is_said_in_words():
    steady, shaky = made(0.32).finding(), made(0.75).finding()
    assert steady.startswith("Not supported that overlap moves with the seed as much as with the model")
    assert "other prompts move ARM ~ MDM by up to 0.020" in steady and "Nothing moves J out of its 95 %" in steady
    assert shaky.startswith("Failure sign present: overlap moves with the seed as much as with the model") and "by 0.400" in shaky
    assert "seed 1 (mdm +0.450)" in shaky and "early shift leaves" in steady
    alone = replace(made(0.3), baselines=made(0.3).baselines[:1])
    assert alone.finding().startswith("Without a control")


def test_the_table_says_what_leaves_its_interval():
    table = made(0.32).to_dataframe()
    row = table[table["factor"] == "seed"].iloc[0]
    assert (row["jaccard_change"], row["jaccard_leaves"], row["early_shift_leaves"]) == (pytest.approx(0.02), False, True)
    assert table["n"].tolist() == [16] * 3 and (table["factor"] == "as it is").sum() == 2


def test_it_draws_itself_and_comes_back_from_its_file(found, tmp_path):
    assert len(found.figure().to_dict()["data"]) == 6  # J, early shift and τ of two models
    found.save(tmp_path / "robustness.json")
    assert Robustness.load(tmp_path / "robustness.json").to_dataframe().equals(found.to_dataframe())
