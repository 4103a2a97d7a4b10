"""A trajectory as a picture: one row per canvas, one column per position, tokens as words, commits marked."""

from __future__ import annotations

from collections.abc import Mapping
from html import unescape

import plotly.graph_objects as go

from hooked_diffusion.denoising.record import DenoisingRecord
from hooked_diffusion.plotting import COLOURS, plain, style

MASK = "·"
#: A row of more tokens shows its masked positions alone.
WIDE = 32
#: What a cell is, its colour, and whether its text is light.
STATES = {"given": "#eef1f4", "masked": "#ffffff", "committed": "#f6ddd3", "just committed": COLOURS["mdm"]}


def draw_canvases(run: DenoisingRecord, words: Mapping[int, str], row: int, most: int) -> go.Figure:
    """The first `most` canvases of one row, the first on top. Raises IndexError on a row that is not there."""
    if not 0 <= row < run.tokens.shape[0]:
        raise IndexError(f"row {row} lies outside 0 … {run.tokens.shape[0] - 1}")
    positions = shown_positions(run, row)
    canvases = range(min(run.steps, most) + 1)
    states = [[state(run, row, k, p) for p in positions] for k in canvases]
    texts = [[_text(run, words, row, k, p) for p in positions] for k in canvases]
    figure = go.Figure(
        go.Heatmap(
            z=[[list(STATES).index(one) for one in line] for line in states],
            x=[str(p) for p in positions],
            y=[_label(k, run.steps) for k in canvases],
            text=texts,
            customdata=[[_hover(run, words, row, k, p) for p in positions] for k in canvases],
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=_steps_of_colour(), zmin=-0.5, zmax=len(STATES) - 0.5, showscale=False, xgap=2, ygap=2,
        )
    )  # fmt: skip
    for y, line in enumerate(texts):
        for x, text in enumerate(line):
            light = states[y][x] == "just committed"
            figure.add_annotation(x=x, y=y, text=text, showarrow=False, font={"color": "white"} if light else None)
    _legend(figure)
    figure.update_xaxes(type="category", title_text="position", showgrid=False, side="bottom")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, title_text="canvas before step")
    longest = max(len(unescape(text)) for line in texts for text in line)
    width = max(560, 100 + len(positions) * max(28, 8 * min(longest, 14)))
    return style(figure, 130 + 26 * len(canvases), width=width, margin={"t": 48, "b": 52, "l": 70, "r": 16})


def shown_positions(run: DenoisingRecord, row: int) -> list[int]:
    """Every visible position of a short row; of a long one the positions that were masked."""
    visible = run.visible[row].nonzero()[:, 0].tolist()
    return visible if len(visible) <= WIDE else run.mask_positions[row].nonzero()[:, 0].tolist()


def state(run: DenoisingRecord, row: int, canvas: int, position: int) -> str:
    """Which of `STATES` a cell has. "Just committed": canvas k shows what step k − 1 wrote."""
    if bool(run.masked_at(canvas)[row, position]):
        return "masked"
    if not bool(run.mask_positions[row, position]):
        return "given"
    fresh = canvas > 0 and bool(run.masked_at(canvas - 1)[row, position])
    return "just committed" if fresh else "committed"


def spell(words: Mapping[int, str], token: int) -> str:
    """The text of a token id; `#id` where it is not known."""
    return words.get(token, f"#{token}")


def _text(run: DenoisingRecord, words: Mapping[int, str], row: int, canvas: int, position: int) -> str:
    masked = bool(run.masked_at(canvas)[row, position])
    return MASK if masked else plain(spell(words, int(run.canvases[canvas, row, position])).strip() or "␣")


def _hover(run: DenoisingRecord, words: Mapping[int, str], row: int, canvas: int, position: int) -> str:
    token, step = int(run.canvases[canvas, row, position]), int(run.commit_step[row, position])
    what = state(run, row, canvas, position)
    if what in ("masked", "given"):
        return f"position {position}: {what}"
    spelled = plain(repr(spell(words, token)))
    known = f", step {step}, probability {float(run.confidence[row, position]):.3f}" if step >= 0 else ""
    return f"position {position}: {spelled} (id {token}){known}"


def _label(canvas: int, steps: int) -> str:
    return "result" if canvas == steps else str(canvas)


def _steps_of_colour() -> list[list[float | str]]:
    """A colour scale without transitions."""
    n = len(STATES)
    return [[edge / n, colour] for i, colour in enumerate(STATES.values()) for edge in (i, i + 1)]


def _legend(figure: go.Figure) -> None:
    for name, colour in STATES.items():
        marker = {"color": colour, "symbol": "square", "size": 12, "line": {"color": "#b4bfca", "width": 1}}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=name)
