"""Differences in differences: what a model gained beyond what its control gained, prompt by prompt.

A gain starts from the ARM, so the difference of the gains, (model − ARM) − (control − ARM), is model − control. A model may exceed its
control only because the control lost what the model kept. So the model is held against the ARM as well, and what counts is the smaller of
the two differences. Without a control, a gain cannot be told from that of further training.

- **early share**: the share of Σ|score| over *all* edges between layers that lies in layers below a cut; edges count at their reader's
  layer. It has a quarter of the noise of a pruned circuit's.
- **spread**: the logarithm of the participation ratio of the components' effects on the logits (`views.specialisation`). A ratio of two
  models does not depend on how large effects are, nor on components that do nothing.

Each is measured on all prompts and on draws of them, the same draws in every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from mechshift_tl.attribution.bootstrap import check_can_resample
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.compare.depth import mass_by_depth
from mechshift_tl.intervals import Interval, interval
from mechshift_tl.views.lens_table import ComponentLens
from mechshift_tl.views.specialisation import participation_ratio

#: Numbers of resampled scores that are in memory at once.
CHUNK = 2**24


@dataclass(frozen=True, eq=False)
class Gain(Artefact):
    """One statistic of a model less that of the models it is held against.

    - `n`: prompts. `against`: their roles. `value`: the smallest difference on all prompts; `draws (n_boot,)`: on each draw of them.
    - `statistics`: the statistic itself on all prompts, by role.
    """

    KIND: ClassVar[str] = "gain"

    n: int
    against: tuple[str, ...]
    value: float
    draws: Float[Tensor, " n_boot"]
    statistics: dict[str, float]

    @classmethod
    def of(cls, role: str, against: tuple[str, ...], found: Mapping[str, Float[Tensor, " n_boot_plus_1"]], n: int) -> Gain:
        """From a statistic of all models by role, on the sample of `n` prompts (first) and on the same draws of it."""
        gain = torch.stack([found[role] - found[other] for other in against]).amin(0)
        return cls(n, against, gain[0].item(), gain[1:], {one: found[one][0].item() for one in (role, *against)})

    @property
    def interval(self) -> Interval:
        """Mean and central 95 % over the draws."""
        return interval(self.draws.tolist())


def early_shares(scores: EdgeScores, cut: int, counts: Float[Tensor, "draws n_examples"]) -> Float[Tensor, " draws"]:
    """Early share over all edges on each draw. Raises ValueError where `layer_shares` does."""
    return layer_shares(scores, counts)[:, :cut].sum(1)


def layer_shares(scores: EdgeScores, counts: Float[Tensor, "draws n_examples"]) -> Float[Tensor, "draws n_layers"]:
    """What each layer has of the layers' Σ|score| over all edges, on each draw; `counts` says how often each example is drawn.

    Raises ValueError unless attributed with `keep_per_example=True`.
    """
    check_can_resample(scores)
    assert scores.per_example is not None
    found = []
    for part in counts.float().split(max(1, CHUNK // scores.matrix.numel())):
        by_layer = mass_by_depth(torch.tensordot(part, scores.per_example, 1).abs(), scores.graph).double()[:, 1:-1]
        found.append(by_layer / by_layer.sum(1, keepdim=True))
    return torch.cat(found)


def spreads(lens: ComponentLens, counts: Float[Tensor, "draws n_examples"]) -> Float[Tensor, " draws"]:
    """Logarithm of the participation ratio of the heads' and MLPs' effects on each draw."""
    rows = [i for i, layer in enumerate(lens.layers) if layer >= 0]
    effects = (lens.answer - lens.foil)[rows].double()
    per_example = effects.new_zeros(len(rows), counts.shape[1]).index_add(1, lens.example.long(), effects)
    return participation_ratio(counts @ per_example.T).log()
