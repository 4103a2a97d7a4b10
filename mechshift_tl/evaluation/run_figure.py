"""The picture of a circuit's run: example by example, beside the whole model."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from mechshift_tl.plotting import COLOURS, QUIET, plain, style

SERIES = {"circle": ("circuit", COLOURS["arm"]), "x-thin": ("base", QUIET)}


def draw_run(table: pd.DataFrame, kept: str, metric: str) -> go.Figure:
    """What `CircuitRun.figure` promises, from its table."""
    figure, clean = go.Figure(), table["clean"].tolist()
    for symbol, (name, colour) in SERIES.items():
        marker = {"symbol": symbol, "color": colour, "size": 7, "opacity": 0.8, "line": {"width": 1, "color": colour}}
        label = kept if name == "circuit" else "no edge (base)"
        figure.add_scatter(
            x=clean, y=table[name].tolist(), mode="markers", name=label, marker=marker, customdata=table["example"].tolist(),
            hovertemplate="example %{customdata}: %{y:.2f}, whole model %{x:.2f}<extra></extra>",
        )  # fmt: skip
    ends = [min(clean, default=0.0), max(clean, default=1.0)]
    line = {"color": QUIET, "width": 1, "dash": "dash"}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, name="as the model", hoverinfo="skip")
    figure.update_xaxes(title_text=f"whole model: {plain(metric)}")
    figure.update_yaxes(title_text=plain(metric))
    return style(figure, 380)
