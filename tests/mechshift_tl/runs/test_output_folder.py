"""Where a command works: one run at a time, settings that must agree, and real faults of the disk that leave nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import mechshift_tl.study  # noqa: F401 (what the command imports late, the forks need not import each)
from hooked_diffusion import artefact
from mechshift_tl import cli
from mechshift_tl.runs.output_folder import output_folder
from mechshift_tl.runs.same_work import AlreadyFinished
from mechshift_tl.runs.stages import Stages

SETTINGS = {"command": "run", "n": 200, "seed": 0}
MODEL = files("hooked_diffusion") / "pretrained" / "tiny" / "arm"


def finish_something(folder: Path) -> None:
    (folder / "scores.safetensors").write_bytes(b"finished")


def partial(tmp_path: Path) -> Path:
    return tmp_path / ".out.partial"


@pytest.fixture
def stopped(tmp_path, forked) -> Path:
    """An output folder whose run was killed after it had finished something."""

    def work() -> None:
        with output_folder(tmp_path / "out", SETTINGS) as folder:
            finish_something(folder)
            os.kill(os.getpid(), signal.SIGKILL)

    forked(work).join()
    assert partial(tmp_path).is_dir()
    return tmp_path / "out"


def test_results_appear_whole(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    with output_folder(tmp_path / "out", SETTINGS) as folder:
        (folder / "journal").mkdir()
        finish_something(folder)
        assert not any((tmp_path / "out").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["run.json", "scores.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_second_run_is_refused_and_told_by_whom(tmp_path, forked) -> None:
    def work() -> None:
        with output_folder(tmp_path / "out", SETTINGS):
            time.sleep(60)

    holder = forked(work)
    while not (partial(tmp_path) / "results").is_dir():
        time.sleep(0.01)
    with pytest.raises(ValueError, match=f"process {holder.pid} on .* is writing"), output_folder(tmp_path / "out", SETTINGS, fresh=True):
        pytest.fail("two runs into one folder")
    assert (partial(tmp_path) / "results").is_dir()
    holder.kill()
    holder.join()
    with output_folder(tmp_path / "out", SETTINGS) as folder:  # the lock of a dead process blocks nobody
        finish_something(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_stopped_run_goes_on_under_its_own_settings_only(stopped) -> None:
    said: list[str] = []
    with pytest.raises(ValueError, match=r"other settings \(n is 200 there, 100 here\); give those, or discard it with --fresh"):
        output_folder(stopped, {**SETTINGS, "n": 100}).__enter__()
    with output_folder(stopped, SETTINGS, say=said.append) as folder:
        assert (folder / "scores.safetensors").read_bytes() == b"finished"
    assert said == [f"Going on from {stopped.with_name('.out.partial')}"] and stopped.is_dir()


def test_fresh_discards_what_was_finished(stopped) -> None:
    with output_folder(stopped, {**SETTINGS, "n": 100}, fresh=True) as folder:
        assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_a_failed_run_keeps_what_is_finished_and_nothing_else(tmp_path) -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "out", SETTINGS):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "out", SETTINGS, say=said.append) as folder:
        finish_something(folder)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"] and "the same command goes on" in said[0]


def test_a_run_stopped_before_anything_was_finished_binds_nobody(tmp_path) -> None:
    (partial(tmp_path) / "results").mkdir(parents=True)
    (partial(tmp_path) / "results" / "run.json").write_text(json.dumps({**SETTINGS, "processes": 1}))
    with output_folder(tmp_path / "out", {**SETTINGS, "n": 5}) as folder:
        finish_something(folder)
    assert (tmp_path / "out" / "scores.safetensors").is_file()


def test_a_full_folder_is_never_touched(tmp_path, stopped) -> None:
    stopped.mkdir()
    (stopped / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        output_folder(stopped, SETTINGS).__enter__()
    with pytest.raises(ValueError, match="is not empty"):
        output_folder(stopped, SETTINGS, fresh=True).__enter__()
    assert (stopped / "thesis.txt").read_text() == "mine" and (partial(tmp_path) / "results" / "scores.safetensors").is_file()


def test_what_is_finished_is_not_done_again(stopped) -> None:
    """Killed between moving the results and tidying up, or started a second time."""
    (stopped.with_name(".out.partial") / "results").rename(stopped)
    for _ in range(2):
        with pytest.raises(AlreadyFinished, match="holds this run already"):
            output_folder(stopped, SETTINGS).__enter__()
        assert [path.name for path in stopped.parent.iterdir()] == ["out"] and (stopped / "scores.safetensors").is_file()
    for settings, fresh in (({**SETTINGS, "n": 5}, False), (SETTINGS, True)):
        with pytest.raises(ValueError, match="is not empty"):
            output_folder(stopped, settings, fresh=fresh).__enter__()


def test_work_that_cannot_be_continued_begins_anew_and_leaves_nothing(tmp_path, stopped) -> None:
    (partial(tmp_path) / "results" / "stale.safetensors").write_bytes(b"half")
    with pytest.raises(KeyboardInterrupt), output_folder(stopped) as folder:
        assert not any(folder.iterdir())
        finish_something(folder)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with output_folder(stopped) as folder:
        finish_something(folder)
        with pytest.raises(ValueError, match="is writing"):
            output_folder(stopped).__enter__()
    assert [path.name for path in stopped.iterdir()] == ["scores.safetensors"]
    with pytest.raises(ValueError, match="is not empty"):
        output_folder(stopped).__enter__()


def test_results_of_other_weights_are_not_this_run(tmp_path) -> None:
    """The settings agree; what the work claims on the way decides."""
    with output_folder(tmp_path / "out", SETTINGS) as folder:
        Stages(folder).claim({"weights": "a"})
        finish_something(folder)
    held = json.loads((tmp_path / "out" / "run.json").read_text())
    assert held == {**SETTINGS, "processes": 1, "work": {"weights": "a"}}
    for weights, error, said in (("a", AlreadyFinished, "holds this run already"), ("b", ValueError, r'other work \(weights is "a" there')):
        with pytest.raises(error, match=said), output_folder(tmp_path / "out", SETTINGS) as folder:
            Stages(folder).claim({"weights": weights})
            pytest.fail("the work was done again")
    with pytest.raises(AlreadyFinished), output_folder(tmp_path / "out", SETTINGS):
        pass  # work that makes no claim does not replace the results
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and json.loads((tmp_path / "out" / "run.json").read_text()) == held


def test_a_stopped_run_goes_on_under_its_own_claim_only(tmp_path) -> None:
    for journal in (True, False):  # stopped amid the work, and between removing the journal and moving the results
        with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "out", SETTINGS) as folder:
            Stages(folder).claim({"weights": "a"})
            finish_something(folder)
            if not journal:
                (folder / "run.json").write_text(json.dumps({**SETTINGS, "processes": 1, "work": {"weights": "a"}}))
                (folder / "journal" / "journal.json").unlink()
            raise KeyboardInterrupt
        with pytest.raises(ValueError, match="is the journal of other work"), output_folder(tmp_path / "out", SETTINGS) as folder:
            Stages(folder).claim({"weights": "b"})
    with output_folder(tmp_path / "out", SETTINGS) as folder:
        Stages(folder).claim({"weights": "a"})
    assert (tmp_path / "out" / "scores.safetensors").is_file()


def test_outputs_that_cannot_be_replaced_are_refused_before_any_work(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out, said in (("file", "a file, not a folder"), ("here", "the folder that the command runs in")):
        with pytest.raises(ValueError, match=said):
            output_folder(tmp_path / out, SETTINGS).__enter__()
    for out, said in ((Path("."), "runs in"), (Path(".."), "is not empty"), (Path("/proc"), "a mount point"), (Path("/"), "a mount point")):
        with pytest.raises(ValueError, match=said):
            output_folder(out, SETTINGS).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file", "here"]


def test_a_link_stays_a_link_to_the_results(tmp_path) -> None:
    """To a folder that is empty, and to one that is not there yet."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        link = tmp_path / f"link to {name}"
        link.symlink_to(tmp_path / name)
        with output_folder(link, SETTINGS) as folder:
            finish_something(folder)
        assert link.is_symlink() and (tmp_path / name / "scores.safetensors").is_file()


