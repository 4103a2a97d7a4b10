"""How specialised a model's components are: is the work done by few of them, and do they name tokens?

The effect of a component is its mean logit(answer) − logit(foil) under the run's own scale, in logits (`ComponentLens.effects`). Over the
heads and MLPs that were read, input and biases excluded:

- **explanatory components**: how many name a token, that is, rank the same token first in at least `share` of the reads. Our definition of
  what Kong et al. call unique explanatory components; theirs is not published. `names="answer"` counts only those that rank each read's
  own answer first that often: a component that always says "the" names a token, but no answer.
- **variance** of the effects, in logits²: large when few components carry much.
- **participation ratio** of the effects' sizes, (Σ|e|)² / Σe², in [1, n]: how many components would share the work equally.
- **Gini** coefficient of the effects' sizes, in [0, 1 − 1/n]: 0 when all are equal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.views.lens_table import ComponentLens

Names = Literal["token", "answer"]


@dataclass(frozen=True)
class Specialisation:
    """The statistics of the module docstring, and the settings they were counted with."""

    explanatory: int
    components: int
    variance: float
    participation_ratio: float
    gini: float
    share: float
    names: Names

    def to_dataframe(self) -> pd.DataFrame:
        """One line, a column per statistic."""
        return pd.DataFrame([asdict(self)])

    def _repr_html_(self) -> str:
        return self.to_dataframe().to_html(index=False, float_format="%.3f")


def specialisation(lens: ComponentLens, *, share: float = 0.5, names: Names = "token") -> Specialisation:
    """Specialisation of the heads and MLPs in `lens`.

    Raises ValueError on a lens without heads or MLPs, on one with norm "own" (its effects are shares of nothing) and on unknown settings.
    """
    if lens.settings.get("norm") != "run":
        raise ValueError("specialisation: effects of a lens with norm 'own' do not sum to the metric; make the lens with norm='run'")
    effects = lens.effects[_components(lens)]
    if not len(effects):
        raise ValueError("specialisation: the lens read no head and no MLP; read some, or leave components=None")
    return Specialisation(
        explanatory=len(explanatory_components(lens, share=share, names=names)),
        components=len(effects),
        variance=effects.var(correction=0).item(),
        participation_ratio=participation_ratio(effects),
        gini=gini(effects),
        share=share,
        names=names,
    )


def explanatory_components(lens: ComponentLens, *, share: float = 0.5, names: Names = "token") -> list[str]:
    """Ids of the heads and MLPs that rank first one same token ("token"), or the read's answer ("answer"), in at least `share` of reads."""
    if names not in get_args(Names) or not 0 < share <= 1:
        raise ValueError(f"specialisation: names is {names!r}, share is {share}; choose names from {get_args(Names)} and a share in (0, 1]")
    top_id = lens.top_id.long()
    if names == "answer":
        named = (lens.answer_rank == 0).float().mean(1)
    else:
        named = (top_id == top_id.mode(1, keepdim=True).values).float().mean(1)
    return [lens.components[i] for i in _components(lens) if named[i] >= share]


def participation_ratio(effects: Float[Tensor, " n"]) -> float:
    """(Σ|e|)² / Σe², in [1, n]. Raises ValueError when every effect is 0."""
    sizes = _sizes(effects)
    return (sizes.sum() ** 2 / (sizes**2).sum()).item()


def gini(effects: Float[Tensor, " n"]) -> float:
    """Σ_ij ||e_i| − |e_j|| / (2 n Σ|e|), in [0, 1 − 1/n]. Raises ValueError when every effect is 0."""
    sizes = _sizes(effects).sort().values
    n = len(sizes)
    weights = 2 * torch.arange(1, n + 1, dtype=sizes.dtype) - n - 1
    return ((weights * sizes).sum() / (n * sizes.sum())).item()


def _sizes(effects: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    sizes = effects.double().abs()
    if not sizes.any():
        raise ValueError("every effect is 0: no component adds to the answer or the foil; check the positions read")
    return sizes


def _components(lens: ComponentLens) -> list[int]:
    """Rows of the heads and MLPs."""
    return [i for i, layer in enumerate(lens.layers) if layer >= 0]
