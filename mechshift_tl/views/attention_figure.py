"""The picture of attention patterns: a small heat map per head."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mechshift_tl.plotting import SEQUENTIAL, plain, style

ACROSS = 4


def draw_patterns(heads: Sequence[str], pattern: Float[Tensor, "heads query key"], tokens: Sequence[str]) -> go.Figure:
    """Query (down) × key (across), a panel per head. Raises ValueError without heads."""
    if not heads:
        raise ValueError("a picture of no head shows nothing; ask for 1 or more")
    down = -(-len(heads) // ACROSS)
    across = min(ACROSS, len(heads))
    figure = make_subplots(
        down, across, subplot_titles=[plain(head) for head in heads], shared_xaxes=True, shared_yaxes=True,
        horizontal_spacing=0.02, vertical_spacing=0.08 / down,
    )  # fmt: skip
    labels = [plain(token).strip() or "␣" for token in tokens]
    place = list(range(len(labels)))
    for i, one in enumerate(pattern):
        figure.add_heatmap(z=one.numpy(), coloraxis="coloraxis", hovertemplate=_hover(heads[i]), row=i // across + 1, col=i % across + 1)
    figure.update_xaxes(tickvals=place, ticktext=labels, tickangle=-90, showgrid=False, tickfont_size=9)
    figure.update_yaxes(tickvals=place, ticktext=labels, autorange="reversed", showgrid=False, tickfont_size=9)
    bar = {"title": {"text": "attention"}, "thickness": 10, "outlinewidth": 0}
    figure.update_layout(coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": float(pattern.max()), "colorbar": bar})
    side = max(190, 11 * len(labels))
    return style(figure, 120 + side * down, width=max(420, 170 + side * across))


def _hover(head: str) -> str:
    return f"{plain(head)}, from position %{{y}} to %{{x}}: %{{z:.3f}}<extra></extra>"
