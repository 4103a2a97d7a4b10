"""The verdict on truths of the bundled pair: right, and never wrong with confidence."""

from __future__ import annotations

from pathlib import Path

import pytest

from hooked_diffusion import load_pair
from mechshift_tl.study.answers import CANNOT_TELL
from mechshift_tl.study.trained_anew import trained_anew
from mechshift_tl.study.verdict_check import QUICK, TRAINED_ANEW, TRUTHS, TruthChecked, VerdictCheck, check_verdict
from mechshift_tl.tasks import IOI


def row(right: bool, wrong: bool) -> TruthChecked:
    return TruthChecked("<b>t", "ioi", 0, "kept", "no", "no", right, wrong, 0.01, "", 1.0, {"tau_by_id": 1.0})


def test_passed_is_95_percent_right_and_none_wrong(tmp_path: Path) -> None:
    good, unsure, bad = row(True, False), row(False, False), row(False, True)
    assert VerdictCheck((good,) * 19 + (unsure,)).passed
    assert not VerdictCheck((good,) * 18 + (unsure,)).passed and not VerdictCheck((good,) * 99 + (bad,)).passed
    check = VerdictCheck((good, unsure))
    check.save(tmp_path / "c.json")
    assert VerdictCheck.load(tmp_path / "c.json").rows == check.rows
    assert check.to_dataframe()["verdict"].tolist() == ["right", "unsure"] and bad.verdict == "wrong"
    assert "<b>t" not in check._repr_html_() and check.to_dataframe()["tau_by_id"].tolist() == [1.0, 1.0]


def test_truths_of_the_arm() -> None:
    chosen = [truth for truth in TRUTHS if truth.name in ("heads permuted", "re-initialised")]
    check = check_verdict(load_pair("tiny").arm, IOI(), seeds=[31], n=20, held_out=20, chosen=chosen, settings=QUICK)
    assert [one.circuit for one in check.rows] == ["moved", CANNOT_TELL] and check.passed


@pytest.mark.slow
@pytest.mark.parametrize("role", ["arm", "mdm"])
def test_every_truth(role: str) -> None:
    check = check_verdict(load_pair("tiny").models[role], IOI(), seeds=[41, 42])
    assert check.passed, check.to_dataframe().to_string()


@pytest.mark.slow
def test_another_seed_is_never_called_kept() -> None:
    arm = load_pair("tiny").arm
    check = check_verdict(arm, IOI(), seeds=[51], chosen=[TRAINED_ANEW])
    assert not check.rows[0].wrong, check.to_dataframe().to_string()


def test_training_anew_repeats() -> None:
    arm = load_pair("tiny").arm
    first, again, other = (trained_anew(arm, IOI(), seed, steps=2, n_texts=100) for seed in (1, 1, 2))
    weights = [dict(one.original_model.named_parameters()) for one in (first, again, other)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert not all((weights[0][name] == weights[2][name]).all() for name in weights[0])
    assert first.spec == arm.spec
