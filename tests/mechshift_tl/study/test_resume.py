"""The command, killed for real at random moments and started again: the bytes of a run that nobody disturbed, and nothing left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from shutil import rmtree

import pytest

from hooked_diffusion import load_pair
from mechshift_tl import cli
from mechshift_tl.report import write_report
from mechshift_tl.runs.stages import Stages
from mechshift_tl.study import StudyConfig, run_study
from mechshift_tl.tasks import IOI

STUDY = ("run", "--pair", "tiny", "--tasks", "ioi", "--n", 8, "--ig-steps", 2, "--held-out", 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command(*arguments: object) -> Callable[[], None]:
    return lambda: cli.app([str(argument) for argument in arguments])


def doomed(work: Callable[[], None], written: int, seconds: float) -> Callable[[], None]:
    """`work`, killed `seconds` after it has written `written` files."""
    left, fsync = [written], os.fsync

    def counting(file: int) -> None:
        fsync(file)
        left[0] -= 1
        if left[0] == 0:
            timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()

    def run() -> None:
        os.fsync = counting
        work()

    return run


def killed_until_done(forked, work: Callable[[], None], rng: random.Random, most: int) -> int:
    """Run `work` in processes killed at random moments, `most` at most, then one to the end; how many were killed."""
    kills = 0
    for _ in range(most):
        process = forked(doomed(work, rng.randint(1, 8), rng.uniform(0, 0.3)))
        process.join()
        if process.exitcode == 0:
            return kills
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    process = forked(work)
    process.join()
    assert process.exitcode == 0
    return kills


@pytest.fixture(scope="module")
def whole(tmp_path_factory, forked) -> dict[str, bytes]:
    """What an undisturbed study writes."""
    out = tmp_path_factory.mktemp("study") / "whole"
    forked(command(*STUDY, "--out", out)).join()
    return contents(out)


@pytest.mark.parametrize("held_out", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_keeping_what_is_finished_changes_no_byte(tmp_path, held_out) -> None:
    """Results that were read back say what results in memory say."""
    config = StudyConfig(n=8, ig_steps=1, held_out=held_out, n_boot=10, n_random=10, null_circuits=1, measurements="none")
    for name in ("memory", "kept"):
        folder = tmp_path / name
        study = run_study(load_pair("tiny"), [IOI()], config, folder=folder if name == "kept" else None)
        study.save(folder)
        write_report(study, folder / "report.html")
    rmtree(tmp_path / "kept" / "journal")
    assert contents(tmp_path / "kept") == contents(tmp_path / "memory")


def test_another_study_is_refused(tmp_path) -> None:
    pair, config = load_pair("tiny"), StudyConfig(n=4, ig_steps=1, held_out=0, measurements="none")
    Stages(tmp_path).claim({"n": 5})
    with pytest.raises(ValueError, match="is the journal of other work .*n is 5 there, 4 here"):
        run_study(pair, [IOI()], config, folder=tmp_path)


def test_the_same_seed_gives_the_same_bytes(whole, tmp_path, forked) -> None:
    forked(command(*STUDY, "--out", tmp_path / "again")).join()
    assert {"report.html", "table.csv", "study.json", "ioi/mdm.scores.safetensors"} <= whole.keys()
    assert contents(tmp_path / "again") == whole


def test_killed_at_random_moments_a_study_ends_with_the_same_bytes(whole, tmp_path, forked) -> None:
    assert killed_until_done(forked, command(*STUDY, "--out", tmp_path / "killed"), random.Random(0), most=4) >= 3
    assert contents(tmp_path / "killed") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["killed"]


def test_killed_at_random_moments_an_attribution_ends_with_the_same_bytes(tmp_path, forked) -> None:
    model = files("hooked_diffusion") / "pretrained" / "tiny" / "arm"
    asked = ("attribute", "--model", model, "--task", "ioi", "--n", 8, "--ig-steps", 2, "--out")
    whole = forked(command(*asked, tmp_path / "whole"))
    whole.join()
    assert killed_until_done(forked, command(*asked, tmp_path / "killed"), random.Random(1), most=3) >= 1
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


@pytest.mark.slow
def test_a_whole_study_in_its_own_processes(tmp_path) -> None:
    """Both tasks, circuits run and edges patched, in processes of their own, killed after a random time until one ends."""

    def start(out: str) -> subprocess.Popen[bytes]:
        asked = [*STUDY[:3], "--n", "8", "--ig-steps", "2", "--held-out", "2", "--out", str(tmp_path / out)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-m", "mechshift_tl", *asked], env=environment, stdout=subprocess.DEVNULL)

    started = time.monotonic()
    assert start("whole").wait() == 0
    seconds, rng, codes = time.monotonic() - started, random.Random(2), []
    while not codes or codes[-1]:
        assert len(codes) < 20
        process = start("killed")
        try:
            codes.append(process.wait(rng.uniform(0.3, 0.8) * seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(process.wait())
    assert codes.count(-signal.SIGKILL) >= 1 and set(codes) == {0, -signal.SIGKILL}
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]
