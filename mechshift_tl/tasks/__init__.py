"""Tasks: what the models are asked to do."""

from mechshift_tl.tasks.countdown import Countdown
from mechshift_tl.tasks.ioi import IOI
from mechshift_tl.tasks.task import Example, Examples, Task, TextPair

__all__ = ["IOI", "Countdown", "Example", "Examples", "Task", "TextPair"]
