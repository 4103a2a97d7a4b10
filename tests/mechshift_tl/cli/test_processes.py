"""The command in processes of its own: by itself, and two that share the prompts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from mechshift_tl import cli
from mechshift_tl.evaluation.evaluate import CircuitEvaluation
from mechshift_tl.runs.processes import ASKED_FOR_SEVERAL

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


LAUNCHERS = {
    2: ["torch.distributed.run", "--nproc-per-node", "2", "-m", "--"],
    3: [
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", "3", "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "-m",
    ],
}  # fmt: skip


@pytest.mark.slow
def test_a_whole_study_by_either_launcher_is_that_of_one_process(tmp_path) -> None:
    """Every artefact agrees to 1e-6 of its largest value."""
    asked = ["mechshift_tl", "run", "--pair", "tiny", "--tasks", "ioi", "--n", "12", "--ig-steps", "2", "--held-out", "4", "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    for count, launcher in {1: [], **LAUNCHERS}.items():
        command = [sys.executable, "-m", *launcher, *asked, str(tmp_path / str(count))]
        assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode == 0
        assert json.loads((tmp_path / str(count) / "run.json").read_text())["processes"] == count
    artefacts = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.safetensors"))
    assert len(artefacts) > 10
    for path in artefacts:
        one = load_file(tmp_path / "1" / path)
        for count in LAUNCHERS:
            shared = load_file(tmp_path / str(count) / path)
            assert one.keys() == shared.keys()
            for name, values in one.items():
                largest = values.double().abs().nan_to_num().max().item() if values.numel() else 0.0
                torch.testing.assert_close(shared[name], values, rtol=0, atol=1e-6 * largest, equal_nan=True, msg=f"{path}: {name}")


def test_one_process_where_several_were_asked_for_is_refused(monkeypatch, tmp_path) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one, and says nothing."""
    for name in ASKED_FOR_SEVERAL:
        monkeypatch.setenv(name, "1")
    result = CliRunner().invoke(cli.app, ["run", "--pair", "tiny", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and "torchrun --nproc-per-node N -m --" in result.stderr.replace("\n", " ")
    assert not any(tmp_path.iterdir())
