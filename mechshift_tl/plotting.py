"""How figures of two models look beside each other, and how a figure becomes HTML. The common look: `hooked_diffusion.plotting`."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go
from markupsafe import Markup

from hooked_diffusion.plotting import COLOURS, FONT, INK, QUIET, RULE, SEQUENTIAL, SIZE, TEMPLATE, plain, style

__all__ = [
    "COLOURS", "CONFIG", "DASHES", "DIVERGING", "FONT", "INK", "QUIET", "ROLE_NAMES", "RULE", "SEQUENTIAL", "SIZE", "SYMBOLS", "TEMPLATE",
    "Drawing", "faded", "plain", "style",
]  # fmt: skip

ROLE_NAMES = {"arm": "ARM", "mdm": "MDM", "control": "control"}
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


def faded(role: str, opacity: float = 0.15) -> str:
    """The colour of a model's role, translucent, for bands around a line."""
    red, green, blue = (int(COLOURS[role][i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
