"""`WeightsByMasks`: overlaps of every model's circuits under every mask, and what they say about the mask's part in a shift."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from math import nan
from typing import ClassVar, TypeAlias

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.attention import Direction
from hooked_diffusion.html import card
from mechshift_tl.compare.depth_result import signed, summed_up
from mechshift_tl.compare.result import Statistic
from mechshift_tl.intervals import judged
from mechshift_tl.plotting import INK, ROLE_NAMES, plain, style

#: Whose weights, and which attention.
Key: TypeAlias = tuple[str, Direction]
ARM: Key = ("arm", "causal")
MDM: Key = ("mdm", "full")
MDM_CAUSAL: Key = ("mdm", "causal")


@dataclass(frozen=True)
class Cell:
    """One model under one mask.

    - `role`, `direction`: whose weights, and which attention.
    - `accuracy`: share in [0, 1] of the prompts read correctly; `effect`: clean − corrupt, in the metric's unit.
    - `kept`: edges of its circuit. `repeatability`: edge overlap of its circuits on two halves of the prompts; None without them.
    """

    role: str
    direction: Direction
    accuracy: float
    effect: float
    kept: int
    repeatability: float | None = None

    @property
    def title(self) -> str:
        """The model and the mask, in words."""
        return f"{ROLE_NAMES[self.role]}, {self.direction}"


@dataclass(frozen=True, eq=False)
class WeightsByMasks(Artefact):
    """Overlaps of circuits of models under masks.

    - `cells`: what is overlapped, `k` of them.
    - `overlaps (draws_and_1, k, k)`: edge Jaccard, in [0, 1]; the first is of the prompts as they are, the others are of draws.
    - `floor`, `floor_high (k, k)`: mean and upper 97.5 % over circuits redrawn with their own layer profiles. `n`: prompts.
    """

    KIND: ClassVar[str] = "weights by masks"

    task: str
    cells: list[Cell]
    overlaps: Float[Tensor, "draws_and_1 k k"] = field(repr=False)
    floor: Float[Tensor, "k k"] = field(repr=False)
    floor_high: Float[Tensor, "k k"] = field(repr=False)
    n: int

    def index(self, role: str, direction: Direction) -> int:
        """Which cell this is. Raises ValueError on one that there is not."""
        for i, cell in enumerate(self.cells):
            if (cell.role, cell.direction) == (role, direction):
                return i
        raise ValueError(f"weights by masks: no {role!r} under {direction!r}; there are {', '.join(one.title for one in self.cells)}")

    def draws(self, a: Key, b: Key) -> Float[Tensor, " draws_and_1"]:
        """Overlap of two cells on the prompts as they are, then on every draw."""
        return self.overlaps[:, self.index(*a), self.index(*b)]

    def overlap(self, a: Key, b: Key) -> Statistic:
        """Overlap of two cells, with its interval over prompts."""
        return summed_up(self.draws(a, b))

    @property
    def of_the_mask(self) -> Statistic:
        """How much more the ARM overlaps with the MDM when the MDM's mask is causal as well, paired over prompts."""
        return summed_up(self.draws(ARM, MDM_CAUSAL) - self.draws(ARM, MDM))

    @property
    def mask_matters(self) -> bool:
        """Whether giving the MDM the ARM's mask brings their circuits together beyond chance."""
        over = self.of_the_mask.interval
        return over is not None and over.low > 0

    def finding(self) -> str:
        """ARM ~ MDM under each mask, the difference, and how well the MDM does under the other mask."""
        cell = self.cells[self.index(*MDM_CAUSAL)]
        own, causal, itself = (_with_interval(self.overlap(*two)) for two in ((ARM, MDM), (ARM, MDM_CAUSAL), (MDM, MDM_CAUSAL)))
        return (
            f"ARM ~ MDM share {own} of their edges, ARM ~ MDM under a causal mask {causal}: a difference of {signed(self.of_the_mask)} "
            f"(n = {self.n}). The MDM and itself under a causal mask share {itself}; there it reads {cell.accuracy:.0%} of the prompts "
            f"correctly. {judged(self.mask_matters)}: part of the shift is the mask, not training."
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per two cells: edge overlap with low, high, floor and its upper end, accuracies and effects of both, n."""
        rows = []
        for (i, a), (j, b) in combinations(enumerate(self.cells), 2):
            one = summed_up(self.overlaps[:, i, j])
            low, high = (one.interval.low, one.interval.high) if one.interval else (nan, nan)
            overlap = {"overlap": one.value, "low": low, "high": high}
            floor = {"floor": self.floor[i, j].item(), "floor_high": self.floor_high[i, j].item()}
            alone = {f"{name}_{end}": getattr(cell, name) for end, cell in (("a", a), ("b", b)) for name in ("accuracy", "effect")}
            rows.append({"a": a.title, "b": b.title, **overlap, **floor, **alone, "n": self.n})
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """The matrix of overlaps; each cell's accuracy stands beside its name, its repeatability on the diagonal."""
        names = [f"{plain(one.title)} ({one.accuracy:.0%} right)" for one in self.cells]
        shown = self.overlaps[0].tolist()
        for i, one in enumerate(self.cells):
            shown[i][i] = nan if one.repeatability is None else one.repeatability
        heat = go.Heatmap(
            z=shown, x=names, y=names, zmin=0, zmax=1, colorscale=[[0, "#f8f8f6"], [1, INK]], texttemplate="%{z:.2f}",
            colorbar={"title": "Jaccard", "thickness": 12}, hovertemplate="%{y} ~ %{x}: %{z:.3f}<extra></extra>",
        )  # fmt: skip
        figure = go.Figure(heat).update_yaxes(autorange="reversed")
        return style(figure, 460, margin={"l": 60, "r": 16, "t": 16, "b": 60})

    def _repr_html_(self) -> str:
        return card("WeightsByMasks", f"{self.task} {self.finding()}", self.to_dataframe())


def _with_interval(one: Statistic) -> str:
    return f"{one.value:.3f}" + (f" [{one.interval.low:.3f}, {one.interval.high:.3f}]" if one.interval else "")
