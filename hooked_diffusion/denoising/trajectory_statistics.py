"""The statistics of a trajectory as one object: four tables that draw themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from hooked_diffusion.plotting import COLOURS, INK, QUIET, SEQUENTIAL, style

Quantity = Literal["sink", "to_masked", "drift"]
Group = Literal["masked", "visible"]
#: Rows of a batch, in order.
MARKERS = ("circle", "square", "diamond", "cross", "x", "triangle-up")
SAID = {
    "sink": "attention on the first token",
    "to_masked": "attention on masked positions",
    "drift": "change of the pattern since the step before (total variation)",
}


@dataclass(frozen=True, eq=False)
class TrajectoryStatistics(JsonArtefact):
    """Tables of one trajectory; columns, units and ranges: `statistics`.

    - `orders`: row, commits, tau, p_value.
    - `positions`: row, pos, step, token, confidence, settled, flips.
    - `steps`: step, positions ("masked" or "visible"), n, confidence, final, entropy, agreement.
    - `attention`: step, layer, queries ("masked" or "visible"), sink, to_masked, drift; empty when it was not measured.
    """

    KIND: ClassVar[str] = "trajectory statistics"

    orders: pd.DataFrame
    positions: pd.DataFrame
    steps: pd.DataFrame
    attention: pd.DataFrame

    def to_dataframe(self) -> pd.DataFrame:
        """The table of positions, with each row's τ."""
        return self.positions.merge(self.orders[["row", "tau"]], on="row")

    def figure(self) -> go.Figure:
        """Commit order (left) and confidence over the steps (right): `order_figure` beside `confidence_figure`."""
        figure = make_subplots(1, 2, horizontal_spacing=0.1, subplot_titles=["Commit order", "Confidence"])
        for column, part in enumerate((self.order_figure(), self.confidence_figure()), 1):
            figure.add_traces(part.data, rows=1, cols=column)
        figure.update_layout(xaxis_title="position", yaxis_title="step", xaxis2_title="step", yaxis2_title="probability")
        figure.update_layout(yaxis2_range=[0, 1.02])
        return style(figure, 400, legend={"y": -0.22, "yanchor": "top"}, margin={"b": 96})

    def order_figure(self) -> go.Figure:
        """Position (x) and step of commit (y) of every mask, one trace per row, named by τ. Lines mark the step at which it was settled."""
        figure = go.Figure()
        for (row, at), tau in zip(self.positions.groupby("row"), self.orders["tau"], strict=True):
            name = f"row {row}, τ = {tau:.2f}"
            dot = {"color": COLOURS["mdm"], "symbol": MARKERS[int(str(row)) % len(MARKERS)], "size": 8}
            figure.add_scatter(x=at["pos"], y=at["step"], mode="markers", name=name, legendgroup=name, marker=dot)
            known, line = at[at["settled"] >= 0], {"color": INK, "symbol": "line-ew-open", "size": 10}
            figure.add_scatter(
                x=known["pos"], y=known["settled"], mode="markers", marker=line, name="settled", legendgroup=name, showlegend=False
            )
        return style(figure, 360, title="Commit order", xaxis_title="position", yaxis_title="step")

    def confidence_figure(self) -> go.Figure:
        """Mean probability of the first choice, and of the final token (dashed), by step, over masked and over visible positions."""
        figure = go.Figure()
        for group, at in self.steps.groupby("positions"):
            colour = COLOURS["mdm"] if group == "masked" else QUIET
            for column, name, dash in (("confidence", "first choice", "solid"), ("final", "final token", "dash")):
                figure.add_scatter(x=at["step"], y=at[column], name=f"{group}: {name}", line={"color": colour, "dash": dash})
        return style(figure, 360, title="Confidence", xaxis_title="step", yaxis_title="probability", yaxis_range=[0, 1.02])

    def attention_figure(self, quantity: Quantity = "sink", queries: Group = "masked") -> go.Figure:
        """A heat map of layer × step, shares in [0, 1]. Raises ValueError on an unknown quantity or group, and without attention."""
        if quantity not in SAID or queries not in get_args(Group):
            raise ValueError(
                f"attention_figure: {quantity!r} of {queries!r}; choose from {', '.join(SAID)} and {', '.join(get_args(Group))}"
            )
        if self.attention.empty:
            raise ValueError("attention was not measured; pass attention=True to `trajectory.statistics`")
        at = self.attention[self.attention["queries"] == queries].pivot(index="layer", columns="step", values=quantity)
        heat = go.Heatmap(z=at.to_numpy(), x=at.columns, y=at.index, zmin=0, zmax=1, colorscale=SEQUENTIAL, colorbar_title="share")
        title = f"From {queries} positions: {SAID[quantity]}"
        return style(go.Figure(heat), 180 + 14 * max(8, len(at)), title=title, xaxis_title="step", yaxis_title="layer")

    def _repr_html_(self) -> str:
        return card("TrajectoryStatistics", "", self.orders, self.positions.head(10))
