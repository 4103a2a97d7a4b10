"""How a command prints tables, stages and notes: as text; under `--quiet` its last line alone; under `--json` one object at its end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.status import Status

from mechshift_tl.cli.tables import tables

if TYPE_CHECKING:
    import pandas as pd


class PatientConsole(Console):
    """A console whose reader may close the pipe (`mechshift … | head`): the work continues, and further output is dropped."""

    #: What `--json` prints at the end, by name. None: text is printed as it comes.
    found: dict[str, object] | None = None
    #: Whether the last line alone is printed.
    only_last: bool = False

    @property
    def speaks(self) -> bool:
        """Whether text is printed as it comes."""
        return self.found is None and not self.only_last

    def on_broken_pipe(self) -> None:
        """Drop further output. By default rich would end the program, and its results would be lost."""
        self.quiet = True
        _drop_output()

    def print(self, *things: Any, **how: Any) -> None:
        """Print. Raises OSError that names standard output where it cannot be written, as on a full disk."""
        try:
            super().print(*things, **how)
        except OSError as error:
            raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from error


STANDARD_OUTPUT = "standard output"
console = PatientConsole(markup=False)  # what is printed may hold brackets of its own


def settle_streams() -> None:
    """Make standard output accept all text: it may be closed, or not know the characters that tables are drawn with."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it is open as long as the program runs)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def printing() -> Iterator[None]:
    """Around the command: where standard output cannot be written, end with one line and exit status 2."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # what is buffered fails here, and not when Python ends
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        _drop_output()
        print(f"Error: {STANDARD_OUTPUT} cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(2)


def _drop_output() -> None:
    """Send what else is printed nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_frame(title: str, frame: pd.DataFrame, key: str) -> None:
    """Print a table, floats to three decimals; `key` is its name under `--json`."""
    if console.found is not None:
        # By pandas, which knows how numpy's numbers and NaN are written.
        console.found[key] = json.loads(str(frame.to_json(orient="records")))
    for table in tables(title, frame, console.width):
        console.print(table)


def print_notes(notes: Iterable[str]) -> None:
    """Print what a user must know beside the numbers."""
    for note in notes:
        console.print(f"Note: {note}", soft_wrap=True)
        if console.found is not None:
            told = console.found.setdefault("notes", [])
            assert isinstance(told, list)
            told.append(note)


def print_last(text: str, /, **facts: object) -> None:
    """Print the last line of a command, which `--quiet` prints too; `facts` are what `--json` has in its place."""
    if console.found is not None:
        console.found |= facts
        return
    quiet, console.quiet = console.quiet, console.quiet and not console.only_last
    console.print(text, soft_wrap=True)
    console.quiet = quiet


class Stages:
    """The stages of a long job: each is printed as it starts, "· 3/15 … (1 min 20 s, 5 min left)", and shown beside the spinner.

    `total` counts the stages; None where nobody knows. A text that begins with the stage before it, and a comma, is a part of that stage.
    """

    def __init__(self, status: Status, total: int | None = None) -> None:
        self.status, self.total, self.done, self.stage, self.started = status, total, 0, "", time.monotonic()

    def __call__(self, text: str) -> None:
        """The stage called `text` starts."""
        if not (self.stage and text.startswith(f"{self.stage}, ")):
            self.done, self.stage = self.done + 1, text
            console.print(f"· {self._place()} {text}{self._times()}", style="dim", soft_wrap=True)
        self.status.update(f"{self._place()} {text}")

    def _place(self) -> str:
        return str(self.done) if self.total is None else f"{self.done}/{self.total}"

    def _times(self) -> str:
        """Elapsed and remaining time, if stages take as long as those so far; none before the second."""
        elapsed, before = time.monotonic() - self.started, self.done - 1
        if not before:
            return ""
        left = "" if self.total is None else f", some {_span(elapsed / before * max(0, self.total - before))} left"
        return f" ({_span(elapsed)}{left})"


def _span(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes} min {left} s" if minutes else f"{left} s"
