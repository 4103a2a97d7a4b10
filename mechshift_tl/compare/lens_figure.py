"""The picture of a `LensComparison`: by depth, over steps, and with steps ablated."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechshift_tl.compare.paired import where
from mechshift_tl.plotting import COLOURS, QUIET, ROLE_NAMES, SYMBOLS, plain, style

TITLES = ("stream by depth: entropy (nats)", "components by step: entropy (nats)", "step masked again: change of answer − foil")
DASH_OF_SET = {"shared": "solid", "ARM only": "dash", "MDM only": "dot"}


def lens_panels(depth: pd.DataFrame, table: pd.DataFrame, ablation: pd.DataFrame, roles: Sequence[str], highest: float) -> go.Figure:
    """Three panels; bars are 95 % over prompts; the dashed line is the entropy of a lens that says nothing."""
    figure = make_subplots(1, 3, subplot_titles=TITLES, horizontal_spacing=0.07)
    for role in roles:
        rows = where(depth, statistic="entropy", subject=role)
        _line(figure, rows, "depth", role, 1, name=ROLE_NAMES[role])
    of_steps = where(table, statistic="entropy")
    of_steps = of_steps.loc[of_steps["scope"].str.startswith("step ")]
    of_steps = of_steps.assign(step=[int(scope.removeprefix("step ")) for scope in of_steps["scope"]]).sort_values("step", kind="stable")
    for role in roles:
        for name, dash in DASH_OF_SET.items():
            rows = where(of_steps, subject=role, set=name)
            _line(figure, rows, "step", role, 2, name=f"{ROLE_NAMES[role]}, {plain(name)}", dash=dash)
    for column in (1, 2):
        figure.add_hline(y=highest, line={"color": QUIET, "width": 1.5, "dash": "dash"}, row=1, col=column)  # pyright: ignore[reportArgumentType]
    for name, dash in {"whole model": "solid", "shared": "dash", "MDM only": "dot"}.items():
        rows = where(ablation, set=name, statistic="effect")
        _line(figure, rows, "step", "mdm", 3, name=f"{plain(name)}, masked again", dash=dash)
    figure.update_xaxes(title_text="step", col=2)
    figure.update_xaxes(title_text="step masked again", col=3)
    return style(figure, 400, legend_y=1.15, margin_t=110)


def _line(figure: go.Figure, rows: pd.DataFrame, x: str, role: str, column: int, *, name: str, dash: str = "solid") -> None:
    if rows.empty:
        return
    bars = {
        "array": (rows["high"] - rows["value"]).tolist(),
        "arrayminus": (rows["value"] - rows["low"]).tolist(),
        "color": COLOURS[role],
        "thickness": 1,
    }
    figure.add_scatter(
        x=rows[x].tolist(), y=rows["value"].tolist(), error_y=bars, name=name, mode="lines+markers",
        line={"color": COLOURS[role], "dash": dash}, marker={"symbol": SYMBOLS[role], "size": 7}, hovertemplate="%{x}: %{y:.3f}",
        row=1, col=column,
    )  # fmt: skip
