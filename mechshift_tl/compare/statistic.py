"""`Statistic`: one number of a comparison with what bounds it, and how they are drawn: a dot and its line over a bar, with a tick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from mechshift_tl.intervals import Interval
from mechshift_tl.plotting import COLOURS, INK, QUIET, SYMBOLS, style


@dataclass(frozen=True)
class Statistic:
    """One number of a comparison: its value, its interval over prompts, its floor over random circuits, its ceiling within one model.

    A bound that cannot be computed, or that a statistic does not have, is None.
    """

    value: float
    interval: Interval | None = None
    floor: Interval | None = None
    ceiling: float | None = None


#: What is drawn of a comparison, and its label. All lie in [−1, 1], and 1 says that two circuits are one.
LABELS = {
    "edge_jaccard": "edges, Jaccard",
    "weighted_jaccard": "edges, weighted Jaccard",
    "rank_biased_overlap": "edges, rank-biased overlap",
    "component_jaccard": "top components, Jaccard",
    "spearman": "circuits' edges, Spearman",
    "score_spearman": "all edges, Spearman of |score|",
    "score_correlation_corrected": "all edges, log|score|, noise-corrected",
}
FLOOR_LINE = {"color": "#cfd5db", "width": 14}
CEILING_MARK = {"symbol": "line-ns", "size": 18, "line": {"width": 3, "color": INK}}


def statistics_figure(of: Mapping[str, Mapping[str, Statistic]]) -> go.Figure:
    """The statistics that compare the ARM with each model, by role: a row each, between floor (grey bar) and ceiling (dark tick)."""
    figure = go.Figure()
    for name, label in LABELS.items():
        for role, statistics in of.items():
            if name in statistics:
                draw_statistic(figure, f"{label}  → {role}" if len(of) > 1 else label, role, statistics[name])
    figure.update_yaxes(type="category", autorange="reversed", ticksuffix="  ")
    figure.update_xaxes(title_text="overlap or correlation with the ARM", range=[-0.05, 1.05])
    return style(figure, 90 + 30 * len(LABELS) * len(of))


def draw_statistic(figure: go.Figure, label: str, role: str, statistic: Statistic, **place: Any) -> None:
    """Floor, interval, value and ceiling, as far as there are any, drawn in that order; `place`: plotly's `row` and `col`."""

    def mark(x: list[float], hover: str, **drawn: Any) -> None:
        text = f"{hover} %{{x:.3f}}<extra></extra>"
        figure.add_scatter(x=x, y=[label] * len(x), hovertemplate=text, showlegend=False, **place, **drawn)

    if floor := statistic.floor:
        mark([floor.low, floor.high], "floor", mode="lines", line=FLOOR_LINE)
        tick = {"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": QUIET}}
        mark([floor.mean], "floor, mean", mode="markers", marker=tick)
    if over := statistic.interval:
        mark([over.low, over.high], "95 % over prompts", mode="lines", line={"color": COLOURS[role], "width": 2.5})
    dot = {"color": COLOURS[role], "symbol": SYMBOLS[role], "size": 11, "line": {"color": "white", "width": 1.5}}
    mark([statistic.value], "overlap", mode="markers", marker=dot)
    if statistic.ceiling is not None:
        mark([statistic.ceiling], "ceiling", mode="markers", marker=CEILING_MARK)
