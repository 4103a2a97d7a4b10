"""The picture of neuron activations: selectivity over its null, and means by group."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechshift_tl.plotting import DIVERGING, INK, QUIET, SIZE, plain, style


def draw_neurons(means: pd.DataFrame, table: pd.DataFrame) -> go.Figure:
    """`means`: a row per group and a column per neuron; `table`: their η² and its null, in the same order."""
    ids = list(means.columns)
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.4, 0.6])
    marks = {"η² between groups": ("selectivity", "circle", INK), "exceeded in 5 % of shuffles": ("null_95", "line-ew-open", QUIET)}
    for name, (column, symbol, colour) in marks.items():
        marker = {"symbol": symbol, "color": colour, "size": 8}
        figure.add_scatter(x=ids, y=table[column].tolist(), mode="markers", name=name, marker=marker, row=1, col=1)
    limit = float(np.quantile(means.abs(), 0.98)) or 1.0
    bar = {"title": {"text": "mean<br>activation", "font": {"size": SIZE}}, "thickness": 12, "outlinewidth": 0, "len": 0.6, "y": 0.3}
    figure.add_heatmap(
        z=means.to_numpy(), x=ids, y=[plain(group) for group in means.index], colorscale=DIVERGING, zmin=-limit, zmax=limit, colorbar=bar,
        hovertemplate="%{x}, %{y}: %{z:.3f}<extra></extra>", row=2, col=1,
    )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False, tickangle=-60)
    figure.update_yaxes(title_text="η²", range=[0, 1.02], row=1)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, row=2)
    return style(figure, 330 + 18 * max(6, len(means)))
