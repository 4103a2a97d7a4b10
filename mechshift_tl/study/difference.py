"""Two studies side by side: which settings differ, and which answers and overlaps do.

A difference of two overlaps is claimed where their intervals over prompts lie apart, which errs to the cautious side.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.intervals import judged
from mechshift_tl.plotting import INK, QUIET, plain, style
from mechshift_tl.study.results import OverlapRow, Study

#: The two studies, in tables and figures.
SIDES = ("a", "b")


@dataclass(frozen=True, eq=False)
class StudyDifference(JsonArtefact):
    """How study b differs from study a, on the tasks and comparisons that both have.

    - `settings`: one row per setting, model or version that differs: name, a, b.
    - `answers`: one row per task, model and question: a, b, and whether they are the same.
    - `overlaps`: one row per task and comparison: edge overlap in [0, 1] of each with its 95 % over prompts, and whether they lie apart.
    - `only_a`, `only_b`: what one study has alone, as "task" or "task, ARM → MDM".
    """

    KIND: ClassVar[str] = "study difference"

    names: tuple[str, str]
    settings: pd.DataFrame = field(repr=False)
    answers: pd.DataFrame = field(repr=False)
    overlaps: pd.DataFrame = field(repr=False)
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()

    def finding(self) -> str:
        """How many answers and overlaps differ."""
        answers, apart = int((~self.answers["same"].astype(bool)).sum()), int(self.overlaps["apart"].sum())
        told = f"{answers} of {len(self.answers)} answers differ, and {len(self.settings)} settings."
        claim = f"{judged(apart > 0)}: overlaps differ ({apart} of {len(self.overlaps)} have intervals over prompts that lie apart)."
        return f"{told} {claim}"

    def to_dataframe(self) -> pd.DataFrame:
        """`overlaps`."""
        return self.overlaps

    def overlap_table(self) -> pd.DataFrame:
        """`overlaps` as text: a cell holds an overlap [95 % over prompts]."""
        rows = self.overlaps.to_dict("records")
        sides = {name: [_spelled(row, side) for row in rows] for side, name in zip(SIDES, self.names, strict=True)}
        apart = ["yes" if row["apart"] else "no" for row in rows]
        return self.overlaps[["task", "comparison"]].assign(**sides, apart=apart)

    def figure(self) -> go.Figure:
        """Every overlap of both studies with its interval: a filled, b open."""
        figure = go.Figure()
        labels = [
            f"{plain(task)}, {plain(comparison)}"
            for task, comparison in zip(self.overlaps["task"], self.overlaps["comparison"], strict=True)
        ]
        for side, name, symbol in zip(SIDES, self.names, ("circle", "circle-open"), strict=True):
            value = self.overlaps[side]
            bars = {
                "array": (self.overlaps[f"{side}_high"] - value).tolist(),
                "arrayminus": (value - self.overlaps[f"{side}_low"]).tolist(),
            }
            marker = {"symbol": symbol, "size": 10, "color": INK if side == "a" else QUIET}
            figure.add_scatter(x=value.tolist(), y=labels, error_x=bars, mode="markers", marker=marker, name=plain(name))
        figure.update_xaxes(title_text="edge overlap with the ARM (Jaccard)", range=[-0.02, 1.02])
        figure.update_yaxes(type="category", autorange="reversed")
        return style(figure, 110 + 40 * len(labels))

    def _repr_html_(self) -> str:
        return card("StudyDifference", self.finding(), self.settings, self.answers, self.overlaps)


def difference(a: Study, b: Study, names: tuple[str, str] = SIDES) -> StudyDifference:
    """Hold study b against study a. Raises ValueError where they have no task in common."""
    if not a.tasks.keys() & b.tasks.keys():
        raise ValueError(
            f"difference: no task is in both studies; {names[0]} has {', '.join(a.tasks)}, {names[1]} has {', '.join(b.tasks)}"
        )
    rows = [{(row.task, row.comparison): row for row in study.overlaps()} for study in (a, b)]
    shared = [key for key in rows[0] if key in rows[1]]
    only = [tuple(", ".join(key) for key in mine if key not in other) for mine, other in (rows, rows[::-1])]
    overlaps = pd.DataFrame([_overlap(rows[0][key], rows[1][key]) for key in shared])
    return StudyDifference(names, _settings(a, b), _answers(a, b), overlaps, only[0], only[1])


def _settings(a: Study, b: Study) -> pd.DataFrame:
    """What was asked, and of which models."""
    told = [{"pair": one.pair, **one.config.to_dict(), **_models(one)} for one in (a, b)]
    names = dict.fromkeys([*told[0], *told[1]])
    rows = [(name, *(str(one.get(name, "–")) for one in told)) for name in names]
    return pd.DataFrame([row for row in rows if row[1] != row[2]], columns=["setting", *SIDES])


def _models(study: Study) -> dict[str, object]:
    """The weights of each model, in few letters."""
    return {f"{role} weights": str(source.get("sha256") or source.get("name"))[:12] for role, source in study.provenance["models"].items()}


def _answers(a: Study, b: Study) -> pd.DataFrame:
    told = [{(one.task, one.role, one.question): one.answer for one in study.verdicts.answers} for study in (a, b)]
    rows = [(*key, told[0][key], told[1][key], told[0][key] == told[1][key]) for key in told[0] if key in told[1]]
    return pd.DataFrame(rows, columns=["task", "model", "question", *SIDES, "same"])


def _overlap(a: OverlapRow, b: OverlapRow) -> dict[str, object]:
    return {
        "task": a.task,
        "comparison": a.comparison,
        **{f"{side}{end}": value for side, row in zip(SIDES, (a, b), strict=True) for end, value in _ends(row).items()},
        "apart": bool(a.high < b.low or b.high < a.low),
    }


def _spelled(row: Mapping[Hashable, float], side: str) -> str:
    return f"{row[side]:.3f} [{row[side + '_low']:.3f}, {row[side + '_high']:.3f}]"


def _ends(row: OverlapRow) -> dict[str, float]:
    return {"": row.edge_jaccard, "_low": row.low, "_high": row.high}
