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

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.attribution.bootstrap import check_can_resample
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.compare.depth import mass_by_depth
from mechshift_tl.intervals import Interval, interval
from mechshift_tl.plotting import COLOURS, INK, QUIET, ROLE_NAMES, plain, style
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

    def to_dataframe(self) -> pd.DataFrame:
        """One row per model: role, and its statistic on all prompts."""
        return pd.DataFrame(list(self.statistics.items()), columns=["role", "statistic"])

    def figure(self) -> go.Figure:
        """How the gain spreads over draws of the prompts; its value on all prompts, and 0, are marked."""
        figure = go.Figure(go.Histogram(x=self.draws.tolist(), marker_color=COLOURS["mdm"], nbinsx=40))
        figure.add_vline(x=0, line={"color": QUIET, "width": 1, "dash": "dot"})
        figure.add_vline(x=self.value, line={"color": INK, "width": 2}, annotation_text="all prompts", annotation_position="top")
        against = ", ".join(ROLE_NAMES.get(one, plain(one)) for one in self.against)
        figure.update_xaxes(title_text=f"gain over {against}")
        figure.update_yaxes(title_text="draws")
        return style(figure, 300)

    def _repr_html_(self) -> str:
        over = self.interval
        return card("Gain", f"{self.value:.3f} [{over.low:.3f}, {over.high:.3f}], {self.n} prompts", self.to_dataframe())

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
