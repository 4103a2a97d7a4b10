"""The picture of a denoising lens: layer × position, one panel per step behind a slider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.plotting import INK, QUIET, SEQUENTIAL, SIZE, style

#: Above so many layers the words would overlap; hovering still shows them.
WORDS_UP_TO = 32


@dataclass(frozen=True, eq=False)
class Panel:
    """One step, `(layers, positions)`: first choices as `words`, what hovering `says`, and the probability of the final token."""

    step: str
    words: list[list[str]]
    says: list[list[str]]
    final: Float[Tensor, "layers positions"]


def draw_lens(panels: Sequence[Panel], columns: Sequence[str], first: int) -> go.Figure:
    """The panels, number `first` on top; `columns` name the positions."""
    figure = go.Figure([_heat(panels[first])], frames=[go.Frame(name=panel.step, data=[_heat(panel)]) for panel in panels])
    n_layers = len(panels[0].words)
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=list(columns), showgrid=False)
    figure.update_xaxes(title_text="position, and the token that it ended with")
    figure.update_yaxes(title_text="after layer", showgrid=False, dtick=max(1, n_layers // 16))
    bar = {"title": {"text": "probability of<br>the final token", "font": {"size": SIZE}}, "thickness": 12, "outlinewidth": 0}
    figure.update_layout(coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1, "colorbar": bar})
    if len(panels) > 1:
        figure.update_layout(sliders=[_slider([panel.step for panel in panels], first)])
    height = 200 + max(160, 26 * min(n_layers, WORDS_UP_TO))
    return style(figure, height, width=max(560, 220 + 76 * len(columns)), margin={"t": 30, "b": 60, "l": 60, "r": 20})


def _heat(panel: Panel) -> go.Heatmap:
    legible = {"texttemplate": "%{text}", "textfont": {"size": SIZE - 2}} if len(panel.words) <= WORDS_UP_TO else {}
    return go.Heatmap(
        z=panel.final.numpy(), text=panel.words, customdata=panel.says, coloraxis="coloraxis", xgap=1, ygap=1, **legible,
        hovertemplate="layer %{y}: %{customdata}<br>the final token: %{z:.3f}<extra></extra>",
    )  # fmt: skip


def _slider(steps: Sequence[str], first: int) -> dict[str, object]:
    show = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    stops = [{"label": step, "method": "animate", "args": [[step], show]} for step in steps]
    current = {"prefix": "step ", "font": {"color": INK, "size": SIZE}, "xanchor": "left"}
    return {"active": first, "steps": stops, "currentvalue": current, "pad": {"t": 64}, "font": {"color": QUIET}, "ticklen": 4}
