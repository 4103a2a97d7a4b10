"""A circuit drawn as a layered graph that flows from `input` on the left to `logits` on the right.

1. Each layer is a column. Its heads are rows in order, and its MLP, which reads them, stands below. A component without an edge is not
   drawn, but its place stays free, so that circuits of one graph can be laid side by side.
2. An edge is a curve from its writer to its reader. q, k and v are ports of their head, or of a bar before the heads of a KV group.
3. The colour is the sign of the score. Width and opacity grow with √|score|, and strong edges lie on top. The legend gives the scale.
4. Hovering over an edge shows its name, and every score that its writer sends to the same component by q, k and v. Hovering over a
   component shows the sums that it sends and reads.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechshift_tl.graph import Graph
from mechshift_tl.plotting import DIVERGING, INK, QUIET, plain, style

COLOURS = {-1: DIVERGING[0][1], 0: QUIET, 1: DIVERGING[-1][1]}
LEVELS = 6  # widths of edges; all edges of one width and sign are one line of the figure, which draws fast
POINTS = 24  # of a curve
# Sizes in pixels. One unit of either axis is one pixel.
WIDTH, COLUMN = 1000, (112, 156)  # wanted width of all layers; least and greatest width of one
HEIGHT, ROW = 360, (44, 64)  # wanted height of all heads; least and greatest height of one
BOX, BAR = 24, 38  # half the width of a component's box; distance of a group's bar from the middle of its heads
THICK = 7.0  # the strongest edge
PORT, PORTS = 6, {"q": -13, "k": 0, "v": 13}  # radius of a port; its height below the middle of its head
MARGIN = {"l": 16, "r": 16, "t": 44, "b": 44}


def draw(graph: Graph, table: pd.DataFrame, n: int = 200) -> go.Figure:
    """The first `n` edges of a circuit's `table` (one row per edge, strongest |score| first), and their components.

    Raises ValueError when the table has no edge or `n` is below 1.
    """
    if n < 1 or not len(table):
        raise ValueError(f"a picture of {n} of {len(table)} edges shows nothing; ask for 1 or more of a circuit that has some")
    figure, place = go.Figure(), _Places(graph)
    shown = table.head(n)
    _edges(figure, shown, place)
    _legend(figure, shown["score"].abs().max())
    _frame(figure, place, f"{len(table)} edges" if len(shown) == len(table) else f"the strongest {len(shown)} of {len(table)} edges")
    _groups(figure, shown, place)
    _components(figure, shown, place)  # after the frame, whose style sets the size of every annotation
    return figure


@dataclass(frozen=True)
class _Places:
    """Where things are, in pixels from the middle of a0.h0: x to the right, y downwards."""

    graph: Graph

    @property
    def column(self) -> float:
        """From one layer to the next."""
        return float(np.clip(WIDTH / (self.graph.n_layers + 1), *COLUMN)) + (BAR - BOX) * (self.graph.group_size > 1)

    @property
    def row(self) -> float:
        """From one head to the next."""
        return float(np.clip(HEIGHT / self.graph.n_heads, *ROW))

    def of(self, component: str) -> tuple[float, float]:
        """The middle of a component."""
        if component in ("input", "logits"):
            return (-1 if component == "input" else self.graph.n_layers) * self.column, (self.graph.n_heads - 1) / 2 * self.row
        layer, _, head = component[1:].partition(".h")
        return int(layer) * self.column, self.row * (float(head) if head else self.graph.n_heads + 0.2)

    def port(self, reader: str) -> tuple[float, float]:
        """The middle of a q, k or v port; for others the left of the box."""
        x, y = np.mean([self.of(component) for component in self.graph.components_of(reader) or ["logits"]], axis=0)
        if not reader.endswith(">"):
            return x - BOX + PORT, y
        return x - PORT - (BAR if ".g" in reader else BOX), y + PORTS[reader[-2]]

    def curve(self, writer: str, reader: str) -> np.ndarray:
        """`(POINTS, 2)`: level where it leaves and where it ends; bowed where it would run along a row."""
        (x0, y0), (x1, y1) = self.of(writer), self.port(reader)
        x0 += BOX
        x1 -= PORT
        reach = (x1 - x0) / 2
        corners = [(x0, y0), (x0 + reach, y0), (x1 - reach, y1), (x1, y1)]
        if x1 < x0:  # a head to its own layer's MLP, which is below it: in from the right
            out = 0.3 * (self.column - 2 * BOX)
            x1 = self.of(reader)[0] + 0.7 * BOX
            corners = [(x0, y0), (x0 + out, y0), (x0 + out, y1), (x1, y1)]
        elif abs(y1 - y0) < self.row / 2 and x1 - x0 > self.column:
            bow = 0.25 * self.row * min((x1 - x0) / self.column, 5)
            corners = [(x0, y0), (x0 + reach / 2, y0 + bow), (x1 - reach / 2, y1 + bow), (x1, y1)]
        t = np.linspace(0, 1, POINTS)[:, None]
        return np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]) @ np.array(corners)


def _edges(figure: go.Figure, shown: pd.DataFrame, place: _Places) -> None:
    """One line per sign and level of width, weakest first, broken between edges."""
    size, texts = shown["score"].abs(), _edge_texts(shown)
    level = np.ceil(np.sqrt(size / (size.max() or 1.0)) * LEVELS).clip(1, LEVELS)
    for width in range(1, LEVELS + 1):
        for sign, colour in COLOURS.items():
            drawn = shown[(level == width) & (np.sign(shown["score"]) == sign)]
            if len(drawn):
                curves = [place.curve(*ends) for ends in zip(drawn["writer"], drawn["reader"], strict=True)]
                x, y = np.concatenate([np.vstack([curve, [np.nan, np.nan]]) for curve in curves]).T
                text = np.repeat([texts[i] for i in drawn.index], POINTS + 1)
                figure.add_scatter(x=x, y=y, text=text, hovertemplate="%{text}<extra></extra>", **_line(colour, width))


def _line(colour: str, level: float) -> dict[str, object]:
    share = level / LEVELS
    return {"mode": "lines", "line": {"color": colour, "width": THICK * share}, "opacity": 0.3 + 0.6 * share, "showlegend": False}


def _edge_texts(shown: pd.DataFrame) -> list[str]:
    """The text shown over an edge: its score, then those of q, k and v of the same writer and component, if there are several."""
    edges = list(zip(shown["writer"], shown["reader"], shown["score"], strict=True))
    together: dict[tuple[str, str], list[str]] = defaultdict(list)
    for writer, reader, score in sorted(edges):
        together[writer, reader.partition("<")[0]].append(f"{reader[-2]} {score:+.3g}")
    texts = []
    for writer, reader, score in edges:
        component = reader.partition("<")[0]
        parts = together[writer, component]
        more = f"<br>{writer} → {component}: {', '.join(parts)}" if len(parts) > 1 else ""
        texts.append(f"<b>{writer} → {plain(reader)}</b> {score:+.3g}{more}")
    return texts


def _legend(figure: go.Figure, strongest: float) -> None:
    """What the colours and the widths mean."""
    samples = {"supports the behaviour": (COLOURS[1], 0.6), "works against it": (COLOURS[-1], 0.6)}
    samples |= {f"|score| {strongest * share**2:.2g}": (QUIET, share) for share in (1.0, 0.5, 0.2)}
    for name, (colour, share) in samples.items():
        figure.add_scatter(x=[None], y=[None], name=name, **_line(colour, LEVELS * share) | {"showlegend": True})


def _groups(figure: go.Figure, shown: pd.DataFrame, place: _Places) -> None:
    """A bar before the heads of every KV group that is read."""
    bars, line = [], {"type": "line", "line": {"color": INK, "width": 2}, "layer": "above"}
    for reader in sorted({reader[:-3] + "<k>" for reader in shown["reader"] if ".g" in reader}):
        (x, first), *_, (_, last) = (place.of(head) for head in place.graph.components_of(reader))
        bars.append(line | {"x0": x - BAR, "x1": x - BAR, "y0": first - 0.4 * place.row, "y1": last + 0.4 * place.row})
    figure.update_layout(shapes=bars)


def _components(figure: go.Figure, shown: pd.DataFrame, place: _Places) -> None:
    """A box with its id for every component that has an edge, and its ports that are read."""
    sent, read = (shown["score"].abs().groupby(shown[end]).sum() for end in ("writer", "reader"))
    hovers = {str(component): f"<br>sends {mass:.3g}" for component, mass in sent.items()}
    for reader, mass in read.items():
        for component in place.graph.components_of(str(reader)) or ["logits"]:
            hovers[component] = hovers.get(component, "") + f"<br>{plain(str(reader))} reads {mass:.3g}"
    box = {"bgcolor": "white", "bordercolor": INK, "borderpad": 2, "width": 2 * BOX - 6, "font": {"size": 10}, "showarrow": False}
    texts = {name: {"text": name, "hovertext": f"<b>{name}</b>, Σ|score|{hover}"} for name, hover in hovers.items()}
    figure.update_layout(annotations=[dict(zip("xy", place.of(name), strict=True)) | text | box for name, text in texts.items()])
    ports = [str(reader) for reader in read.index if str(reader).endswith(">")]
    x, y = np.array([place.port(reader) for reader in ports]).reshape(-1, 2).T
    marker = {"color": "white", "size": 2 * PORT, "line": {"color": INK, "width": 0.8}}
    letters = {"text": [reader[-2] for reader in ports], "textfont": {"size": 9, "color": INK}, "textposition": "middle center"}
    hover = {"hovertext": [f"{plain(reader)} reads {read[reader]:.3g}" for reader in ports], "hoverinfo": "text"}
    figure.add_scatter(x=x, y=y, mode="markers+text", marker=marker, showlegend=False, **letters, **hover)


def _frame(figure: go.Figure, place: _Places, what: str) -> None:
    """The house's layout, in which a unit of either axis is a pixel."""
    layers, bare = range(place.graph.n_layers), {"showgrid": False, "showline": False}
    left, right = place.of("input")[0] - 2 * BOX, place.of("logits")[0] + 2 * BOX
    top, bottom = -0.8 * place.row, (place.graph.n_heads + 1.1) * place.row
    ticks = {"tickvals": [layer * place.column for layer in layers], "ticktext": [str(layer) for layer in layers]}
    figure.update_xaxes(range=[left, right], title_text=f"layer ({what} drawn)", **ticks, **bare)
    figure.update_yaxes(range=[bottom, top], showticklabels=False, **bare)
    height = int(bottom - top) + MARGIN["t"] + MARGIN["b"]
    width = int(right - left) + MARGIN["l"] + MARGIN["r"]
    style(figure, height, width=width, margin=MARGIN, hovermode="closest")
