"""How figures look: one colour and one marker for each model, one layout, and text that plotly shows as it is."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif'
INK, QUIET, RULE = "#1d2733", "#5d6975", "#e3e7eb"
COLOURS = {"arm": "#23629f", "mdm": "#c4512d", "control": "#6b7280"}
#: Colours of a share in [0, 1], pale to dark.
SEQUENTIAL = [[0.0, "#f4f6f8"], [0.5, "#8fa9c4"], [1.0, "#1f4468"]]
SIZE = 13
_AXIS = {
    "gridcolor": RULE, "linecolor": RULE, "zeroline": False, "ticks": "", "automargin": True,
    "title": {"standoff": 10, "font": {"size": SIZE}}, "tickfont": {"size": SIZE - 1},
}  # fmt: skip
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": SIZE, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 60, "r": 16, "t": 34, "b": 48},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "xanchor": "left", "yanchor": "bottom"},
        "hoverlabel": {"font": {"family": FONT}},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


def style(figure: go.Figure, height: int, **layout: Any) -> go.Figure:  # plotly's layout takes any keyword
    """The same figure in the common layout, `height` pixels tall; `layout` overrides what is common."""
    return figure.update_layout(template=TEMPLATE, height=height, **layout).update_annotations(font_size=SIZE)


def plain(text: str) -> str:
    """`text`, escaped. Plotly reads its labels as a kind of HTML; an escaped one is shown literally."""
    return escape(text, quote=False)
