"""`DepthShares`: shares by layer of several models, what follows from them, and what they let one say about front-loading.

*Early share* is the sum of the shares of layers below the cut. *Centre of depth* is the mean layer over the number of layers. Front-loading
by diffusion is a difference in differences, (MDM − ARM) − (control − ARM): what the control's training moves as well is not diffusion's
doing. The ARM cancels out, which leaves MDM − control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.compare.depth_figure import draw_shares
from mechshift_tl.compare.result import Statistic
from mechshift_tl.intervals import interval, judged
from mechshift_tl.plotting import ROLE_NAMES

KINDS = ("all edges", "writers", "circuit", "function")


@dataclass(frozen=True, eq=False)
class DepthShares(Artefact):
    """What each layer holds, by kind (`compare.depth_shares` says what each is) and role.

    - `shares (draws_and_1, kinds, roles, n_layers)`: in [0, 1], summing to 1 over layers; NaN where there is nothing to share. The first
      entry is of the prompts as they are, the others are of draws, which are the same for every role.
    - `cut`: layers below it are early. `n`: prompts behind the scores; `n_held_out`: prompts behind "function".
    - `aligned`: by role, whether its layers are each most like the ARM's of the same number; roles that were not checked are missing.
    - `notes`: what could not be computed, and why.
    """

    KIND: ClassVar[str] = "depth shares"

    task: str
    roles: tuple[str, ...]
    cut: int
    shares: Float[Tensor, "draws_and_1 kinds roles n_layers"] = field(repr=False)
    aligned: dict[str, bool]
    n: int
    n_held_out: int = 0
    notes: tuple[str, ...] = ()

    @property
    def n_layers(self) -> int:
        """Layers of the models."""
        return self.shares.shape[-1]

    def of(self, kind: str, role: str) -> Float[Tensor, "draws_and_1 n_layers"]:
        """Shares of one kind and role. Raises ValueError on one that there is not."""
        if kind not in KINDS or role not in self.roles:
            raise ValueError(f"depth: no shares of {kind!r} for {role!r}; kinds are {', '.join(KINDS)}, roles {', '.join(self.roles)}")
        return self.shares[:, KINDS.index(kind), self.roles.index(role)]

    def early_draws(self, kind: str, role: str) -> Float[Tensor, " draws_and_1"]:
        """Early share of the prompts as they are, then of every draw."""
        return self.of(kind, role)[:, : self.cut].sum(1)

    def centre_draws(self, kind: str, role: str) -> Float[Tensor, " draws_and_1"]:
        """Centre of depth in [0, 1), likewise."""
        layers = torch.arange(self.n_layers, dtype=self.shares.dtype) / self.n_layers
        return self.of(kind, role) @ layers

    def early(self, kind: str, role: str) -> Statistic:
        """Early share in [0, 1]."""
        return summed_up(self.early_draws(kind, role))

    def early_shift(self, kind: str, role: str = "mdm", against: str = "control") -> Statistic:
        """Early share of `role` minus that of `against`, paired over prompts."""
        return summed_up(self.early_draws(kind, role) - self.early_draws(kind, against))

    def centre_shift(self, kind: str, role: str = "mdm", against: str = "control") -> Statistic:
        """Centre of depth of `role` minus that of `against`, paired over prompts."""
        return summed_up(self.centre_draws(kind, role) - self.centre_draws(kind, against))

    @property
    def all_aligned(self) -> bool | None:
        """Whether the layers of every role are each most like the ARM's of the same number; None where that was not checked."""
        others = [role for role in self.roles if role != "arm"]
        return all(self.aligned[role] for role in others) if set(others) <= set(self.aligned) else None

    @property
    def front_loaded(self) -> bool:
        """Whether the MDM's early share over all edges exceeds the control's beyond chance, in models whose layers align."""
        over = self.early_shift("all edges").interval if {"mdm", "control"} <= set(self.roles) else None
        return bool(self.all_aligned) and over is not None and over.low > 0

    def finding(self) -> str:
        """Early shares, MDM − control by scores and by function, and whether front-loading is supported."""
        shares = ", ".join(f"{ROLE_NAMES[role]} {self.early('all edges', role).value:.3f}" for role in self.roles)
        early = f"Layers 0 to {self.cut - 1} of {self.n_layers} hold of all |score|: {shares} (n = {self.n})."
        if not {"mdm", "control"} <= set(self.roles):
            return f"{early} Front-loading by diffusion is not supported: without MDM and control, further training may do the same."
        shifts = [f"MDM − control is {signed(self.early_shift('all edges'))} by scores"]
        by_function = self.early_shift("function")
        if not isnan(by_function.value):
            shifts.append(f"{signed(by_function)} by function (n = {self.n_held_out})")
        return f"{early} {' and '.join(shifts)}. {judged(self.front_loaded)}: the MDM is front-loaded{self._why()}."

    def _why(self) -> str:
        """What else a claim of front-loading depends on."""
        over = self.early_shift("all edges").interval
        less = "; its early share is below the control's" if over is not None and over.high < 0 else ""
        known = {None: "; whether layers align was not checked", False: "; layers do not align, so depths do not compare", True: ""}
        return less + known[self.all_aligned]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per kind and role, or difference of roles: early share and centre, with low and high over prompts; then the shares."""
        rows = []
        for kind in KINDS:
            n = self.n_held_out if kind == "function" else self.n
            for role in self.roles:
                drawn = [self.early_draws(kind, role), self.centre_draws(kind, role)]
                layers = {f"layer {i}": share for i, share in enumerate(self.of(kind, role)[0].tolist())}
                rows.append({"kind": kind, "model": ROLE_NAMES[role], "n": n, **_columns(*map(summed_up, drawn)), **layers})
            for role, against in _differences(self.roles):
                shifts = self.early_shift(kind, role, against), self.centre_shift(kind, role, against)
                rows.append({"kind": kind, "model": f"{ROLE_NAMES[role]} − {ROLE_NAMES[against]}", "n": n, **_columns(*shifts)})
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Shares by layer, a panel per kind."""
        kinds = {kind: {role: self.of(kind, role) for role in self.roles} for kind in ("all edges", "circuit", "function")}
        return draw_shares(kinds, self.cut)

    def _repr_html_(self) -> str:
        return card("DepthShares", " ".join([self.task, self.finding(), *self.notes]), self.to_dataframe())


