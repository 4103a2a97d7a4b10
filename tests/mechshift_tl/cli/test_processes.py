"""The command in processes of its own: by itself, and two that share the prompts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mechshift_tl import cli
from mechshift_tl.circuits.evaluate import CircuitEvaluation

ASKED = ("evaluate", "--task", "ioi", "--n", "4", "--n-random", "1", "--parts", "tenths", "--n-resamples", "3", "--others", "abc")


@pytest.fixture
def asked(model, attributed) -> list[str]:
    return [*ASKED, "--model", str(model), "--circuit", str(attributed / "circuit.safetensors"), "--out"]


def test_it_is_the_same_in_another_process_and_in_two(asked, launched, tmp_path) -> None:
    """Sums over two processes are those of one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mechshift_tl", *asked, str(tmp_path / "alone")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "sufficiency" in done.stdout and "Traceback" not in done.stderr, done.stderr
    assert launched(2, lambda: cli.app([*asked, str(tmp_path / "shared")])) == [0, 0]
    alone, shared = (CircuitEvaluation.load(tmp_path / name / "evaluation.safetensors") for name in ("alone", "shared"))
    assert [check.check for check in shared.checks] == [check.check for check in alone.checks]
    for check in shared.checks:
        for field in ("value", "low", "high", "n", "floor"):
            assert getattr(check, field) == pytest.approx(getattr(alone[check.check], field), abs=1e-6, nan_ok=True), check.check
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "shared"]
