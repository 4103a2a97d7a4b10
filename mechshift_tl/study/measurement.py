"""One measurement of a study: how it is made from a task's parts, which file keeps it, and what a report asks of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pandas as pd
import plotly.graph_objects as go

from mechshift_tl.runs.stages import Savable, Stages
from mechshift_tl.study.parts import TaskParts


class Finding(Savable, Protocol):
    """A measurement's result."""

    def finding(self) -> str:
        """What was found, in one or two sentences with their figures."""
        ...

    def figure(self) -> go.Figure:
        """A picture of it."""
        ...

    def to_dataframe(self) -> pd.DataFrame:
        """The figures behind it."""
        ...


T = TypeVar("T", bound=Finding)


def _always(parts: TaskParts) -> bool:
    return True


@dataclass(frozen=True)
class Measurement(Generic[T]):
    """A measurement, made once per task.

    - `name`: what `StudyConfig.measurements` calls it. `title`, `question`: of its section in a report.
    - `file`: in the task's folder, read back by `load`. `make`: the work. `applies`: whether there is anything to measure (cheap).
    - `quick`: whether a quick study makes it. `of_method`: whether it checks the method, so that it says nothing of the models.
    """

    name: str
    title: str
    question: str
    file: str
    load: Callable[[Path], T]
    make: Callable[[TaskParts], T]
    applies: Callable[[TaskParts], bool] = _always
    quick: bool = False
    of_method: bool = False

    def stage(self, parts: TaskParts, stages: Stages) -> T:
        """The result, kept in its file: made once, whatever happens to the job."""
        label = f"{parts.name}: {self.title[0].lower()}{self.title[1:]}"
        parts.progress(label)
        told = replace(parts, progress=lambda step: parts.progress(f"{label}, {step}"))
        return stages.result(self.file, self.load, lambda: self.make(told))
