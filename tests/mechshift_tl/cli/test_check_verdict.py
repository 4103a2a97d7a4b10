"""`mechshift check-verdict`: a table, and exit status 1 where a verdict is wrong or too many are unsure."""

from __future__ import annotations

from typing import Any

import pytest

from mechshift_tl.study.verdict_check import TruthChecked, VerdictCheck


@pytest.mark.parametrize(("right", "wrong", "code"), [(True, False, 0), (False, False, 1), (False, True, 1)])
def test_the_exit_status_says_whether_it_passed(
    invoke: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, right: bool, wrong: bool, code: int
) -> None:
    asked: dict[str, Any] = {}

    def checked(model: object, task: Any, **settings: Any) -> VerdictCheck:
        asked.update(settings)
        row = TruthChecked("identical", task.name, 7, "kept", "no", "no", right, wrong, 0.01, "why", 1.0)
        settings["progress"](row)
        return VerdictCheck((row,))

    monkeypatch.setattr("mechshift_tl.study.verdict_check.check_verdict", checked)
    result = invoke("check-verdict", "--quick", "--first-seed", 7, "--out", tmp_path / "out")
    assert result.exit_code == code, result.output
    word = "right" if right else "wrong" if wrong else "unsure"
    assert f"ioi, seed 7, identical: kept, {word}" in result.output and ("passed" if right else "failed") in result.output
    assert list(asked["seeds"]) == [7] and asked["n"] == 30 and "trained from another seed" not in [one.name for one in asked["chosen"]]
    assert VerdictCheck.load(tmp_path / "out" / "check.json").rows[0].verdict == word


def test_a_role_that_the_pair_lacks_and_no_seed_are_refused(invoke: Any) -> None:
    for wrong in (("--seeds", 0), ("--pair", "nowhere"), ("--tasks", "chess")):
        assert invoke("check-verdict", *wrong).exit_code == 2
