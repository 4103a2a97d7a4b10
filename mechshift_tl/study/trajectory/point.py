"""One task at one checkpoint: a number per statistic, on the prompts and on each draw of them.

The draws have one seed, so a draw holds the same prompts at every checkpoint. What prompts do to all checkpoints alike cancels in a
difference between two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan, nan
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.intervals import Interval, interval, normal_interval
from mechshift_tl.plotting import COLOURS, QUIET, plain, style

#: Statistics by name, and how each is labelled. The first five are of the checkpoint's model and the ARM, the others of the model alone.
LABELS = {
    "edge_overlap": "edge overlap (Jaccard)",
    "component_overlap": "overlap of top components",
    "tau_arm_in_model": "τ, ARM's circuit in the model",
    "tau_model_in_arm": "τ, model's circuit in the ARM",
    "accuracy": "prompts read correctly",
    "early_share": "early share, all edges",
    "centre": "centre of depth (layer)",
    "spread": "participation ratio",
    "faithfulness": "faithfulness of the own circuit",
}
#: Overlaps lie low on draws of the prompts (`attribution.bootstrap`): their interval is the value ± 1.96 standard deviations.
BY_DEVIATION = ("edge_overlap", "component_overlap")


@dataclass(frozen=True, eq=False)
class TrajectoryPoint(Artefact):
    """One task at one checkpoint of a role ("mdm", "control"), or of the ARM itself ("arm", at step 0).

    - `step`, `tokens`: how far the training was. `share`: size of all circuits, as a share of the possible edges.
    - `n_scored`, `n_run`, `n_read`: prompts that circuits are found on, that circuits run on, and that accuracy is of.
    - `names`: statistics of `LABELS`; `values (statistics,)`, `draws (n_boot, statistics)`: float64, NaN where one has no meaning.
    - `floors`: mean and 95 % over random circuits; `ceilings`: split-half repeatability, the lower of the two models'; of the overlaps.
    - `note`: why something has no meaning; empty where all have one.
    """

    KIND: ClassVar[str] = "trajectory point"

    task: str
    role: str
    step: int
    tokens: int
    share: float
    n_scored: int
    n_run: int
    n_read: int
    names: tuple[str, ...]
    values: Float[Tensor, " statistics"] = field(repr=False)
    draws: Float[Tensor, "n_boot statistics"] = field(repr=False)
    floors: dict[str, Interval] = field(default_factory=dict, repr=False)
    ceilings: dict[str, float] = field(default_factory=dict, repr=False)
    note: str = ""

    def of(self, name: str) -> tuple[float, Float[Tensor, " n_boot"]]:
        """Value and draws of a statistic; NaN where the point has none of this name."""
        if name not in self.names:
            return nan, self.draws.new_full((len(self.draws),), nan)
        i = self.names.index(name)
        return self.values[i].item(), self.draws[:, i]

    def over_prompts(self, name: str) -> Interval:
        """The 95 % interval of a statistic over prompts."""
        value, draws = self.of(name)
        if name in BY_DEVIATION and not isnan(value):
            return normal_interval(value, draws.tolist(), 0, 1)
        return interval(draws.tolist())

    def to_dataframe(self) -> pd.DataFrame:
        """One row per statistic: task, role, step, tokens, statistic, value, low, high, floor, floor_high, ceiling, n, share."""
        place = {"task": self.task, "role": self.role, "step": self.step, "tokens": self.tokens}
        return pd.DataFrame([place | self._row(name) | {"share": self.share} for name in self.names])

    def _row(self, name: str) -> dict[str, str | float]:
        over, floor = self.over_prompts(name), self.floors.get(name)
        n = {"accuracy": self.n_read, "faithfulness": self.n_run}.get(name, self.n_run if name.startswith("tau") else self.n_scored)
        found = {"statistic": name, "value": self.of(name)[0], "low": over.low, "high": over.high}
        bounds = {"floor": floor.mean if floor else nan, "floor_high": floor.high if floor else nan}
        return found | bounds | {"ceiling": self.ceilings.get(name, nan), "n": n}

    def figure(self) -> go.Figure:
        """Every statistic with its 95 % interval over prompts, each on its own axis."""
        figure = make_subplots(len(self.names), 1, vertical_spacing=0.4 / max(1, len(self.names)))
        for row, name in enumerate(self.names, 1):
            value, over = self.of(name)[0], self.over_prompts(name)
            bars = {"array": [over.high - value], "arrayminus": [value - over.low], "symmetric": False}
            dot = {"color": COLOURS.get(self.role, QUIET), "size": 9}
            label = [plain(LABELS[name])]
            figure.add_scatter(x=[value], y=label, error_x=bars, mode="markers", marker=dot, showlegend=False, row=row, col=1)
        return style(figure, 80 + 64 * len(self.names))

    def _repr_html_(self) -> str:
        return card("TrajectoryPoint", f"{self.task}, {self.role} at step {self.step}. {self.note}", self.to_dataframe())


def stacked(found: Mapping[str, Float[Tensor, " draws_and_1"]]) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Names, values and draws of statistics that hold the sample first, in the order of `LABELS`."""
    names = tuple(name for name in LABELS if name in found)
    every = torch.stack([found[name].double() for name in names], 1)
    return names, every[0].clone(), every[1:].clone()
