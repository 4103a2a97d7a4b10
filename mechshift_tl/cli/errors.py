"""How a command ends: with its results, or with one line that says what to mend."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from mechshift_tl.cli.console import console, print_notes

#: How long a failed process leaves its launcher to end it, before it speaks for itself.
LAUNCHER_SECONDS = 3


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn the errors that a user can mend into one line and exit status 2, and the end of a run that had ended before into none.

    Of processes launched together the first speaks for all; another, failing alone, waits for the launcher to end it first.
    """
    from mechshift_tl.runs.out_of_memory import is_out_of_memory
    from mechshift_tl.runs.processes import Processes, ProcessFailed
    from mechshift_tl.runs.same_work import AlreadyFinished

    processes = Processes()
    try:
        processes = Processes.here()
        console.quiet = not processes.is_first
        with _warnings_as_notes():
            yield
        processes.part()
    except AlreadyFinished as finished:
        console.print(str(finished))
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError, RuntimeError) as error:
        known = not isinstance(error, RuntimeError) or isinstance(error, ProcessFailed) or is_out_of_memory(error)
        if not known:
            raise
        if not processes.is_first:
            time.sleep(LAUNCHER_SECONDS)
        if processes.is_first or not isinstance(error, ProcessFailed):
            Console(stderr=True).print(Text.assemble(("Error:", "bold red"), f" {error or 'out of memory'}"), soft_wrap=True)
        raise typer.Exit(2) from error


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Print what an attribution warns of as notes."""
    from mechshift_tl.attribution.accumulate import BatchHalved

    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Any, *details: Any) -> None:
            if isinstance(message, BatchHalved):
                print_notes([str(message)])
            else:
                shown(message, *details)

        warnings.showwarning = show
        yield
