"""The picture of a study: every overlap as a dot with its interval, between its floor and its ceiling."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechshift_tl.compare.result import CircuitComparison
from mechshift_tl.compare.statistic import CEILING_MARK, FLOOR_LINE, draw_statistic
from mechshift_tl.plotting import INK, ROLE_NAMES, plain, style

OVERLAPS = {"edge_jaccard": "edges", "component_jaccard": "components (top K)"}


def draw_overlaps(comparisons: Mapping[str, Mapping[str, CircuitComparison]]) -> go.Figure:
    """Edge and component overlap of every comparison, by task and role: one row each."""
    rows = [(f"{plain(task)}  ARM → {ROLE_NAMES[role]}", role, c) for task, one in comparisons.items() for role, c in one.items()]
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    _legend(figure)
    for column, (name, what) in enumerate(OVERLAPS.items(), 1):
        for label, role, comparison in rows:
            draw_statistic(figure, label, role, comparison.statistics[name], row=1, col=column)
        figure.update_xaxes(title_text=f"Jaccard of {what}", rangemode="tozero", col=column)
    figure.update_yaxes(type="category", autorange="reversed", ticksuffix="  ")
    return style(figure, 110 + 46 * len(rows))


def _legend(figure: go.Figure) -> None:
    """Entries for what rows draw without one."""
    lines = {"value and interval": {"color": INK, "width": 2.5}, "floor": FLOOR_LINE}
    for name, line in lines.items():
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, row=1, col=1)
    figure.add_scatter(x=[None], y=[None], mode="markers", marker=CEILING_MARK, name="ceiling", row=1, col=1)
