"""A trajectory as panels: a statistic each, over training tokens, with a line per model and its 95 % over prompts as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from mechshift_tl.compare.change_shapes import log_axis
from mechshift_tl.plotting import COLOURS, DASHES, QUIET, ROLE_NAMES, SYMBOLS, faded, style
from mechshift_tl.study.trajectory.point import LABELS, TrajectoryPoint

COLUMNS = 3
ROWS = -(-len(LABELS) // COLUMNS)
Panel = dict[str, Any]  # plotly's `row` and `col`
Points = Mapping[str, Sequence[TrajectoryPoint]]


def draw_trajectory(points: Points, spans: Mapping[str, tuple[float, float]]) -> go.Figure:
    """Panels of `LABELS`; `points` by role, "arm" being a line across. `spans`: statistic → tokens between which half of its change lies.

    Of the MDM: its floor is the dotted line (97.5 % of random circuits), its ceiling the dashed one, and `spans` are shaded.
    """
    figure = make_subplots(ROWS, COLUMNS, subplot_titles=list(LABELS.values()), horizontal_spacing=0.06, vertical_spacing=0.1)
    tokens = sorted({one.tokens for role, of in points.items() if role != "arm" for one in of})
    places = dict(zip(tokens, _places(tokens), strict=True))
    for i, name in enumerate(LABELS):
        panel: Panel = {"row": i // COLUMNS + 1, "col": i % COLUMNS + 1}
        if name in spans:
            low, high = (_between(places, one) for one in spans[name])
            figure.add_vrect(
                x0=low, x1=high, fillcolor=QUIET, opacity=0.15, line_width=0, layer="below", exclude_empty_subplots=False, **panel
            )
        for role, of in points.items():
            if role == "arm":
                _across(figure, of[0], name, panel)
            else:
                _line(figure, role, of, name, places, panel)
        if name in of_mdm(points):
            _bounds(figure, points["mdm"], name, places, panel)
    figure.update_xaxes(tickvals=list(places.values()), ticktext=[short(one) for one in tokens], tickangle=-45)
    figure.update_xaxes(title_text="training tokens", row=ROWS)
    return style(figure, 250 * ROWS + 60, legend_y=1.05, margin={"l": 50, "r": 16, "t": 80, "b": 60})


def short(tokens: int) -> str:
    """`850k`, `1.7M`: as an axis says it."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{letter}"
    return str(tokens)


def of_mdm(points: Points) -> set[str]:
    """Statistics with a floor."""
    return {name for one in points["mdm"] for name in one.floors}


def _places(tokens: Sequence[int]) -> list[float]:
    """Where tokens stand on the axis; fewer than three stand side by side."""
    return log_axis(torch.tensor(tokens, dtype=torch.float64)).tolist() if len(tokens) > 2 else [float(i) for i in range(len(tokens))]


def _between(places: Mapping[int, float], tokens: float) -> float:
    """The place of tokens between those of checkpoints."""
    low = max((one for one in places if one <= tokens), default=min(places))
    high = min((one for one in places if one >= tokens), default=max(places))
    if low == high:
        return places[low]
    share = (tokens - low) / (high - low) if low == 0 else log(tokens / low) / log(high / low)
    return places[low] + share * (places[high] - places[low])


def _line(
    figure: go.Figure, role: str, points: Sequence[TrajectoryPoint], name: str, places: Mapping[int, float], panel: Panel
) -> None:  # fmt: skip
    """One model's band and line."""
    over = [one.over_prompts(name) for one in points]
    x = [places[one.tokens] for one in points]
    known = [i for i, one in enumerate(over) if one.n_draws]
    band_x = [x[i] for i in known]
    figure.add_scatter(
        x=band_x + band_x[::-1], y=[over[i].high for i in known] + [over[i].low for i in known][::-1], mode="lines", fill="toself",
        fillcolor=faded(role), line_width=0, hoverinfo="skip", showlegend=False, **panel,
    )  # fmt: skip
    figure.add_scatter(
        x=x, y=[one.of(name)[0] for one in points], name=ROLE_NAMES[role], legendgroup=role, showlegend=panel == {"row": 1, "col": 1},
        mode="lines+markers", line={"color": COLOURS[role], "dash": DASHES[role]}, marker={"symbol": SYMBOLS[role], "size": 7},
        customdata=[one.step for one in points], hovertemplate=f"{ROLE_NAMES[role]}, step %{{customdata}}: %{{y:.3f}}<extra></extra>",
        **panel,
    )  # fmt: skip


def _across(figure: go.Figure, arm: TrajectoryPoint, name: str, panel: Panel) -> None:
    """The ARM's own value."""
    if name in arm.names:
        figure.add_hline(y=arm.of(name)[0], line={"color": COLOURS["arm"], "width": 1.5}, exclude_empty_subplots=False, **panel)


def _bounds(figure: go.Figure, points: Sequence[TrajectoryPoint], name: str, places: Mapping[int, float], panel: Panel) -> None:
    """Floor and ceiling, as lines."""
    x = [places[one.tokens] for one in points]
    for label, y, dash in (
        ("floor", [one.floors[name].high for one in points], "dot"),
        ("ceiling", [one.ceilings[name] for one in points], "dash"),
    ):
        look = {"color": QUIET, "width": 1.2, "dash": dash}
        first = panel == {"row": 1, "col": 1}
        figure.add_scatter(x=x, y=y, mode="lines", line=look, name=f"{label} of the MDM", legendgroup=label, showlegend=first, **panel)
