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


@dataclass(frozen=True)
class Answer:
    """One answer: to which question ("circuit", "front_loaded", "distributed"), for which task and role.

    `p`, `corrected`: NaN where nothing was tested. `why`: in words. `figures`: what it rests on; `smallest…` is the change that so many
    prompts can show.
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
        """`{task: {role: {question: answer, …, "p": …, "corrected": …, "why": …, "figures": …}}}`, the last four by question."""
        found: dict[str, dict[str, dict[str, object]]] = {}
        for one in self.answers:
            place = found.setdefault(one.task, {}).setdefault(one.role, {"figures": {}})
            place[one.question] = one.answer
            for name in ("p", "corrected", "why", "figures"):
                kept = place.setdefault(name, {})
                assert isinstance(kept, dict)
                kept[one.question] = getattr(one, name)
        return found

    def write_by_task(self, path: str | Path) -> None:
        """Write `by_task` to `path` (JSON; NaN is null), for other programs. Raises OSError where the file cannot be written."""
        write_json(path, without_nan(self.by_task()))

    def sentence(self, role: str = "mdm") -> str:
        """The verdicts on one model, in a line: its circuit in every task, and why."""
        parts = [f"{one.task}: {one.answer} ({one.why})" for one in self.answers if one.role == role and one.question == "circuit"]
        return "; ".join(parts)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per answer: task, role, question, answer, p, corrected, why."""
        names = ("task", "role", "question", "answer", "p", "corrected", "why")
        return pd.DataFrame([{name: getattr(one, name) for name in names} for one in self.answers], columns=list(names))

    def figure(self) -> go.Figure:
        """τ of every task and role, by id and under the best matching, with its interval; 0 and 1 are marked."""
        figure = go.Figure()
        for one in self.answers:
            if one.question != "circuit" or not one.figures:
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