def test_what_someone_else_could_write_is_not_worked_in(tmp_path) -> None:
    (tmp_path / "victim").mkdir()
    partial(tmp_path).symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match="not a folder that you alone may write"):
        output_folder(tmp_path / "out", SETTINGS).__enter__()
    partial(tmp_path).unlink()
    partial(tmp_path).mkdir()
    partial(tmp_path).chmod(0o777)
    with pytest.raises(ValueError, match="not a folder that you alone may write"):
        output_folder(tmp_path / "out", SETTINGS).__enter__()
    partial(tmp_path).rmdir()
    if os.geteuid() == 0:
        partial(tmp_path).mkdir()
        os.chown(partial(tmp_path), 65534, 65534)
        with pytest.raises(ValueError, match="not a folder that you alone may write"):
            output_folder(tmp_path / "out", SETTINGS).__enter__()
        partial(tmp_path).rmdir()
    with output_folder(tmp_path / "out", SETTINGS) as folder:
        assert stat.S_IMODE(partial(tmp_path).stat().st_mode) == 0o700
        finish_something(folder)
    assert not any((tmp_path / "victim").iterdir())


def test_results_follow_the_umask(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        with output_folder(tmp_path / "out", SETTINGS) as folder:
            artefact.write(folder / "scores.safetensors", "scores", {"matrix": torch.zeros(2)}, {})
            artefact.write_json(folder / "table.json", [])
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "out", *(tmp_path / "out").iterdir()]}
    assert modes == {"out": 0o750, "run.json": 0o640, "scores.safetensors": 0o640, "table.json": 0o640}


ATTRIBUTE = ("attribute", "--model", str(MODEL), "--task", "ioi", "--n", "6", "--ig-steps", "1", "--out")


@pytest.mark.parametrize("limit", [300, 5_000, 15_000])
def test_a_disk_that_takes_no_more(tmp_path, forked, capfd, limit) -> None:
    """The kernel refuses to let files grow (RLIMIT_FSIZE, which needs no privileges): at the journal's mark, at a batch, at the scores."""

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        cli.app([*ATTRIBUTE, str(tmp_path / "out")])

    process = forked(work)
    process.join()
    said = capfd.readouterr()
    assert process.exitcode == 2 and said.err.count("Error:") == 1 and "too large" in said.err and "Traceback" not in said.err
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.rglob("*.draft")]
    result = CliRunner().invoke(cli.app, [*ATTRIBUTE, str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_written(forked, capfd) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)

        def work() -> None:
            if os.geteuid() == 0:
                os.seteuid(65534)  # root may write anywhere
            cli.app([*ATTRIBUTE, f"{name}/out"])

        process = forked(work)
        process.join()
        said = capfd.readouterr()
        assert process.exitcode == 2 and said.err.count("Error:") == 1 and "Permission denied" in said.err
        assert not list(Path(name).iterdir())
