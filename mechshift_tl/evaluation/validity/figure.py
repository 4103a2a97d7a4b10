"""Each method's scores over the exact ones, one panel per method."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechshift_tl.plotting import DIVERGING, QUIET, SIZE, style

COLUMNS = 3
PANEL = 260
EQUAL = {"color": QUIET, "width": 1, "dash": "dot"}
CHOICES = {
    "top edges": (True, {"color": DIVERGING[-1][1], "size": 5, "opacity": 0.6}),
    "random edges": (False, {"color": DIVERGING[0][1], "size": 5, "opacity": 0.6}),
}


def scatter(edges: pd.DataFrame, correlations: pd.DataFrame, methods: list[str]) -> go.Figure:
    """One panel per method: the score of each edge over its exact effect. Top and random edges have colours of their own; on the dotted
    line score and effect are equal.

    `edges` has one row per edge (`Validity.to_dataframe`), `correlations` one per method (`Validity.table`).
    Raises KeyError on a method that was not measured.
    """
    table = correlations.query("edges == 'all'").set_index("method")
    titles = [f"{method}: ρ {table.loc[method, 'spearman']:.2f}, r {table.loc[method, 'pearson']:.2f}" for method in methods]
    n_columns = min(COLUMNS, len(methods))
    n_rows = -(-len(methods) // n_columns)
    figure = make_subplots(n_rows, n_columns, subplot_titles=titles, horizontal_spacing=0.07, vertical_spacing=0.16 / n_rows)
    ends = [edges["exact"].min(), edges["exact"].max()]
    for i, method in enumerate(methods):
        at = {"row": i // n_columns + 1, "col": i % n_columns + 1}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=EQUAL, showlegend=False, hoverinfo="skip", **at)
        for name, (top, marker) in CHOICES.items():
            chosen = edges[edges["top"] == top]
            figure.add_scatter(
                x=chosen["exact"], y=chosen[method], mode="markers", marker=marker, name=name, legendgroup=name, showlegend=not i,
                text=chosen["writer"] + " → " + chosen["reader"], hovertemplate="%{text}<br>exact %{x:.3g}, score %{y:.3g}", **at,
            )  # fmt: skip
    height = 110 + PANEL * n_rows
    style(figure, height, margin={"t": 70}, legend={"yref": "container", "y": 1 - 4 / height, "yanchor": "top"})
    for i in range(max(0, len(methods) - n_columns), len(methods)):  # the lowest panel of each column
        figure.update_xaxes(title={"text": "exact effect", "font": {"size": SIZE}}, row=i // n_columns + 1, col=i % n_columns + 1)
    return figure
