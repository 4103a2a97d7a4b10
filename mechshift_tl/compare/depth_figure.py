"""Shares by layer as lines: a panel per kind of share, a line per model, with the early layers shaded."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mechshift_tl.plotting import COLOURS, DASHES, ROLE_NAMES, RULE, SYMBOLS, faded, style


def draw_shares(kinds: Mapping[str, Mapping[str, Float[Tensor, "draws_and_1 n_layers"]]], cut: int) -> go.Figure:
    """Panels of `kinds` side by side; layers below `cut` are shaded, bands are 95 % over prompts."""
    titles = [name[0].upper() + name[1:] for name in kinds]
    figure = make_subplots(1, len(kinds), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=titles)
    for column, by_role in enumerate(kinds.values(), 1):
        early = {"type": "rect", "x0": -0.5, "x1": cut - 0.5, "y0": 0, "y1": 1, "yref": "y domain", "line_width": 0}
        figure.add_shape(early, fillcolor=RULE, opacity=0.6, layer="below", row=1, col=column)
        for role, shares in by_role.items():
            if not shares[0].isnan().any():
                _line(figure, column, role, shares)
        n_layers = next(iter(by_role.values())).shape[-1]
        figure.update_xaxes(title_text="layer", dtick=-(-n_layers // 8), row=1, col=column)
    figure.update_yaxes(title_text="share of the layers' sum", rangemode="tozero", col=1)
    return style(figure, 340, margin={"l": 60, "r": 16, "t": 60, "b": 48}, legend={"orientation": "h", "x": 0, "y": 1.12})


def _line(figure: go.Figure, column: int, role: str, shares: Float[Tensor, "draws_and_1 n_layers"]) -> None:
    """One model's band and line."""
    layers = list(range(shares.shape[-1]))
    if len(shares) > 1:
        low, high = (shares[1:].nanquantile(at, 0).tolist() for at in (0.025, 0.975))
        figure.add_scatter(
            x=layers + layers[::-1], y=high + low[::-1], mode="lines", fill="toself", fillcolor=faded(role), line_width=0, hoverinfo="skip",
            showlegend=False, row=1, col=column,
        )  # fmt: skip
    figure.add_scatter(
        x=layers, y=shares[0].tolist(), name=ROLE_NAMES[role], legendgroup=role, showlegend=column == 1, mode="lines+markers",
        line={"color": COLOURS[role], "dash": DASHES[role]}, marker={"symbol": SYMBOLS[role], "size": 7},
        hovertemplate=f"{ROLE_NAMES[role]}, layer %{{x}}: %{{y:.3f}}<extra></extra>", row=1, col=column,
    )  # fmt: skip
