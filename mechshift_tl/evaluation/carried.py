"""Circuits carried from one model into another: how much of what a model's own circuit does, the other model's circuit does there.

    τ = (F_cross − F_null) / (F_own − F_null)

F is faithfulness in the model that the circuits run in. F_own is that of its own circuit, F_cross that of the other model's, by id or under
a matching (`circuits.matching`), and F_null the mean of its own circuit with heads permuted inside layers. τ is 1 where the other model's
circuit does as well as the own one, 0 where it does no better than the own one on wrong heads. Below 0 and above 1 both occur.

A mechanism is shared when both circuits work in both models, so τ of two models is the lower of the two directions. Intervals come from
drawing the prompts anew, the same ones in all runs and in both models, and the permutations beside them; no model runs again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.matching import Matching
from mechshift_tl.circuits.permuted import permuted_heads
from mechshift_tl.evaluation.faithfulness import N_BOOT, check_gap, recovered
from mechshift_tl.evaluation.run import RunSettings, run_circuits
from mechshift_tl.intervals import check_draws, draw_counts, interval, seeded
from mechshift_tl.plotting import QUIET, style
from mechshift_tl.readouts import Readouts

BY_ID = "id"


@dataclass(frozen=True, eq=False)
class Carried(Artefact):
    """Two models' circuits carried into each other.

    - `roles`: of the two models. Direction 0 runs the first one's circuit in the second, direction 1 the second one's in the first.
    - `matchings`: names of the ways of carrying, "id" first.
    - `own`, `null (2,)`, `cross (matchings, 2)`: faithfulness on all prompts.
    - `tau (matchings, 2)`, `draws (n_boot, matchings, 2)`: τ on all prompts and on each draw of them, float64.
    """

    KIND: ClassVar[str] = "carried circuits"

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
        """The matching with the highest τ; "id" where no other exceeds it."""
        return max(self.matchings, key=self.lower)

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
    models: Mapping[str, HookedModel],
    circuits: Mapping[str, Circuit],
    readouts: Mapping[str, Readouts],
    matchings: Mapping[str, tuple[Matching, Matching]],
    *,
    n_null: int = 10,
    n_boot: int = N_BOOT,
    seed: int = 0,
    **settings: Unpack[RunSettings],
) -> Carried:
    """Carry the circuits of two models into each other; `models`, `circuits` and `readouts` by role, the same two roles in each.

    - `readouts`: of the same examples in the same order, on which neither circuits nor matchings were found.
    - `matchings`: by name, the first model's writers for the second's, and the other way round. By id is always done.
    - `n_null`: permutations of each own circuit's heads; `n_boot`: draws of the prompts, and of these.

    Cost: 1 + n_null + matchings runs of a circuit in each model. A matching that is the ids is not run again. Raises ValueError where
    `run_circuits` does and where examples differ in number; `NoGap` where the metric does not tell clean from corrupt.
    """
    check_draws(n_boot)
    first, second = models
    n = readouts[first].n_examples
    if readouts[second].n_examples != n:
        raise ValueError(
            f"carry: the readouts of {first} and {second} hold {n} and {readouts[second].n_examples} examples; give the same ones"
        )
    counts = draw_counts(n, n_boot, seed)
    every = torch.cat([torch.ones(1, n, dtype=torch.float64), counts])  # the sample itself comes first, then its draws
    ways = {BY_ID: (Matching.by_id(circuits[first].graph),) * 2, **matchings}
    found = []
    for j, (source, target) in enumerate(((first, second), (second, first))):
        carried = [way[j] for way in ways.values()]
        found.append(
            _in_model(models[target], circuits[source], circuits[target], carried, readouts[target], every, n_null, seed, settings)
        )
    own, null, cross, tau = (torch.stack(parts, -1) for parts in zip(*found, strict=True))
    return Carried((first, second), tuple(ways), own[0], null[0], cross[0], tau[0], tau[1:])


def _in_model(
    model: HookedModel, other: Circuit, own: Circuit, ways: list[Matching], readouts: Readouts, counts: Tensor, n_null: int, seed: int,
    settings: RunSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Faithfulness of the own circuit, of its null and of the carried circuits, and τ of these: `(draws,)` twice, `(draws, ways)` twice."""
    moved = [way for way in ways if not way.is_by_id]
    null = [one.circuit(own) for one in permuted_heads(own.graph, n_null, seed)]
    runs = run_circuits(model, readouts, [own, other, *null, *(way.circuit(other) for way in moved)], **settings)
    check_gap(runs[0], counts)
    own_f, by_id, *rest = (recovered(run, counts) for run in runs)
    null_f = _mean_of_drawn(torch.stack(rest[: len(null)], 1), seed)
    others = iter(rest[len(null) :])
    cross = torch.stack([by_id if way.is_by_id else next(others) for way in ways], 1)
    return own_f, null_f, cross, (cross - null_f[:, None]) / (own_f - null_f)[:, None]


def _mean_of_drawn(null: Float[Tensor, "draws n_null"], seed: int) -> Float[Tensor, " draws"]:
    """The mean over permutations: all of them for the sample, in row 0, and drawn anew with replacement for each draw of the prompts."""
    n = null.shape[1]
    chosen = torch.randint(n, null.shape, generator=seeded(seed))
    chosen[0] = torch.arange(n)
    return null.gather(1, chosen).mean(1)
