"""How figures look: one colour and one marker for each model, one layout, one way to become HTML."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif'
INK, QUIET, RULE = "#1d2733", "#5d6975", "#e3e7eb"
ROLE_NAMES = {"arm": "ARM", "mdm": "MDM", "control": "control"}
COLOURS = {"arm": "#23629f", "mdm": "#c4512d", "control": "#6b7280"}
SYMBOLS = {"arm": "circle", "mdm": "diamond", "control": "square"}
DASHES = {"arm": "solid", "mdm": "solid", "control": "dot"}
#: Colours of negative, zero and positive values. No model has one of them.
DIVERGING = [[0.0, "#0f766e"], [0.5, "#f8f8f6"], [1.0, "#7e3a94"]]

#: The same colours where the page is dark: as near as can be read on `PAPER`.
PAPER = {"light": "#ffffff", "dark": "#12181f"}
DARK = {
    INK: "#e6ebf0", QUIET: "#a3afbb", RULE: "#2d3741", "#23629f": "#7fb6ec", "#c4512d": "#f3956f", "#6b7280": "#b3bbc5",
    "#0f766e": "#4cc2b4", "#f8f8f6": "#1d262f", "#7e3a94": "#d09fe4", "#cfd5db": "#414d59",
    "white": PAPER["dark"], "#ffffff": PAPER["dark"],
}  # fmt: skip

CONFIG = {"displayModeBar": False, "responsive": True}
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


@dataclass(frozen=True)
class Drawing:
    """A figure with its title and caption. The caption says what is shown, for how many prompts, in which unit, and beside which floor."""

    figure: go.Figure
    title: str
    caption: str

    def to_html(self, name: str) -> Markup:
        """HTML that draws the figure into the element with the id `name`; the page itself must load plotly.js."""
        # Without plotly.js: it has megabytes, and one copy serves all figures of a page.
        fragment = self.figure.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False, div_id=name, config=CONFIG)
        return Markup(fragment)


def style(figure: go.Figure, height: int, **layout: Any) -> go.Figure:  # plotly's layout takes any keyword
    """The same figure in the common layout, `height` pixels tall; `layout` overrides what is common."""
    return figure.update_layout(template=TEMPLATE, height=height, **layout).update_annotations(font_size=SIZE)


def plain(text: str) -> str:
    """`text`, escaped. Plotly reads its labels as a kind of HTML; an escaped one is shown literally."""
    return escape(text, quote=False)


def faded(role: str, opacity: float = 0.15) -> str:
    """The colour of a model's role, translucent, for bands around a line."""
    red, green, blue = (int(COLOURS[role][i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
