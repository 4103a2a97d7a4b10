"""Tasks: what the models are asked to do, as pairs of clean and corrupt prompts.

Names are imported when they are asked for, so that the names of tasks (`catalogue`) are known before torch is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from mechshift_tl.tasks.catalogue import CATALOGUE, task_name

if TYPE_CHECKING:
    from mechshift_tl.tasks.arithmetic import Arithmetic
    from mechshift_tl.tasks.countdown import Countdown
    from mechshift_tl.tasks.examples import Example, Examples, TextPair
    from mechshift_tl.tasks.greater_than import GreaterThan
    from mechshift_tl.tasks.infilling import SemanticInfilling
    from mechshift_tl.tasks.ioi import IOI
    from mechshift_tl.tasks.prompts import Prompts
    from mechshift_tl.tasks.task import Task

    TaskClass: TypeAlias = type[IOI] | type[GreaterThan] | type[Countdown] | type[SemanticInfilling] | type[Arithmetic]
    TASKS: dict[str, TaskClass]

__all__ = [
    "IOI",
    "TASKS",
    "Arithmetic",
    "Countdown",
    "Example",
    "Examples",
    "GreaterThan",
    "Prompts",
    "SemanticInfilling",
    "Task",
    "TextPair",
    "task_class",
]

_HOME = {entry.class_name: entry.module for entry in CATALOGUE.values()}
_HOME |= {"Example": "examples", "Examples": "examples", "TextPair": "examples", "Prompts": "prompts", "Task": "task"}


def __getattr__(name: str) -> Any:
    if name == "TASKS":
        return {task: task_class(task) for task in CATALOGUE}
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def task_class(name: str) -> TaskClass:
    """The class of the task called `name`, in any case. Raises ValueError, listing the known names and the nearest, on any other."""
    return __getattr__(CATALOGUE[task_name(name)].class_name)
