"""Tasks: what the models are asked to do, as pairs of clean and corrupt prompts."""

from mechshift_tl.tasks.countdown import Countdown
from mechshift_tl.tasks.examples import Example, Examples, TextPair
from mechshift_tl.tasks.ioi import IOI
from mechshift_tl.tasks.task import Task

__all__ = ["IOI", "TASKS", "Countdown", "Example", "Examples", "Task", "TextPair", "task_class"]

TASKS: dict[str, type[IOI] | type[Countdown]] = {"ioi": IOI, "countdown": Countdown}


def task_class(name: str) -> type[IOI] | type[Countdown]:
    """The class of the task called `name`. Raises ValueError, listing the known names, on any other."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]
