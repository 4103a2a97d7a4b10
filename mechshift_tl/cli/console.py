"""How a command prints tables, stages and notes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd


class PatientConsole(Console):
    """A console whose reader may close the pipe (`mechshift … | head`): the work continues, and further output is dropped."""

    def on_broken_pipe(self) -> None:
        """Drop further output. By default rich would end the program, and its results would be lost."""
        self.quiet = True
        _drop_output()

    def print(self, *things: Any, **how: Any) -> None:
        """Print. Raises OSError that names standard output where it cannot be written, as on a full disk."""
        try:
            super().print(*things, **how)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from error


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
        print(f"Error: standard output cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(2)


def _drop_output() -> None:
    """Send what else is printed nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_frame(title: str, frame: pd.DataFrame) -> None:
    """Print a table; floats to three decimals."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for name, column in frame.items():
        right = all(isinstance(value, (int, float)) for value in column)
        table.add_column(str(name), justify="right" if right else "left", overflow="fold", no_wrap=str(name).startswith(("ARM", "name")))
    for values in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values))
    console.print(table)


def print_notes(notes: Iterable[str]) -> None:
    """Print what a user must know beside the numbers."""
    for note in notes:
        console.print(f"Note: {note}")


def print_stage(status: Status, stage: str) -> None:
    """Print a stage of a long job as it starts, and show it beside the spinner."""
    console.print(f"· {stage}", style="dim")
    status.update(stage)
