"""One thread at a time on one model.

A run puts hooks on the model, freezes its weights or switches its attention, and undoes that at the end. A second thread would run under
the first one's hooks, and could leave the weights frozen. So the first thread that enters a model has it until it leaves. The same thread
may enter again, and other models are free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import Lock, get_ident
from typing import Any, TypeVar, cast

Method = TypeVar("Method", bound=Callable[..., object])


class ModelInUse(RuntimeError):
    """Another thread is at work on the model."""


#: Which thread is in which model (by `id`: an entry lives no longer than the call that holds the model), and how often it has entered.
_held: dict[int, tuple[int, int]] = {}
_lock = Lock()


@contextmanager
def in_one_thread(model: object) -> Iterator[None]:
    """Inside, no other thread can enter the model. Raises `ModelInUse` at once when another thread is in it."""
    me, key = get_ident(), id(model)
    with _lock:
        owner, depth = _held.get(key, (me, 0))
        if owner != me:
            raise ModelInUse(
                f"another thread is running this {type(model).__name__}, with hooks, weights or attention of its own; "
                "wait until it has finished, or load the model once for each thread"
            )
        _held[key] = (me, depth + 1)
    try:
        yield
    finally:
        with _lock:
            # `depth` counts the entries before this one. At 0 the outermost call ends, and the model is free again.
            if depth:
                _held[key] = (me, depth)
            else:
                del _held[key]


def one_thread(method: Method) -> Method:
    """A method of a model that runs `in_one_thread` of it."""

    @wraps(method)
    def guarded(self: object, *args: Any, **kwargs: Any) -> object:  # whatever the method takes
        with in_one_thread(self):
            return method(self, *args, **kwargs)

    return cast(Method, guarded)
