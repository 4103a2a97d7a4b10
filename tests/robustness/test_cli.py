"""Every verb under every option, given what is no value of it: it runs, or one sentence refuses it with status 2; never a traceback.

A seeded sample runs with the tests; many more are marked slow. Unknown bugs still show themselves, closed and narrow outputs work.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from mechshift_tl import cli
from mechshift_tl.cli.errors import DEBUG, CannotOpen, clear_errors, opening

ARM = str(files("hooked_diffusion") / "pretrained" / "tiny" / "arm")
#: What each verb needs to be asked anything; an option among it is replaced by the one that is tried.
NEEDED: dict[str, dict[str, str]] = {
    "run": {"--pair": "nosuch", "--out": "out"},
    "attribute": {"--model": ARM, "--task": "ioi", "--n": "1", "--ig-steps": "1", "--edges": "1000000"},
    "evaluate": {"--model": ARM, "--task": "ioi", "--circuit": "nosuch.safetensors"},
    "validity": {"--task": "ioi", "--model": "nosuch"},
    "accuracy": {"--pair": "nosuch"},
    "plan": {"--pair": "nosuch"},
    "generate": {"--model": "nosuch", "--tokens": "2"},
}
HOSTILE = (
    "", " ", ".", "-1", "-5", "0", "2.5", "1e400", "inf", "nan", "99999999999999999999999", "-9223372036854775809", "nosuch", "../..", "/",
    "/dev/null", "/proc/self/mem", "{", "[]", "null", "{\"a\": 1}", "a=b", "=", "ioi,ioi", ",", "é ü", "\u202e", "x" * 300, "--help?", "%s",
)  # fmt: skip


def options_of(verb: str) -> list[tuple[str, bool]]:
    """Every option of a verb, and whether it takes a value."""
    command = typer.main.get_command(cli.app).commands[verb]  # pyright: ignore[reportAttributeAccessIssue]
    return [(one.opts[0], not one.is_flag) for one in command.params if isinstance(one, click.Option) or hasattr(one, "is_flag")]


def cases() -> list[list[str]]:
    """Every verb with every option at every hostile value."""
    made = []
    for verb, needed in NEEDED.items():
        for option, takes_value in options_of(verb):
            for value in HOSTILE if takes_value else ("",):
                asked = {**needed, option: value}
                made.append(
                    [
                        verb,
                        *(["a prompt"] if verb == "generate" else []),
                        *(word for name, text in asked.items() for word in ((name, text) if name != option or takes_value else (name,))),
                    ]
                )
    return made


def seeded(n: int) -> Iterator[list[str]]:
    return iter(random.Random(0).sample(cases(), n))


def check(asked: list[str], invoke: Callable[..., Any]) -> None:
    """It ends well, or is refused in one sentence."""
    done = invoke(*asked)
    assert done.exit_code in (0, 2) and (done.exception is None or isinstance(done.exception, SystemExit)), (asked, done.exception)
    assert "Traceback" not in done.output, asked
    assert done.exit_code == 0 or "Error" in done.output, asked


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command in an empty folder, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return lambda *asked: CliRunner().invoke(cli.app, list(asked))


def test_a_sample_of_all_options_is_run_or_refused(invoke: Callable[..., Any]) -> None:
    for asked in seeded(60):
        check(asked, invoke)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_option_at_every_value_is_run_or_refused(invoke: Callable[..., Any]) -> None:
    assert len(cases()) > 1500
    for asked in cases():
        check(asked, invoke)


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("--top", ("attribute", "--model", ARM, "--task", "ioi", "--top", "-5")),
        ("empty", ("attribute", "--model", "", "--task", "ioi")),
        ("empty", ("run", "--pair", " ", "--out", "out")),
        ("--ig-steps", ("attribute", "--model", ARM, "--task", "ioi", "--ig-steps", "1000000000")),
        ("--seed", ("attribute", "--model", ARM, "--task", "ioi", "--seed", "18446744073709551616")),
        ("--n-random", ("evaluate", "--model", ARM, "--task", "ioi", "--circuit", "x", "--n-random", "1000000000")),
        ("rate", ("plan", "--pair", "tiny", "--task", "ioi", "--n", "1", "--flops", "inf")),
        ("each once", ("accuracy", "--pair", "tiny", "--tasks", "ioi,ioi")),
        ("runs in", ("run", "--pair", "tiny", "--out", ".")),
    ],
)
def test_numbers_and_names_that_cannot_be_are_refused_by_name(invoke: Callable[..., Any], said: str, asked: tuple[str, ...]) -> None:
    done = invoke(*asked)
    assert done.exit_code == 2 and said in " ".join(done.output.split()), done.output


@pytest.mark.parametrize(
    "error", [KeyError("vocab"), ZeroDivisionError("division by zero"), RecursionError("too deep"), Exception("bad"), RuntimeError("odd")]
)
def test_whatever_opening_raises_names_what_was_opened(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, clear_errors(), opening("the model m"):
        raise error
    assert ended.value.exit_code == 2 and isinstance(ended.value.__cause__, CannotOpen)
    said = capsys.readouterr().err
    assert (
        said.startswith(f"Error: the model m cannot be opened ({type(error).__name__}")
        and said.count("\n") == 1
        and "Traceback" not in said
    )


@pytest.mark.parametrize(
    "error",
    [ValueError("v"), OSError("o"), MemoryError(), ImportError("No module named 'gguf'"), RuntimeError("CUDA error: no device"),
     RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), OSError(errno.ENOSPC, "No space left on device")],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), clear_errors():
        raise error
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [KeyError("k"), AssertionError(), AttributeError("a"), IndexError("i"), ZeroDivisionError(), RuntimeError("shape")]
)
def test_unknown_bugs_show_themselves(error: Exception) -> None:
    with pytest.raises(type(error)), clear_errors():
        raise error


def test_the_traceback_is_shown_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(DEBUG, "1")
    with pytest.raises(typer.Exit), clear_errors():
        raise ValueError("mend me")
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said and said.splitlines()[-1] == "Error: mend me"


def started(*asked: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "mechshift_tl", *asked], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_an_output_that_knows_ascii_alone() -> None:
    for asked in (("models",), ("attribute", "--help")):
        process = started(*asked)
        out, err = process.communicate()
        assert process.returncode == 0 and b"Traceback" not in err and out, err


def test_a_reader_that_goes_does_not_end_the_work(tmp_path: Path) -> None:
    asked = ("attribute", "--model", ARM, "--task", "ioi", "--n", "2", "--ig-steps", "1", "--out", str(tmp_path / "out"))
    process = started(*asked)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert process.returncode == 0 and b"Traceback" not in err, err
    assert (tmp_path / "out" / "scores.safetensors").is_file()


def test_an_output_that_is_closed(tmp_path: Path) -> None:
    asked = ["attribute", "--model", ARM, "--task", "ioi", "--n", "2", "--ig-steps", "1", "--out", str(tmp_path / "out")]
    command = f'exec {sys.executable} -m mechshift_tl "$@" >&-'
    done = subprocess.run(["sh", "-c", command, "sh", *asked], env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    assert done.returncode == 0 and b"Traceback" not in done.stderr and (tmp_path / "out" / "scores.safetensors").is_file(), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("asked", ["models", "version", "--help"])
def test_an_output_on_a_full_disk_is_one_line(asked: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "mechshift_tl", asked], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "Error: standard output cannot be written (No space left on device)\n")