def between_tasks(a: DepthShares, b: DepthShares, kind: str = "all edges") -> Statistic:
    """MDM − control of early share on the task of `a`, minus the same on the task of `b`: is one more front-loaded than the other?

    Raises ValueError unless both have an MDM and a control.
    """
    first, second = (one.early_draws(kind, "mdm") - one.early_draws(kind, "control") for one in (a, b))
    n = min(len(first), len(second))
    # The tasks' prompts are unrelated, but one seed draws the same numbers for both: shifted by one, the draws are unrelated too.
    drawn = first[1:n] - second[1:n].roll(1)
    return summed_up(torch.cat([first[:1] - second[:1], drawn]))


def summed_up(draws: Float[Tensor, " draws_and_1"]) -> Statistic:
    """The first entry, with the interval of the others where there are any."""
    value, *drawn = draws.tolist()
    return Statistic(value, interval(drawn) if drawn else None)


def signed(shift: Statistic) -> str:
    """A difference with its sign and its interval, as text."""
    over = f" [{shift.interval.low:+.3f}, {shift.interval.high:+.3f}]" if shift.interval else " (no interval)"
    return f"{shift.value:+.3f}{over}".replace("-", "−")


def _columns(early: Statistic, centre: Statistic) -> dict[str, float]:
    found = {}
    for name, one in (("early", early), ("centre", centre)):
        found[name] = one.value
        found[f"{name}_low"], found[f"{name}_high"] = (one.interval.low, one.interval.high) if one.interval else (nan, nan)
    return found


def _differences(roles: Sequence[str]) -> list[tuple[str, str]]:
    """Differences between models that there are: every other model and the ARM, then the MDM and the control."""
    pairs = [("mdm", "arm"), ("control", "arm"), ("mdm", "control")]
    return [(role, against) for role, against in pairs if {role, against} <= set(roles)]
