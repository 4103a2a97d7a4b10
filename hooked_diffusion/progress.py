"""Progress: one bar per call, which goes when the call ends. A call inside another call draws no bar of its own.

A bar appears after two seconds, on a terminal or in a notebook; a log file gets none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

_OPEN: ContextVar[bool] = ContextVar("a bar is open", default=False)


@contextmanager
def progress_bar(total: int, label: str, unit: str, *, shown: bool = True) -> Iterator[tqdm]:
    """A bar of `total` units. It is there to `update`, but not drawn, inside another one and where `shown` is False."""
    hidden = not shown or _OPEN.get()
    # None hides a bar where nobody looks: tqdm asks whether stderr is a terminal. In a notebook, `tqdm.auto` is another class.
    unless_watched = None if issubclass(plain_tqdm, tqdm) else False
    before = _OPEN.set(True)
    try:
        with tqdm(total=total, desc=label, unit=unit, delay=2, leave=False, disable=True if hidden else unless_watched) as bar:
            yield bar
    finally:
        _OPEN.reset(before)
