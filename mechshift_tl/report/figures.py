"""The curves of one task over the size of its circuits, each with its caption. A model has the same colour and marker in all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from mechshift_tl.compare.result import CircuitComparison
from mechshift_tl.plotting import COLOURS, DASHES, QUIET, ROLE_NAMES, SYMBOLS, Drawing, faded, style
from mechshift_tl.study.results import TaskStudy

HEIGHT = 340
TICKS = 16
DASHED = {"color": QUIET, "width": 1.5, "dash": "dash"}

CURVE_CAPTION = """\
Edge overlap over the circuit size; vertical: the size used in tables, {size:,}. By chance: expected of two sets of as many edges drawn from
all possible ones, a laxer floor than the table's. n = {n} prompts; no intervals are computed along the curve."""
FAITHFUL_CAPTION = """\
(m(circuit) − m(corrupt)) / (m(clean) − m(corrupt)) when every edge outside the circuit is patched from the corrupt run; by |score|.
1: as the model, 0: as no circuit. Bands: 95 % over {n} prompts that the circuits were not found on. Dashed, in a model's colour:
random circuits with the same layer profile, mean."""


def overlap_curves(task: TaskStudy) -> Drawing | None:
    """Edge overlap over the circuit size, with what unconstrained random circuits would share; None for bare circuits."""
    curves = {role: c.curve for role, c in task.comparisons.items() if c.curve is not None}
    if not curves:
        return None
    figure = go.Figure()
    for role, curve in curves.items():
        _line(figure, role, curve["n"], curve["jaccard"], name=f"ARM → {ROLE_NAMES[role]}")
    chance = next(iter(curves.values()))
    sizes = chance["n"].tolist()
    figure.add_scatter(x=sizes, y=chance["expected"].tolist(), mode="lines", name="by chance", line=DASHED, hovertemplate="%{y:.3f}")
    size = _first(task).requested[0]
    figure.add_vline(x=size, line=DASHED)
    shown = sizes[:: max(1, len(sizes) // TICKS)]
    labels = [f"{one:,}" for one in shown]
    figure.update_xaxes(title_text="edges requested per circuit (log scale)", type="log", tickvals=shown, ticktext=labels)
    figure.update_yaxes(title_text="Jaccard of edges", rangemode="tozero")
    caption = " ".join([CURVE_CAPTION.format(size=size, n=len(task.pool)), *validity_notes(task)])
    return Drawing(style(figure, HEIGHT), "Overlap over circuit size", caption)


def validity_notes(task: TaskStudy) -> list[str]:
    """What every figure of this task's overlaps must say of the method that found the circuits."""
    notes = [task.evidence.validity_note(role) for role in task.comparisons] if task.evidence else []
    return [note for note in notes if note]


def faithfulness_curves(task: TaskStudy) -> Drawing | None:
    """Faithfulness over the share of edges kept, by |score|, with random circuits; None where no circuit was run."""
    curves = {} if task.evidence is None else task.evidence.curves
    if not curves:
        return None
    figure = go.Figure()
    for role, curve in curves.items():
        rows = curve.table.query("rank == 'magnitude'")
        _line(figure, role, rows["share"], rows["faithfulness"], rows)
        dashed = {"color": COLOURS[role], "width": 1, "dash": "dash"}
        figure.add_scatter(
            x=rows["share"].tolist(), y=rows["random"].tolist(), mode="lines", line=dashed, showlegend=False, hoverinfo="skip"
        )
    for height in (0, 1):
        figure.add_hline(y=height, line=DASHED)
    figure.update_xaxes(title_text="edges kept, share of the possible (log scale)", type="log")
    figure.update_yaxes(title_text="faithfulness")
    n = next(iter(curves.values())).n_examples
    return Drawing(style(figure, HEIGHT), "Faithfulness over circuit size", FAITHFUL_CAPTION.format(n=n))


def _first(task: TaskStudy) -> CircuitComparison:
    return next(iter(task.comparisons.values()))


def _line(figure: go.Figure, role: str, x: Iterable[int], y: pd.Series, bounds: pd.DataFrame | None = None, **drawn: Any) -> None:
    """A role's curve, above its band where `bounds` has `low` and `high`."""
    x = list(x)
    if bounds is not None and "low" in bounds:
        edge = bounds["high"].tolist() + bounds["low"].tolist()[::-1]
        band: dict[str, Any] = {"fill": "toself", "fillcolor": faded(role), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=x + x[::-1], y=edge, mode="lines", **band)
    look = {
        "name": ROLE_NAMES[role],
        "line": {"color": COLOURS[role], "dash": DASHES[role]},
        "marker": {"symbol": SYMBOLS[role], "size": 8},
        "hovertemplate": "%{y:.3f}",
    }
    figure.add_scatter(x=x, y=y.tolist(), mode="lines+markers", **look | drawn)
