"""How specialised a model's components are: do a few of them do the work, and do they name tokens?

The effect e of a component is its mean logit(answer) − logit(foil), in logits (`ComponentLens.effects`, with norm "run"). These statistics
are over the n heads and MLPs that the lens read; the input and the biases do not count.

- **explanatory components**: how many components name a token. A component names a token when it ranks one same token first in at least
  `share` of the reads. Kong et al. count "unique explanatory components" without publishing a definition; this one is ours. With
  `names="answer"` a component counts only when it ranks each read's own answer first that often: a component that always says "the" names a
  token, but no answer.
- **variance** of the effects, in logits²: large when few components carry much.
- **participation ratio** of |e|, (Σ|e|)² / Σe², in [1, n]: how many components do the work, if those that do it share it equally.
- **Gini** coefficient of |e|, in [0, 1 − 1/n]: 0 when all are equal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.html import table
from mechshift_tl.views.lens_table import ComponentLens

Names = Literal["token", "answer"]


@dataclass(frozen=True)
class Specialisation:
    """The statistics of the module docstring, and the settings `share` and `names` that they were counted with."""

    explanatory: int
    components: int
    variance: float
    participation_ratio: float
    gini: float
    share: float
    names: Names

    def to_dataframe(self) -> pd.DataFrame:
        """One line, with one column per statistic and setting."""
        return pd.DataFrame([asdict(self)])

    def _repr_html_(self) -> str:
        return table(self.to_dataframe())


def specialisation(lens: ComponentLens, *, share: float = 0.5, names: Names = "token") -> Specialisation:
    """Specialisation of the heads and MLPs in `lens`.

    Raises ValueError on a lens without heads and MLPs, on a lens with norm "own" (its effects do not sum to the metric), and on unknown
    settings.
    """
    if lens.settings.norm != "run":
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
    """Ids of the heads and MLPs that name a token, or with `names="answer"` the answer, in at least `share` of the reads."""
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
