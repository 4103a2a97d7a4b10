"""How a command ends: with its results, or with one line that says what to correct.

What a checkpoint, a tokenizer, a file, a device or another process raises becomes that line, and exit status 2:

1. Errors that this library and Python raise for a cause that a user can correct: ValueError, OSError, … (`MENDABLE`).
2. Whatever is raised while a file or checkpoint is opened (`opening`): other libraries raise anything there, even KeyError.
3. RuntimeErrors that say that memory ran out, that a device is absent, or that another process of the job is lost.

Everything else is a bug, and shows itself with its traceback. MECHSHIFT_DEBUG=1 shows the traceback of all of them.
"""

from __future__ import annotations

import errno
import json
import os
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from mechshift_tl.cli.console import STANDARD_OUTPUT, console, print_last, print_notes

if TYPE_CHECKING:
    from mechshift_tl.runs.processes import Processes

DEBUG = "MECHSHIFT_DEBUG"
#: How long a failed process leaves its launcher to end it, before it speaks for itself.
LAUNCHER_SECONDS = 3
#: Errors whose cause a user can correct. ImportError: an extra that is not installed.
MENDABLE = (ValueError, TypeError, OSError, FloatingPointError, MemoryError, ImportError)
#: How RuntimeErrors of PyTorch begin, or what they hold, where a device or another process is the cause.
OF_DEVICES = ("CUDA", "HIP error", "MPS", "No available", "Torch not compiled", "Invalid device", "Expected one of cpu, cuda")
OF_PROCESSES = ("gloo", "NCCL", "Connection closed by peer", "Timed out waiting", "DistNetworkError")


class CannotOpen(ValueError):
    """A file or checkpoint that could not be opened, for a reason that some library gave in its own words."""


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn errors that a user can correct into one line and exit status 2; a run that is already finished exits with 0.

    Where several processes were launched, the first prints for all. Another that fails alone waits a moment, so that the launcher can end
    it.
    """
    from mechshift_tl.runs.processes import Processes, ProcessFailed
    from mechshift_tl.runs.same_work import AlreadyFinished

    # Alone for now: `here` itself may fail, and its error must be printed.
    processes = Processes()
    try:
        processes = Processes.here()
        console.quiet = not (processes.is_first and console.speaks)
        with _warnings_as_notes():
            yield
        processes.part()
        _print_record(processes)
    except AlreadyFinished as finished:
        print_last(str(finished), finished=str(finished))
        _print_record(processes)
    except (*MENDABLE, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_mendable(error):
            raise
        if not processes.is_first:
            # Usually the first process says it, and the launcher ends this one while it sleeps.
            time.sleep(LAUNCHER_SECONDS)
        if processes.is_first or not isinstance(error, ProcessFailed):
            _say(error)
        raise typer.Exit(2) from error
    finally:
        # The next command of this process begins anew.
        console.found, console.only_last = None, False


def _print_record(processes: Processes) -> None:
    """What `--json` has gathered, as one line that any program reads."""
    if console.found is not None and processes.is_first:
        print(json.dumps(console.found, default=str))  # `print`, since rich would break long lines


@contextmanager
def opening(what: str) -> Iterator[None]:
    """Around the opening of `what`, a file or checkpoint: an error of any type becomes a ValueError that names it.

    Errors that are clear already (`MENDABLE`), lost processes and a lack of memory pass unchanged.
    """
    try:
        yield
    except MENDABLE:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and _is_mendable(error):
            raise
        reason = f"{type(error).__name__}: {_one_line(error)}" if str(error) else type(error).__name__
        raise CannotOpen(f"{what} cannot be opened ({reason}); check its files, or fetch it again") from error


def refusal(error: ValueError) -> typer.Exit:
    """The end of a command that was given what cannot be, before a verb runs: one line and exit status 2."""
    _say(error)
    return typer.Exit(2)


def _is_mendable(error: RuntimeError) -> bool:
    """Whether a RuntimeError says that memory ran out, or that a device or another process is missing."""
    from mechshift_tl.runs.out_of_memory import is_out_of_memory
    from mechshift_tl.runs.processes import ProcessFailed

    said = any(words in str(error) for words in (*OF_DEVICES, *OF_PROCESSES))
    return isinstance(error, ProcessFailed) or is_out_of_memory(error) or (said and not isinstance(error, RecursionError))


def _say(error: BaseException) -> None:
    """One line on standard error; the traceback before it where it is asked for."""
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exception(error)
    text = _one_line(error) if isinstance(error, RuntimeError) else str(error)
    if isinstance(error, OSError) and error.filename == STANDARD_OUTPUT:
        text = f"{STANDARD_OUTPUT} cannot be written ({error.strerror})"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        text = f"a file or standard output cannot be written ({error.strerror}); make room, then give the command again"
    if console.found is not None:
        print(json.dumps({"error": text or "out of memory"}))
        return
    Console(stderr=True).print(Text.assemble(("Error:", "bold red"), f" {text or 'out of memory'}"), soft_wrap=True)


def _one_line(error: BaseException) -> str:
    """The message without line breaks, cut where it is long: other libraries add pages of advice to theirs."""
    words = " ".join(str(error).split())
    return words if len(words) <= 300 else f"{words[:299]}…"


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Print what an attribution warns of as notes."""
    from mechshift_tl.attribution.accumulate import BatchHalved

    with warnings.catch_warnings():
        # `catch_warnings` puts this function back at the end.
        shown = warnings.showwarning

        def show(message: Any, *details: Any) -> None:  # as Python hands a warning on
            if isinstance(message, BatchHalved):
                print_notes([str(message)])
            else:
                shown(message, *details)

        warnings.showwarning = show
        yield
