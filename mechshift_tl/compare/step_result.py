"""`StepCircuits`: how the circuits of steps, positions and kinds of position overlap, in each model."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.compare.result import Statistic
from mechshift_tl.intervals import judged
from mechshift_tl.plotting import INK, ROLE_NAMES, plain, style

#: The share of components that Kong et al. report step-wise circuits to have in common.
PAPER_SHARE = 0.9


@dataclass(frozen=True, eq=False)
class GroupOverlaps:
    """Overlaps of the circuits of one model's groups of rows.

    - `family`: what is grouped: "step" (of an ARM: position of the answer), "kind" of position, or "half" (early and late steps).
    - `labels`, `n_read`, `kept`: of each group its name, its reads, and its circuit's edges. `n`: prompts.
    - `edges`, `components`: matrices of Jaccard indices over groups; `edge_floor`: the mean of the first over redrawn circuits.
    - `statistics`: by name. Means over every two circuits: "edge overlap" and "component overlap" (Jaccard), "components shared" (the share
      of one's components that the other has too); "components in all": the share of all components that every circuit has. Their ceiling
      is the repeatability of one group on two halves of the prompts. "mean |score| ~ pooled", "union ~ pooled", "vote ~ pooled": edge
      overlap of a way of joining the circuits with the pooled circuit.
    - `with_pooled`: edge overlap of each group's circuit with the pooled one.
    """

    role: str
    family: str
    labels: list[str]
    n_read: list[int]
    kept: list[int]
    edges: list[list[float]]
    components: list[list[float]]
    edge_floor: list[list[float]]
    statistics: dict[str, Statistic]
    with_pooled: list[float]
    n: int

    @property
    def title(self) -> str:
        """What is grouped, in words."""
        grouped = {"step": "answer positions" if self.role == "arm" else "steps", "kind": "kinds of position", "half": "early, late"}
        return f"{ROLE_NAMES[self.role]}, {grouped[self.family]}"


@dataclass(frozen=True, eq=False)
class StepCircuits(JsonArtefact):
    """Overlaps of the circuits of steps, of kinds of position, and of early and late steps, in each model."""

    KIND: ClassVar[str] = "step_circuits"

    task: str
    parts: tuple[GroupOverlaps, ...] = field(repr=False)

    def of(self, role: str, family: str) -> GroupOverlaps | None:
        """One model's overlaps of one family; None where it has fewer than two groups."""
        return next((one for one in self.parts if (one.role, one.family) == (role, family)), None)

    @property
    def supported(self) -> bool:
        """Whether the MDM's steps share over 90 % of their components, beyond what circuits of their layer profile share by chance."""
        steps = self.of("mdm", "step")
        shared = steps.statistics["components shared"] if steps else None
        if shared is None or shared.interval is None or shared.floor is None:
            return False
        return shared.interval.low > max(PAPER_SHARE, shared.floor.high)

    def finding(self) -> str:
        """Components and edges that steps share, and how early and late steps differ."""
        if not self.parts:
            return "Not measured: no two steps are read often enough to have circuits of their own; take more prompts."
        told = [_told(one) for one in self.parts if one.family == "step"]
        halves = [f"{ROLE_NAMES[one.role]} {_with_interval(one.statistics['edge overlap'])}" for one in self.parts if one.family == "half"]
        claim = f"{judged(self.supported)}: the MDM's steps share more than 90 % of their components, and more than chance gives."
        late = f"Edge overlap of early and late steps: {', '.join(halves)}." if halves else ""
        return " ".join([*told, claim, late]).strip()

    def to_dataframe(self) -> pd.DataFrame:
        """One row per model, family and statistic: value, low, high, floor, its upper end, repeatability, prompts."""
        return pd.DataFrame([_row(one, name, value) for one in self.parts for name, value in one.statistics.items()])

    def groups(self) -> pd.DataFrame:
        """One row per model, family and group: reads, edges of its circuit, edge overlap with the pooled circuit."""
        columns = ["model", "family", "group", "n_read", "edges", "with_pooled"]
        rows = [
            (ROLE_NAMES[one.role], one.family, *group)
            for one in self.parts
            for group in zip(one.labels, one.n_read, one.kept, one.with_pooled, strict=True)
        ]
        return pd.DataFrame(rows, columns=pd.Index(columns))

    def figure(self) -> go.Figure:
        """Edge overlaps of steps and of kinds of position, a matrix per model."""
        shown = [one for family in ("step", "kind") for one in self.parts if one.family == family]
        columns = max(1, min(3, len(shown)))
        rows = max(1, -(-len(shown) // columns))
        titles = [plain(one.title) for one in shown]
        figure = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.14, vertical_spacing=0.4 / rows)
        for i, one in enumerate(shown):
            labels = [plain(label) for label in one.labels]
            heat = go.Heatmap(z=one.edges, x=labels, y=labels, coloraxis="coloraxis", hovertemplate="%{y} ~ %{x}: %{z:.2f}<extra></extra>")
            figure.add_trace(heat, row=i // columns + 1, col=i % columns + 1)
        figure.update_xaxes(type="category").update_yaxes(type="category", autorange="reversed")
        scale = {"cmin": 0, "cmax": 1, "colorscale": [[0, "#f8f8f6"], [1, INK]], "colorbar": {"title": "Jaccard", "thickness": 12}}
        return style(figure, 60 + 300 * rows, coloraxis=scale, margin={"l": 60, "r": 16, "t": 40, "b": 60})

    def _repr_html_(self) -> str:
        return card("StepCircuits", f"{self.task} {self.finding()}", self.to_dataframe())


def _told(one: GroupOverlaps) -> str:
    """A sentence on the steps of one model."""
    shared, edges = one.statistics["components shared"], one.statistics["edge overlap"]
    return (
        f"{one.title} ({len(one.labels)}, n = {one.n}): two circuits share {_with_interval(shared)} of their components{_bounds(shared)}, "
        f"edge overlap {_with_interval(edges)}{_bounds(edges)}."
    )


def _bounds(one: Statistic) -> str:
    """What chance gives, and what one group has with itself."""
    floor = f"chance {one.floor.mean:.2f}" if one.floor else ""
    again = "" if one.ceiling is None else f"one with itself on half of the prompts {one.ceiling:.2f}"
    told = ", ".join(part for part in (floor, again) if part)
    return f" ({told})" if told else ""


def _with_interval(one: Statistic) -> str:
    return f"{one.value:.2f}" + (f" [{one.interval.low:.2f}, {one.interval.high:.2f}]" if one.interval else "")


def _row(part: GroupOverlaps, name: str, one: Statistic) -> dict[str, object]:
    low, high = (one.interval.low, one.interval.high) if one.interval else (nan, nan)
    floor, floor_high = (one.floor.mean, one.floor.high) if one.floor else (nan, nan)
    found = {"value": one.value, "low": low, "high": high, "floor": floor, "floor_high": floor_high}
    again = nan if one.ceiling is None else one.ceiling
    return {"model": ROLE_NAMES[part.role], "family": part.family, "statistic": name, **found, "repeatability": again, "n": part.n}
