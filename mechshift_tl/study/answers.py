"""What the verdicts of a study are: answers, one per task, model and question, and how they are kept and shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion.artefact import JsonArtefact, write_json
from hooked_diffusion.artefact.values import without_nan
from hooked_diffusion.html import card
from mechshift_tl.plotting import COLOURS, QUIET, style

CANNOT_TELL = "cannot tell"
#: How an answer reads in a sentence about a model.
SAID = {
    ("circuit", "kept"): "the ARM's circuit is kept",
    ("circuit", "partly kept"): "the ARM's circuit is partly kept",
    ("circuit", "moved"): "the ARM's circuit has moved",
    ("circuit", "replaced"): "the ARM's circuit is replaced",
    ("circuit", CANNOT_TELL): "it cannot be told what became of the ARM's circuit",
    ("front_loaded", "yes"): "the work is front-loaded",
    ("front_loaded", "no"): "the work is not front-loaded",
    ("front_loaded", CANNOT_TELL): "it cannot be told whether the work is front-loaded",
    ("distributed", "yes"): "it is distributed",
    ("distributed", "no"): "it is not distributed",
    ("distributed", CANNOT_TELL): "it cannot be told whether it is distributed",
}


@dataclass(frozen=True)
class Answer:
    """One answer: to which question ("circuit", "front_loaded", "distributed"), for which task and role.

    `p`, `corrected`: NaN where nothing was tested. `why`: in words. `figures`: what it rests on; `smallest_…change` is what so many prompts
    can show.
    """

    task: str
    role: str
    question: str
    answer: str
    p: float
    why: str
    corrected: float = nan
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdicts(JsonArtefact):
    """Every answer of a study."""

    KIND: ClassVar[str] = "verdicts"

    answers: tuple[Answer, ...]

    def by_task(self) -> dict[str, dict[str, dict[str, object]]]:
        """`{task: {role: {question: answer, …, "figures": {question: {"p": …, "corrected": …, "why": …, …}}}}}`."""
        found: dict[str, dict[str, dict[str, object]]] = {}
        for one in self.answers:
            place = found.setdefault(one.task, {}).setdefault(one.role, {"figures": {}})
            figures = place.pop("figures")
            assert isinstance(figures, dict)
            tested: dict[str, object] = {"p": one.p, "corrected": one.corrected, "why": one.why}
            place |= {one.question: one.answer, "figures": figures | {one.question: tested | one.figures}}
        return found

    def write_by_task(self, path: str | Path) -> None:
        """Write `by_task` to `path` (JSON; NaN is null), for other programs. Raises OSError where the file cannot be written."""
        write_json(path, without_nan(self.by_task()))

    def sentence(self) -> str:
        """The verdicts in plain words, one sentence per task and line, with the figures that they rest on; empty without answers."""
        return "\n".join(self.sentences())

    def sentences(self) -> list[str]:
        """One sentence per task."""
        tasks = {one.task: None for one in self.answers}
        return [f"{task}: {'; '.join(self._of(task, role) for role in self._roles(task))}." for task in tasks]

    def _roles(self, task: str) -> list[str]:
        return list({one.role: None for one in self.answers if one.task == task})

    def _of(self, task: str, role: str) -> str:
        said = [f"{SAID[one.question, one.answer]} ({one.why})" for one in self.answers if (one.task, one.role) == (task, role)]
        name = role.upper() if role == "mdm" else role
        return f"in the {name} {', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else f"in the {name} {said[0]}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row per answer: task, role, question, answer, p, corrected, why."""
        names = ("task", "role", "question", "answer", "p", "corrected", "why")
        return pd.DataFrame([{name: getattr(one, name) for name in names} for one in self.answers], columns=list(names))

    def figure(self) -> go.Figure:
        """τ of every task and role, by id and under the best matching, with its interval; 0 and 1 are marked."""
        figure = go.Figure()
        for one in self.answers:
            if one.question != "circuit" or "tau_by_id" not in one.figures:
                continue
            x = [f"{one.task}, by id", f"{one.task}, best"]
            y, low, high = ([one.figures[f"tau_{way}{end}"] for way in ("by_id", "best")] for end in ("", "_low", "_high"))
            above, below = ([abs(end - value) for end, value in zip(ends, y, strict=True)] for ends in (high, low))
            bars = {"array": above, "arrayminus": below, "symmetric": False}
            figure.add_scatter(x=x, y=y, error_y=bars, mode="markers", name=one.role, marker_color=COLOURS.get(one.role, QUIET))
        for height in (0, 1):
            figure.add_hline(y=height, line={"color": QUIET, "width": 1, "dash": "dot"})
        figure.update_yaxes(title_text="τ")
        return style(figure, 320)

    def _repr_html_(self) -> str:
        return card("Verdicts", "", self.to_dataframe())
