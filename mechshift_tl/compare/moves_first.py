"""Which of several statistics moves first over training.

Each has a distribution of the place where half of its change has happened (`change_point`). One moves before another where a place drawn
from its distribution lies before one drawn from the other's, with a probability of at least 0.95; two steps in one gap are even. A
statistic moves *first* where it moves before every other one that changed. Noise of two statistics is taken as independent: shared prompts
make an order surer than it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.compare.change_point import CANNOT_TELL, ChangePoint
from mechshift_tl.compare.change_power import SURE
from mechshift_tl.plotting import SEQUENTIAL, plain, style


@dataclass(frozen=True)
class MovesFirst(JsonArtefact):
    """The order of several change-points.

    - `first`: the statistic that moves first, or "cannot tell"; `unchanged`: those without a sure change, which are in no order.
    - `before`: probability, in [0, 1], that one moves before another: `{"depth": {"accuracy": 0.98}}`.
    """

    KIND: ClassVar[str] = "moves first"

    first: str
    before: dict[str, dict[str, float]]
    unchanged: tuple[str, ...] = ()

    def finding(self) -> str:
        """The answer in a sentence."""
        still = f" Not seen to change: {', '.join(self.unchanged)}." if self.unchanged else ""
        if len(self.before) < 2:
            return f"What moves first: {CANNOT_TELL}, for fewer than two change.{still}"
        pairs = [(a, b, p) for a, others in self.before.items() for b, p in others.items() if p >= 0.5]
        said = "; ".join(f"{a} before {b} with probability {p:.2f}" for a, b, p in pairs)
        return f"What moves first: {self.first} ({said}).{still}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row per ordered pair: moves, before, probability."""
        rows = [{"moves": a, "before": b, "probability": p} for a, others in self.before.items() for b, p in others.items()]
        return pd.DataFrame(rows, columns=["moves", "before", "probability"])

    def figure(self) -> go.Figure:
        """Probability, in [0, 1], that the statistic of a row moves before that of a column; empty where fewer than two change."""
        names = list(self.before)
        z = [[self.before[a].get(b) for b in names] for a in names]
        labels = [plain(name) for name in names]
        figure = go.Figure(go.Heatmap(z=z, x=labels, y=labels, zmin=0, zmax=1, colorscale=SEQUENTIAL, colorbar_title="probability"))
        figure.update_xaxes(type="category", title_text="before", showgrid=False)
        figure.update_yaxes(type="category", title_text="moves", autorange="reversed", showgrid=False)
        return style(figure, 160 + 30 * max(2, len(names)))

    def _repr_html_(self) -> str:
        return card("MovesFirst", self.finding(), self.to_dataframe())


def moves_first(found: Sequence[ChangePoint]) -> MovesFirst:
    """The order of `found`, which have names of their own. Raises ValueError where two share one."""
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ValueError(f"moves_first: the statistics are {names}; give each a name of its own")
    changed = {one.name: one for one in found if one.changed}
    before: dict[str, dict[str, float]] = {name: {} for name in changed}
    for a, b in permutations(changed, 2):
        before[a][b] = probability_before(changed[a], changed[b])
    first = next((name for name, others in before.items() if others and min(others.values()) >= SURE), CANNOT_TELL)
    return MovesFirst(first, before, tuple(name for name in names if name not in changed))


def probability_before(a: ChangePoint, b: ChangePoint) -> float:
    """Probability, in [0, 1], that half of `a`'s change comes before half of `b`'s; places that are equal count one half."""
    (x, p), (y, q) = ((torch.tensor(one.places, dtype=torch.float64), torch.tensor(one.weights, dtype=torch.float64)) for one in (a, b))
    earlier = (x[:, None] < y).double() + (x[:, None] == y).double() / 2
    return (p @ earlier @ q).item()
