"""How a malformed input ends, told from outside: in a process of its own, with a limit on time and on memory.

`outcome_of(action)` runs `action` in a child of this process and says how it ended:

- "ran": it returned;
- "refused": it raised a ValueError or an OSError whose message is one line;
- "traceback": it raised anything else, or a message of several lines;
- "too long", "too much memory", "crashed": the limits of `SECONDS` and `GIB`, or a signal.

Only "ran" and "refused" are good. A child is a fork, so models and fixtures of this process are there without being made again.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mechshift_tl import cli

SECONDS, GIB = 20.0, 2.0
GOOD = ("ran", "refused")


@dataclass(frozen=True)
class Outcome:
    """How one input ended: `kind` (see the module docstring), what was `said`, and after how many `seconds`."""

    kind: str
    said: str
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether a user is served: it ran, or was refused in one line."""
        return self.kind in GOOD


def _classify(error: BaseException) -> tuple[str, str]:
    """The outcome of an action that raised `error`."""
    said = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "not enough memory" in said:
        return "too much memory", said
    if isinstance(error, (ValueError, OSError)) and said.strip() and "\n" not in said:
        return "refused", said
    return "traceback", "".join(traceback.format_exception(error))


def _in_child(action: Callable[[], object], channel: int, gib: float) -> None:
    """Run the action and write how it ended; never returns."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    most = used + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    try:
        action()
        found = ("ran", "")
    except BaseException as error:  # whatever it is, it is to be told apart
        found = _classify(error)
    os.write(channel, json.dumps([found[0], found[1][-3000:]]).encode("ascii"))
    os._exit(0)


def _outcome_of(action: Callable[[], object], seconds: float = SECONDS, gib: float = GIB) -> Outcome:
    read, write = os.pipe()
    started, child = time.monotonic(), os.fork()
    if child == 0:
        os.close(read)
        _in_child(action, write, gib)
    os.close(write)
    said = b""
    with selectors.DefaultSelector() as waiting, open(read, "rb", buffering=0) as channel:
        waiting.register(channel, selectors.EVENT_READ)
        while (left := seconds - (time.monotonic() - started)) > 0:
            if waiting.select(left):
                part = channel.read(65536)
                if not part:
                    break
                said += part
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Outcome("too long", "", time.monotonic() - started)
    _, status = os.waitpid(child, 0)
    took = time.monotonic() - started
    if not said:
        return Outcome("crashed", f"status {status}", took)
    kind, text = json.loads(said)
    return Outcome(kind, text, took)


@pytest.fixture(scope="session")
def outcome_of() -> Callable[..., Outcome]:
    """`outcome_of(action, seconds=20, gib=2)`: how calling `action` ends; see the module docstring."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    return _outcome_of


@pytest.fixture(scope="session")
def outcome_of_command(outcome_of: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """`outcome_of_command("inspect", path, …)`: how `mechshift` ends. "refused" is exit status 2 with one line that begins with Error."""

    def run(*arguments: object) -> Outcome:
        def command() -> None:
            result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
            lines = [line for line in result.output.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("Error:")]
            if result.exit_code == 2 and len(errors) == 1 and "Traceback" not in result.output:
                raise ValueError(errors[0])
            if result.exit_code:
                raise RuntimeError(result.output) from result.exception

        return outcome_of(command)

    return run


class Tally:
    """Outcomes of many inputs, counted; `check` fails on the first that is not good, and shows the input."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def check(self, outcome: Outcome, input: object) -> None:
        """Count an outcome. Raises AssertionError naming the input and what was said, unless the outcome is good."""
        self.counts[outcome.kind] += 1
        assert outcome.is_good, f"{outcome.kind} after {outcome.seconds:.1f} s on {input!r}:\n{outcome.said}"


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Any:
    """A `Tally` that prints its counts at the end of the test (seen with -s)."""
    counted = Tally()
    yield counted
    print(f"{request.node.name}: {dict(counted.counts)}", file=sys.stderr)


@pytest.fixture
def serve(outcome_of: Callable[..., Outcome], tally: Tally) -> Callable[[Path, Callable[[Path], object]], None]:
    """`serve(path, read)`: the file at `path` is read, or refused in one line that names it; see the module docstring."""

    def check(path: Path, read: Callable[[Path], object]) -> None:
        outcome = outcome_of(lambda: read(path))
        tally.check(outcome, path.read_bytes()[:600])
        assert outcome.kind != "refused" or path.name in outcome.said, f"the file is not named: {outcome.said}"

    return check
