"""Circuits carried from one model into another: how much of what a model's own circuit does, the other model's circuit does there.

    τ = (F_cross − F_null) / (F_own − F_null)

F is faithfulness in the model that the circuits run in. F_own is that of its own circuit, F_cross that of the other model's, by id or under
a matching (`circuits.matching`), and F_null the mean of its own circuit with heads permuted inside layers. τ is 1 where the other model's
circuit does as well as the own one, 0 where it does no better than the own one on wrong heads. Below 0 and above 1 both occur.

A mechanism is shared when both circuits work in both models, so τ of two models is the lower of the two directions. Intervals come from
drawing the prompts anew, the same ones in all runs and in both models, and the permutations beside them; no model runs again. On a draw
where the own circuit does no better than its null, τ has no meaning: it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.matching import Matching
from mechshift_tl.circuits.permuted import permuted_heads
from mechshift_tl.evaluation.faithfulness import N_BOOT, check_gap, recovered
from mechshift_tl.evaluation.run import CircuitRun
from mechshift_tl.evaluation.run_once import CircuitRuns
from mechshift_tl.intervals import check_draws, interval, mean_of_redrawn, sample_and_draws
from mechshift_tl.plotting import QUIET, style

BY_ID = "id"


@dataclass(frozen=True, eq=False)
class Carried(Artefact):
    """Two models' circuits carried into each other.

    - `n`: prompts.
    - `roles`: of the two models. Direction 0 runs the first one's circuit in the second, direction 1 the second one's in the first.
    - `matchings`: names of the ways of carrying, "id" first.
    - `own`, `null (2,)`, `cross (matchings, 2)`: faithfulness on all prompts.
    - `tau (matchings, 2)`, `draws (n_boot, matchings, 2)`: τ on all prompts and on each draw of them, float64.
    """

    KIND: ClassVar[str] = "carried circuits"

    n: int
    roles: tuple[str, str]
    matchings: tuple[str, ...]
    own: Float[Tensor, " 2"]
    null: Float[Tensor, " 2"]
    cross: Float[Tensor, " matchings 2"]
    tau: Float[Tensor, " matchings 2"]
    draws: Float[Tensor, " n_boot matchings 2"]

    def lower(self, matching: str) -> float:
        """τ of one matching: the lower of the two directions."""
        return self.tau[self.matchings.index(matching)].amin().item()

    def lower_draws(self, matching: str) -> Float[Tensor, " n_boot"]:
        """The same on each draw."""
        return self.draws[:, self.matchings.index(matching)].amin(1)

    @property
    def best(self) -> str:
        """The matching with the highest τ; "id" where no other exceeds it, or where τ has no meaning."""
        return max(self.matchings, key=lambda name: lower if (lower := self.lower(name)) == lower else -inf)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per matching and direction: matching, circuit, model, own, null, cross, tau, low, high (95 % over prompts)."""
        rows: list[dict[str, str | float]] = []
        for i, name in enumerate(self.matchings):
            for j, (circuit, model) in enumerate((self.roles, self.roles[::-1])):
                over = interval(self.draws[:, i, j].tolist())
                values = {"own": self.own[j].item(), "null": self.null[j].item(), "cross": self.cross[i, j].item()}
                found = {"tau": self.tau[i, j].item(), "low": over.low, "high": over.high}
                rows.append({"matching": name, "circuit": circuit, "model": model} | values | found)
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """τ with its interval, one point per matching and direction; 0 and 1 are marked."""
        figure, table = go.Figure(), self.to_dataframe()
        for circuit, model in (self.roles, self.roles[::-1]):
            rows = table[table["circuit"] == circuit]
            bars = {"array": (rows["high"] - rows["tau"]).tolist(), "arrayminus": (rows["tau"] - rows["low"]).tolist(), "symmetric": False}
            figure.add_scatter(
                x=rows["matching"].tolist(), y=rows["tau"].tolist(), error_y=bars, mode="markers", name=f"{circuit} in {model}"
            )
        for height in (0, 1):
            figure.add_hline(y=height, line={"color": QUIET, "width": 1, "dash": "dot"})
        figure.update_xaxes(title_text="heads matched by")
        figure.update_yaxes(title_text="τ")
        return style(figure, 300)

    def _repr_html_(self) -> str:
        return card("Carried", f"best matched by {self.best}: τ {self.lower(self.best):.2f}", self.to_dataframe())


def carry(
    runs: CircuitRuns,
    circuits: Mapping[str, Circuit],
    matchings: Mapping[str, tuple[Matching, Matching]],
    *,
    n_null: int = 8,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> Carried:
    """Carry the circuits of two models, by role, into each other.

    - `runs`: of prompts on which neither circuits nor matchings were found.
    - `matchings`: by name, the first model's writers for the second's, and the other way round. By id is always done.
    - `n_null`: permutations of each own circuit's heads; `n_boot`: draws of the prompts, and of these.

    Cost: 1 + n_null + matchings runs of a circuit in each model, less those that `runs` holds. Raises ValueError where `run_circuits` does;
    `NoGap` where the metric does not tell clean from corrupt.
    """
    check_draws(n_boot)
    first, second = circuits
    every = sample_and_draws(runs.n_examples, n_boot, seed)
    ways = {BY_ID: (Matching.by_id(circuits[first].graph),) * 2, **matchings}
    found = []
    for j, (source, target) in enumerate(((first, second), (second, first))):
        carried = [way[j] for way in ways.values()]
        found.append(_in_model(partial(runs.of, target), circuits[source], circuits[target], carried, every, n_null, seed))
    own, null, cross, tau = (torch.stack(parts, -1) for parts in zip(*found, strict=True))
    return Carried(runs.n_examples, (first, second), tuple(ways), own[0], null[0], cross[0], tau[0], tau[1:])


def _in_model(
    run: Callable[[list[Circuit]], list[CircuitRun]],
    other: Circuit,
    own: Circuit,
    ways: list[Matching],
    counts: Tensor,
    n_null: int,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Faithfulness of the own circuit, of its null and of the carried circuits, and τ of these: `(draws,)` twice, `(draws, ways)` twice."""
    null = [one.circuit(own) for one in permuted_heads(own.graph, n_null, seed)]
    runs = run([own, *null, *(way.circuit(other) for way in ways)])
    check_gap(runs[0], counts)
    own_f, *rest = (recovered(one, counts) for one in runs)
    null_f = mean_of_redrawn(torch.stack(rest[: len(null)], 1), seed)
    cross, gap = torch.stack(rest[len(null) :], 1), own_f - null_f
    return own_f, null_f, cross, (cross - null_f[:, None]) / gap.where(gap > 0, torch.nan)[:, None]
