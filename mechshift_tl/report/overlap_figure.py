"""The report's first figure: every overlap as a dot with its interval, between its floor and its ceiling."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechshift_tl.compare.statistic import CEILING_MARK, FLOOR_LINE, draw_statistic
from mechshift_tl.plotting import INK, ROLE_NAMES, Drawing, plain, style
from mechshift_tl.report.figures import validity_notes
from mechshift_tl.study.results import Study

OVERLAPS = {"edge_jaccard": "edges", "component_jaccard": "components (top K)"}
CAPTION = """\
Overlap of the ARM's circuit with each other model's, in [0, 1]; prompts: {n}. Dot and line: value and 95 % bootstrap interval over prompts
(the interval lies low by its nature). Grey bar: the floor, 95 % of random circuits with the same layer profiles, and its mean. Dark tick:
the ceiling, split-half repeatability: a model with itself on disjoint halves of the prompts, corrected to all prompts; the lower of two."""


def overlaps(study: Study) -> Drawing:
    """Edge and component overlap of every comparison, one row each."""
    rows = [
        (f"{plain(task)}  ARM → {ROLE_NAMES[role]}", role, c) for task, one in study.tasks.items() for role, c in one.comparisons.items()
    ]
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    _legend(figure)
    for column, (name, what) in enumerate(OVERLAPS.items(), 1):
        for label, role, comparison in rows:
            draw_statistic(figure, label, role, comparison.statistics[name], row=1, col=column)
        figure.update_xaxes(title_text=f"Jaccard of {what}", rangemode="tozero", col=column)
    figure.update_yaxes(type="category", autorange="reversed", ticksuffix="  ")
    n = ", ".join(f"{task} {len(one.pool)}" for task, one in study.tasks.items())
    notes = [f"{plain(task)}: {note}" for task, one in study.tasks.items() for note in validity_notes(one)]
    caption = " ".join([CAPTION.format(n=n), *notes])
    return Drawing(style(figure, 110 + 46 * len(rows)), "Overlap between floor and ceiling", caption)


def _legend(figure: go.Figure) -> None:
    """Entries for what rows draw without one."""
    lines = {"value and interval": {"color": INK, "width": 2.5}, "floor": FLOOR_LINE}
    for name, line in lines.items():
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, row=1, col=1)
    figure.add_scatter(x=[None], y=[None], mode="markers", marker=CEILING_MARK, name="ceiling", row=1, col=1)
