"""`NeuronComparison`: neurons of several models side by side, as numbers, tables, a picture and a finding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.compare.neuron_figure import neuron_heatmaps
from mechshift_tl.compare.paired import spelled, where
from mechshift_tl.intervals import judged
from mechshift_tl.plotting import ROLE_NAMES

#: A neuron is selective below this corrected p.
LEVEL = 0.05
ALIKE, BY_CHANCE = "correlation with the ARM", "shuffled ids"


@dataclass(frozen=True)
class NeuronComparisonSettings:
    """What was asked: `layers`; prompts that neurons are `attributed` on, at `ig_steps` points; `shuffles` of labels; `shown` per model."""

    layers: tuple[int, ...]
    attributed: int = 24
    ig_steps: int = 5
    shuffles: int = 200
    shown: int = 8
    n_boot: int = 200
    seed: int = 0


@dataclass(frozen=True, eq=False)
class NeuronComparison(Artefact):
    """Neurons of several models, `neurons` of them over the layers asked for.

    - `selectivity`, `p (roles, neurons)`: η² in [0, 1], and its p corrected for all neurons of the model's layers.
    - `attribution (roles, neurons)`: mean over reads, in logits; positive = supports the answer.
    - `correlation (others, neurons)`: over prompts, of the activation in the ARM and in each other model, in [−1, 1].
    - `means`, `attributed (roles, groups, neurons)`: mean activation and attribution by group; NaN where a group has no attributed prompt.
    - `statistics`: one row per statistic and subject (role, contrast; of correlations a role against the ARM): value, low, high.
    - `activating`: the tokens that most activate the shown neurons, by role (`views.top_activations`).
    """

    KIND: ClassVar[str] = "neuron comparison"

    roles: list[str]
    neurons: list[str]
    groups: list[str]
    selectivity: Float[Tensor, "roles neurons"] = field(repr=False)
    p: Float[Tensor, "roles neurons"] = field(repr=False)
    attribution: Float[Tensor, "roles neurons"] = field(repr=False)
    correlation: Float[Tensor, "others neurons"] = field(repr=False)
    means: Float[Tensor, "roles groups neurons"] = field(repr=False)
    attributed: Float[Tensor, "roles groups neurons"] = field(repr=False)
    statistics: pd.DataFrame = field(repr=False)
    activating: pd.DataFrame = field(repr=False)
    n_examples: int
    settings: NeuronComparisonSettings

    def of(self, statistic: str, subject: str) -> dict[str, float]:
        """Value, low and high. Raises KeyError where there is no such row."""
        rows = where(self.statistics, statistic=statistic, subject=subject)
        if rows.empty:
            raise KeyError(f"no {statistic!r} of {subject!r}")
        return {name: float(rows[name].iloc[0]) for name in ("value", "low", "high")}

    def selective(self, role: str) -> list[str]:
        """Neurons that tell groups apart, most selective first."""
        i = self.roles.index(role)
        order = self.selectivity[i].argsort(descending=True, stable=True).tolist()
        return [self.neurons[j] for j in order if self.p[i, j] < LEVEL]

    @property
    def shown(self) -> list[str]:
        """The most selective neurons of every model, in the order of their numbers."""
        best = {j for row in self.selectivity for j in row.argsort(descending=True, stable=True)[: self.settings.shown].tolist()}
        return [self.neurons[j] for j in sorted(best)]

    def finding(self) -> str:
        """How many neurons tell groups apart in each model, whether more do in the MDM, and whether they are the same neurons."""
        counts = ", ".join(f"{ROLE_NAMES[role]} {len(self.selective(role))}" for role in self.roles)
        layers = f"{self.settings.layers[0]} to {self.settings.layers[-1]}"
        head = (
            f"Of {len(self.neurons)} neurons of layers {layers}, {counts} tell {len(self.groups)} prompt groups apart (corrected for all, "
        )
        return " ".join([f"{head}n = {self.n_examples} prompts).", *self._told()])

    def _told(self) -> list[str]:
        known = set(self.statistics["subject"])
        last = "MDM − control" if "MDM − control" in known else "MDM − ARM"
        if last not in known:
            return []
        breadth, eta = self.of("attributed neurons", last), self.of("mean η²", last)
        return [
            f"{judged(breadth['low'] > 1)}: more neurons carry the behaviour in the MDM than in the {last.split(' − ')[1]} (ratio of "
            f"participation ratios {spelled(breadth)}; difference of mean η² {spelled(eta, 3)}).",
            self._alike(),
        ]

    def _alike(self) -> str:
        """Whether the same index does the same in the ARM and in the others: early patterns that are identical would be a failure sign."""
        others = [role for role in self.roles if role != "arm"]
        values = ", ".join(f"{ROLE_NAMES[role]} {spelled(self.of(ALIKE, role))}" for role in others)
        chance = self.of("correlation with the ARM", BY_CHANCE)["value"]
        said = f"Median correlation of a neuron with the ARM's of its index: {values}; {chance:.2f} with shuffled ids.".replace("-", "−")
        if "MDM − control" not in set(where(self.statistics, statistic=ALIKE)["subject"]):
            return said
        change = self.of("correlation with the ARM", "MDM − control")
        moved = f"the MDM's early neurons moved farther from the ARM's than the control's ({spelled(change)})."
        return f"{said} {judged(change['high'] < 0)}: {moved}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row per shown neuron and model: η², p, attribution, correlation with the ARM's, the group where it peaks, its top tokens."""
        known = {name: j for j, name in enumerate(self.neurons)}
        tokens = self.activating.groupby(["neuron", "role"])["token"].agg(list).to_dict()
        return pd.DataFrame([self._line(known[name], role, tokens.get((name, role), [])) for name in self.shown for role in self.roles])

    def _line(self, j: int, role: str, tokens: list[str]) -> dict[str, object]:
        i, name = self.roles.index(role), self.neurons[j]
        means = self.means[i, :, j]
        others = [one for one in self.roles if one != "arm"]
        return {
            "neuron": name,
            "model": ROLE_NAMES[role],
            "selectivity": self.selectivity[i, j].item(),
            "p_corrected": self.p[i, j].item(),
            "attribution": self.attribution[i, j].item(),
            "correlation": 1.0 if role == "arm" else self.correlation[others.index(role), j].item(),
            "peak_group": self.groups[int((means - means.mean()).abs().argmax())],
            "most_activating": ", ".join(dict.fromkeys(token.strip() for token in tokens)),
        }

    def figure(self) -> go.Figure:
        """Heatmaps of the shown neurons by prompt group: activations above, attribution below, the same columns in every model."""
        at = [self.neurons.index(name) for name in self.shown]
        rows = {"mean activation": self.means[..., at], "mean attribution (logits)": self.attributed[..., at]}
        return neuron_heatmaps(rows, self.roles, self.groups, self.shown)

    def _repr_html_(self) -> str:
        return card("NeuronComparison", self.finding(), self.statistics, self.to_dataframe())
