"""How specialised a model's components are: do a few of them do the work, and do they name tokens that the answer is about?

The effect e of a component is its mean logit(answer) − logit(foil), in logits (`ComponentLens.effects`, with norm "run"). These statistics
are over the n heads and MLPs that the lens read; the input and the biases do not count.

- **with effect**: components with |e| of at least `least` of Σ|e|. A silent head, whose output is zero, is not among them.
- **naming**: components *with effect* whose `top` tokens hold the read's answer or its foil, in at least `share` of the reads. Kong et al.
  count "unique explanatory components" without publishing a definition; this one is ours.
- **effect variance** over components, in logits²: large when few components carry much.
- **logit variance**: variance over the vocabulary of a component's projected logits, mean over reads, summed over components, in logits².
- **participation ratio** of |e|, (Σ|e|)² / Σe², in [1, n]: how many components do the work, if those that do it share it equally.
- **Gini** coefficient of |e|, in [0, 1 − 1/n]: 0 when all are equal.

What each of them is blind to is in `INVARIANCE`: no count of components survives a head that is split in two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import table
from mechshift_tl.component_grid import bars_figure
from mechshift_tl.views.lens_table import ComponentLens

#: Statistic → does it stay as it is when the model computes the same in another way?
INVARIANCE: Mapping[str, Mapping[str, str]] = {
    "with_effect": {"silent heads added": "stays", "a head split in two": "moves", "all outputs scaled": "stays"},
    "naming": {"silent heads added": "stays", "a head split in two": "moves", "all outputs scaled": "stays"},
    "effect_variance": {"silent heads added": "moves", "a head split in two": "moves", "all outputs scaled": "moves"},
    "logit_variance": {"silent heads added": "stays", "a head split in two": "moves", "all outputs scaled": "moves"},
    "participation_ratio": {"silent heads added": "stays", "a head split in two": "moves", "all outputs scaled": "stays"},
    "gini": {"silent heads added": "moves", "a head split in two": "moves", "all outputs scaled": "stays"},
}


@dataclass(frozen=True)
class SpecialisationSettings:
    """What counts as naming: among a component's `top` tokens, in `share` of the reads, by a component with `least` of all effect.

    Raises ValueError on values out of range.
    """

    top: int = 5
    share: float = 0.5
    least: float = 0.01

    def __post_init__(self) -> None:
        if self.top < 1 or not 0 < self.share <= 1 or not 0 <= self.least < 1:
            raise ValueError(
                f"specialisation: top is {self.top}, share {self.share}, least {self.least}; choose top of at least 1, share in (0, 1] and "
                "least in [0, 1)"
            )


@dataclass(frozen=True)
class Specialisation(JsonArtefact):
    """The statistics of the module docstring, over `components` heads and MLPs, and the settings that they were counted with."""

    KIND: ClassVar[str] = "specialisation"

    components: int
    with_effect: int
    naming: int
    effect_variance: float
    logit_variance: float
    participation_ratio: float
    gini: float
    settings: SpecialisationSettings = SpecialisationSettings()

    def to_dataframe(self) -> pd.DataFrame:
        """One line, with one column per statistic and setting."""
        values = asdict(self)
        settings = values.pop("settings")
        return pd.DataFrame([values | settings])

    def figure(self) -> go.Figure:
        """How many components there are, have an effect, share it equally (participation ratio), and name the answer or the foil."""
        counts = {"heads and MLPs": self.components, "with effect": self.with_effect, "participation ratio": self.participation_ratio}
        counts |= {"naming": self.naming}
        return bars_figure(list(counts), list(counts.values()), "components")

    def _repr_html_(self) -> str:
        return table(self.to_dataframe())


@dataclass(frozen=True, eq=False)
class ExampleSums:
    """What each head and MLP did in each example, summed over the example's reads: a weighting of examples turns it into statistics.

    - `effect`, `named`, `spread (components, examples)`, float64: logit(answer) − logit(foil); reads at which the component's `top` tokens
      hold answer or foil; variance of its logits over the vocabulary.
    - `reads (examples,)`: how many reads the sums are over; an example may have none.
    """

    components: list[str]
    effect: Float[Tensor, "components examples"]
    named: Float[Tensor, "components examples"]
    spread: Float[Tensor, "components examples"]
    reads: Float[Tensor, " examples"]
    settings: SpecialisationSettings

    @classmethod
    def of(cls, lens: ComponentLens, settings: SpecialisationSettings, n_examples: int | None = None) -> ExampleSums:
        """The sums of a lens. `n_examples` counts examples that the lens may lack, such as those without a read at its step.

        Raises ValueError on a lens without heads and MLPs, and on one with norm "own": its effects do not sum to the metric.
        """
        if lens.settings.norm != "run":
            raise ValueError("specialisation: effects of a lens with norm 'own' do not sum to the metric; make the lens with norm='run'")
        rows = [i for i, layer in enumerate(lens.layers) if layer >= 0]
        if not rows:
            raise ValueError("specialisation: the lens read no head and no MLP; read some, or leave components=None")
        n = int(lens.example.max()) + 1 if n_examples is None else n_examples
        ranks = torch.minimum(lens.answer_rank, lens.foil_rank)
        found = {"effect": lens.answer - lens.foil, "named": ranks < settings.top, "spread": lens.spread}
        sums = {name: torch.zeros(len(rows), n, dtype=torch.float64).index_add(1, lens.example, values[rows].double())
                for name, values in found.items()}  # fmt: skip
        return cls([lens.components[i] for i in rows], **sums, reads=lens.example.bincount(minlength=n).double(), settings=settings)

    def statistics(self, weights: Float[Tensor, "draws examples"]) -> dict[str, Float[Tensor, " draws"]]:
        """Every statistic, `(draws,)`, for every row of weights; NaN where a row weighs no read."""
        effects, named, spread = (self._means(one, weights) for one in (self.effect, self.named, self.spread))
        effective = with_effect(effects, self.settings.least)
        return {
            "with_effect": _counted(effective, effects),
            "naming": _counted(effective & (named >= self.settings.share), effects),
            "effect_variance": effects.var(-1, correction=0),
            "logit_variance": spread.sum(-1),
            "participation_ratio": participation_ratio(effects),
            "gini": gini(effects),
        }

    def naming(self) -> list[str]:
        """Ids of the naming components."""
        weights = torch.ones(1, len(self.reads), dtype=torch.float64)
        effects, named = self._means(self.effect, weights)[0], self._means(self.named, weights)[0]
        chosen = with_effect(effects, self.settings.least) & (named >= self.settings.share)
        return [name for name, one in zip(self.components, chosen.tolist(), strict=True) if one]

    def _means(self, sums: Float[Tensor, "components examples"], weights: Float[Tensor, "draws examples"]) -> Float[Tensor, "draws c"]:
        return weights @ sums.T / (weights @ self.reads)[:, None]


def specialisation(lens: ComponentLens, settings: SpecialisationSettings | None = None) -> Specialisation:
    """Specialisation of the heads and MLPs in `lens`.

    Raises ValueError where `ExampleSums.of` does, and when every effect is 0.
    """
    settings = settings or SpecialisationSettings()
    sums = ExampleSums.of(lens, settings)
    found = {name: float(one) for name, one in sums.statistics(torch.ones(1, len(sums.reads), dtype=torch.float64)).items()}
    if not sums.effect.sum(1).any():
        raise ValueError("every effect is 0: no component adds to the answer or the foil; check the positions read")
    counted, naming = int(found.pop("with_effect")), int(found.pop("naming"))
    return Specialisation(len(sums.components), with_effect=counted, naming=naming, settings=settings, **found)


def naming_components(lens: ComponentLens, settings: SpecialisationSettings | None = None) -> list[str]:
    """Ids of the heads and MLPs with an effect that name the answer or the foil."""
    return ExampleSums.of(lens, settings or SpecialisationSettings()).naming()


def with_effect(effects: Float[Tensor, "*draws n"], least: float) -> Bool[Tensor, "*draws n"]:
    """True where |e| is above 0, and at least the share `least` of Σ|e|."""
    sizes = effects.abs()
    return (sizes > 0) & (sizes >= least * sizes.sum(-1, keepdim=True))


def participation_ratio(effects: Float[Tensor, "*draws n"]) -> Float[Tensor, "*draws"]:
    """(Σ|e|)² / Σe², in [1, n]; NaN when every effect is 0."""
    return effects.abs().sum(-1) ** 2 / (effects**2).sum(-1)


def gini(effects: Float[Tensor, "*draws n"]) -> Float[Tensor, "*draws"]:
    """Σ_ij ||e_i| − |e_j|| / (2 n Σ|e|), in [0, 1 − 1/n]; NaN when every effect is 0."""
    sizes = effects.abs().sort(-1).values
    n = sizes.shape[-1]
    weights = 2 * torch.arange(1, n + 1, dtype=sizes.dtype) - n - 1
    return (sizes @ weights) / (n * sizes.sum(-1))


def _counted(chosen: Bool[Tensor, "draws n"], effects: Float[Tensor, "draws n"]) -> Float[Tensor, " draws"]:
    """How many are chosen; NaN where nothing was read."""
    return chosen.sum(-1).double().masked_fill(effects.isnan().any(-1), float("nan"))
