"""Each method's scores over the exact ones, one panel per method."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechshift_tl.report.look import DIVERGING, QUIET, SIZE, style
from mechshift_tl.validity.result import Validity

COLUMNS = 3
PANEL = 260
EQUAL = {"color": QUIET, "width": 1, "dash": "dot"}
CHOICES = {
    "top edges": (True, {"color": DIVERGING[-1][1], "size": 5, "opacity": 0.6}),
    "random edges": (False, {"color": DIVERGING[0][1], "size": 5, "opacity": 0.6}),
}


def scatter(validity: Validity, methods: list[str]) -> go.Figure:
    """One panel per method: an edge's score over its exact effect, top and random edges apart; on the dotted line the two are equal.

    Raises KeyError on a method that was not measured.
    """
    frame = validity.to_dataframe()
    table = validity.table.query("edges == 'all'").set_index("method")
    titles = [f"{method}: ρ {table.loc[method, 'spearman']:.2f}, r {table.loc[method, 'pearson']:.2f}" for method in methods]
    n_columns = min(COLUMNS, len(methods))
    n_rows = -(-len(methods) // n_columns)
    figure = make_subplots(n_rows, n_columns, subplot_titles=titles, horizontal_spacing=0.07, vertical_spacing=0.16 / n_rows)
    ends = [frame["exact"].min(), frame["exact"].max()]
    for i, method in enumerate(methods):
        at = {"row": i // n_columns + 1, "col": i % n_columns + 1}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=EQUAL, showlegend=False, hoverinfo="skip", **at)
        for name, (top, marker) in CHOICES.items():
            edges = frame[frame["top"] == top]
            figure.add_scatter(
                x=edges["exact"], y=edges[method], mode="markers", marker=marker, name=name, legendgroup=name, showlegend=not i,
                text=edges["writer"] + " → " + edges["reader"], hovertemplate="%{text}<br>exact %{x:.3g}, score %{y:.3g}", **at,
            )  # fmt: skip
    height = 110 + PANEL * n_rows
    style(figure, height, margin={"t": 70}, legend={"yref": "container", "y": 1 - 4 / height, "yanchor": "top"})
    for i in range(max(0, len(methods) - n_columns), len(methods)):  # the lowest panel of each column
        figure.update_xaxes(title={"text": "exact effect", "font": {"size": SIZE}}, row=i // n_columns + 1, col=i % n_columns + 1)
    return figure
