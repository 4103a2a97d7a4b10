"""What the first screen says: a sentence per task, the overlaps between floor and ceiling, and what they rest on."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import plotly.graph_objects as go

from mechshift_tl.compare.statistic import draw_statistic
from mechshift_tl.plotting import ROLE_NAMES, Drawing, plain, style
from mechshift_tl.study.brief import Brief, briefs
from mechshift_tl.study.results import Study, TaskStudy

CAPTION = """\
Edge overlap (Jaccard, 0 to 1) of the ARM's circuit with each other model's; prompts: {n}. Line: 95 % over prompts; it lies low by its
nature. Floor: 95 % of random circuits with the same layer profile. Ceiling: one model with itself on two halves of the prompts."""


@dataclass(frozen=True)
class Basis:
    """What one task's answer rests on; by role, in the order of the models.

    - `n`, `held_out`: prompts that circuits were found and run on. `accuracy`: share of those tried that is decoded correctly, in [0, 1].
    - `faithful`: what each model's own circuit recovers of its effect, 1 = all; NaN where it was not run.
    """

    task: str
    n: int
    held_out: int
    accuracy: dict[str, float]
    faithful: dict[str, float]


def answers(study: Study) -> list[Brief]:
    """A sentence per task; of a task without verdicts, what its overlap says."""
    told = {one.task: one for one in briefs(study.verdicts)}
    return [told.get(name) or _by_overlap(name, task) for name, task in study.tasks.items()]


def basis(study: Study) -> list[Basis]:
    """One line per task."""
    return [_basis(name, task) for name, task in study.tasks.items()]


def overlaps(study: Study) -> Drawing:
    """Edge overlap of every comparison, one row each."""
    figure = go.Figure()
    rows = [(task, role, c) for task, one in study.tasks.items() for role, c in one.comparisons.items()]
    for task, role, comparison in rows:
        draw_statistic(figure, f"{plain(task)} · {ROLE_NAMES[role]}", role, comparison.statistics["edge_jaccard"])
    figure.update_yaxes(type="category", autorange="reversed", ticksuffix=" ")
    figure.update_xaxes(range=[-0.02, 1.02], dtick=0.25)
    n = ", ".join(f"{task} {len(one.pool)}" for task, one in study.tasks.items())
    style(figure, 46 + 34 * len(rows), margin={"l": 8, "r": 8, "t": 6, "b": 28})
    return Drawing(figure, "Overlap with the ARM's circuit", CAPTION.format(n=n))


def _by_overlap(name: str, task: TaskStudy) -> Brief:
    comparison = task.comparisons["mdm"]
    edges = comparison.statistics["edge_jaccard"]
    how = "more than chance gives" if comparison.supported else "no more than chance may give"
    return Brief(name, f"ARM and MDM share {edges.value:.0%} of their circuits’ edges, {how}.", "not judged", 0)


def _basis(name: str, task: TaskStudy) -> Basis:
    runs = () if task.evidence is None else task.evidence.runs
    own = {one.model: one for one in runs if one.model == one.circuit}
    faithful = {role: own[role].value if role in own else nan for role in task.circuits}
    held_out = min((one.n for one in runs), default=0)
    return Basis(name, len(task.pool), held_out, task.pool.decoded_correctly, faithful)
