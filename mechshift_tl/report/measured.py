"""The sections of a task's measurements: each has a title, a question, its finding, a picture and the figures behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hooked_diffusion.html import table
from mechshift_tl.plotting import Drawing
from mechshift_tl.study.measurement import Finding, Measurement
from mechshift_tl.study.measurements import MEASUREMENTS
from mechshift_tl.study.results import TaskStudy


@dataclass(frozen=True)
class MeasuredSection:
    """What the page shows of one measurement; `table` is HTML, `name` a part of its id."""

    name: str
    title: str
    question: str
    finding: str
    drawing: Drawing
    table: Markup

    @classmethod
    def of(cls, kind: Measurement[Any], result: Finding) -> MeasuredSection:
        """The section of one result."""
        drawing = Drawing(result.figure(), kind.title, kind.question)
        return cls(kind.name, kind.title, kind.question, result.finding(), drawing, table(result.to_dataframe(), missing="–"))


def measured_sections(task: TaskStudy, of: Sequence[Measurement[Any]] = MEASUREMENTS) -> list[MeasuredSection]:
    """One section per measurement of a task, in the order of `study.measurements`."""
    return [MeasuredSection.of(kind, task.measured[kind.name]) for kind in of if kind.name in task.measured]
