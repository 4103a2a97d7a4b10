"""Tasks: what the models are asked to do, as pairs of clean and corrupt prompts."""

from typing import TypeAlias

from mechshift_tl.tasks.arithmetic import Arithmetic
from mechshift_tl.tasks.countdown import Countdown
from mechshift_tl.tasks.examples import Example, Examples, TextPair
from mechshift_tl.tasks.greater_than import GreaterThan
from mechshift_tl.tasks.infilling import SemanticInfilling
from mechshift_tl.tasks.ioi import IOI
from mechshift_tl.tasks.task import Task

__all__ = [
    "IOI",
    "TASKS",
    "Arithmetic",
    "Countdown",
    "Example",
    "Examples",
    "GreaterThan",
    "SemanticInfilling",
    "Task",
    "TextPair",
    "task_class",
]

TaskClass: TypeAlias = type[IOI] | type[GreaterThan] | type[Countdown] | type[SemanticInfilling] | type[Arithmetic]
TASKS: dict[str, TaskClass] = {task.name: task for task in (IOI, GreaterThan, Countdown, SemanticInfilling, Arithmetic)}


def task_class(name: str) -> TaskClass:
    """The class of the task called `name`. Raises ValueError, listing the known names, on any other."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]
