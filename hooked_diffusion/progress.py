"""Progress: one bar per call, which goes when the call ends. A call inside another call draws no bar of its own.

A bar appears after two seconds, on a terminal or in a notebook; a log file gets none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

_OPEN: ContextVar[bool] = ContextVar("a bar is open", default=False)


@contextmanager
def progress_bar(total: int, label: str, unit: str, *, shown: bool = True) -> Iterator[tqdm]:
    """A bar of `total` units. It is there to `update`, but not drawn, inside another one and where `shown` is False."""
    drawn = shown and not _OPEN.get() and _is_watched()
    # Where a bar is drawn, `disable` is left to tqdm's own environment variable.
    make = tqdm if drawn else partial(tqdm, disable=True)
    before = _OPEN.set(True)
    try:
        with make(total=total, desc=label, unit=unit, delay=2, leave=False) as bar:
            yield bar
    finally:
        _OPEN.reset(before)


def _is_watched() -> bool:
    """Whether somebody sees a bar: in a notebook, whose class of bars `tqdm.auto` then is, or on a terminal."""
    return issubclass(tqdm, tqdm_notebook) or sys.stderr.isatty()
