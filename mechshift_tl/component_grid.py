"""Numbers of components as a picture: a grid of heads and MLPs by layer, and bars of the largest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from mechshift_tl.plotting import DIVERGING, SIZE, plain, style

SUPPORTS, AGAINST = DIVERGING[-1][1], DIVERGING[0][1]
PLACE = re.compile(r"([am])(\d+)(?:\.h(\d+))?")


def component_grid(values: Mapping[str, float], unit: str, says: Mapping[str, str] | None = None) -> go.Figure:
    """Heads (rows) and MLPs (last row) by layer (columns); colour: the value, in `unit`. `says`: what hovering adds to a component.

    Values of ids that have no layer, such as `input` and `bias`, stand in a line above.
    """
    places = {name: found for name in values if (found := PLACE.fullmatch(name))}
    heads = 1 + max((int(one[3]) for one in places.values() if one[3]), default=-1)
    layers = 1 + max((int(one[2]) for one in places.values()), default=0)
    grid, hover = np.full((heads + 1, layers), np.nan), np.full((heads + 1, layers), "", dtype=object)
    for name, place in places.items():
        at = (int(place[3]) if place[3] else heads, int(place[2]))
        more = f"<br>{plain(says[name])}" if says and name in says else ""
        grid[at], hover[at] = values[name], f"<b>{plain(name)}</b> {values[name]:+.3g} {unit}{more}"
    limit = float(np.nanmax(np.abs(grid), initial=0.0)) or 1.0
    bar = {"title": {"text": plain(unit), "font": {"size": SIZE}}, "thickness": 12, "outlinewidth": 0}
    figure = go.Figure(
        go.Heatmap(
            z=grid, y=[*(f"h{head}" for head in range(heads)), "MLP"], customdata=hover, hovertemplate="%{customdata}<extra></extra>",
            colorscale=DIVERGING, zmin=-limit, zmax=limit, colorbar=bar, xgap=1, ygap=1,
        )
    )  # fmt: skip
    figure.update_xaxes(title_text="layer", dtick=max(1, layers // 16), showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    outside = ", ".join(f"{plain(name)} {value:+.3g}" for name, value in values.items() if name not in places)
    if outside:
        figure.add_annotation(text=outside, x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
    return style(figure, 150 + 18 * (heads + 1))


def signed_bars(names: Sequence[str], values: Sequence[float]) -> go.Bar:
    """Horizontal bars, the first on top of a reversed axis; colour: the sign."""
    colours = [SUPPORTS if value >= 0 else AGAINST for value in values]
    return go.Bar(
        x=list(values), y=[plain(name) for name in names], orientation="h", marker_color=colours, showlegend=False,
        hovertemplate="%{y}: %{x:+.3g}<extra></extra>",
    )  # fmt: skip


def bars_figure(names: Sequence[str], values: Sequence[float], unit: str) -> go.Figure:
    """`signed_bars` as a figure."""
    figure = go.Figure(signed_bars(names, values))
    figure.update_xaxes(title_text=plain(unit))
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return style(figure, 110 + 18 * max(4, len(names)))
