"""Heatmaps of neurons by prompt group: one panel per model and quantity, the same neurons and groups in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mechshift_tl.plotting import DIVERGING, ROLE_NAMES, plain, style


def neuron_heatmaps(
    quantities: Mapping[str, Float[Tensor, "roles groups neurons"]], roles: Sequence[str], groups: Sequence[str], neurons: Sequence[str]
) -> go.Figure:
    """One row of panels per quantity, one column per model; colours saturate at the 98 % point of a quantity's size over all models."""
    titles = [f"{ROLE_NAMES[role]}: {plain(name)}" for name in quantities for role in roles]
    figure = make_subplots(
        len(quantities),
        len(roles),
        subplot_titles=titles,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.08,
    )
    labels = [plain(group) for group in groups]
    for row, values in enumerate(quantities.values(), 1):
        for column, one in enumerate(values, 1):
            hover = "%{x}, %{y}: %{z:.3f}<extra></extra>"
            figure.add_heatmap(
                z=one.tolist(), x=list(neurons), y=labels, coloraxis=f"coloraxis{row}", hovertemplate=hover, row=row, col=column
            )
    figure.update_xaxes(type="category", showgrid=False, tickfont_size=9)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    axes = {f"coloraxis{row}": _scale(values, row, len(quantities)) for row, values in enumerate(quantities.values(), 1)}
    return style(figure, 120 + len(quantities) * (60 + 16 * max(6, len(groups))), **axes)


def _scale(values: Float[Tensor, "roles groups neurons"], row: int, rows: int) -> dict[str, object]:
    """A diverging scale around 0, its bar beside its row of panels."""
    limit = float(np.nanquantile(values.abs(), 0.98)) or 1.0
    bar = {"thickness": 12, "outlinewidth": 0, "len": 0.9 / rows, "y": 1 - (row - 0.5) / rows}
    return {"colorscale": DIVERGING, "cmin": -limit, "cmax": limit, "colorbar": bar}
