"""The evidence of one task, as sections in their order: each has a title, what it asks, what was found, and a figure."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from hooked_diffusion.html import table
from mechshift_tl.plotting import Drawing
from mechshift_tl.report import figures
from mechshift_tl.study.claims import Claim, claims_in
from mechshift_tl.study.measurement import Finding, Measurement
from mechshift_tl.study.measurements import MEASUREMENTS
from mechshift_tl.study.results import TaskStudy
from mechshift_tl.views.playback import Playback


@dataclass(frozen=True)
class Section:
    """One folded section; `name` is a part of its id, `table` HTML. `of_method`: it checks the method and says nothing of the models."""

    name: str
    title: str
    question: str
    drawing: Drawing | None = None
    claims: list[Claim] = field(default_factory=list)
    described: list[str] = field(default_factory=list)
    table: Markup | None = None
    of_method: bool = False

    @classmethod
    def measured(cls, kind: Measurement[Any], result: Finding) -> Section:
        """The section of a measurement's result."""
        found = claims_in(result.finding())
        what = (inspect.getdoc(result.figure) or kind.question).split("\n\n")[0].replace("\n", " ")  # says what is drawn, in a sentence
        drawing = Drawing(result.figure(), kind.title, what)
        frame = table(result.to_dataframe(), missing="–")
        return cls(kind.name, kind.title, kind.question, drawing, found.claims, found.described, frame, kind.of_method)


def sections(task: TaskStudy, of: Sequence[Measurement[Any]] = MEASUREMENTS) -> list[Section]:
    """Curves of overlap and faithfulness, then every measurement of the task, in the order of `study.measurements`."""
    return [*_curves(task), *measured(task, of)]


def measured(task: TaskStudy, of: Sequence[Measurement[Any]] = MEASUREMENTS) -> Iterator[Section]:
    """One per measurement. A run to be played has a player instead."""
    for kind in of:
        result = task.measured.get(kind.name)
        if result is not None and not isinstance(result, Playback):
            yield Section.measured(kind, result)


def playback(task: TaskStudy) -> Playback | None:
    """The run that the page can play; None where the study kept none."""
    return next((one for one in task.measured.values() if isinstance(one, Playback)), None)


def _curves(task: TaskStudy) -> Iterator[Section]:
    if curve := figures.overlap_curves(task):
        yield Section("curve", curve.title, "Does the overlap hang on the size of the circuits?", curve)
    if faithful := figures.faithfulness_curves(task):
        yield Section("faithfulness-curve", faithful.title, "How many edges does a circuit need to do what its model does?", faithful)
