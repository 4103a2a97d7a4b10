"""Sets of MLP neurons to ablate, and random sets of as many neurons of the same layers to hold beside each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechshift_tl.circuits.select import strongest
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import seeded

NeuronMask = Bool[Tensor, "n_layers d_mlp"]


@dataclass(frozen=True, eq=False)
class NeuronSet:
    """Neurons under a name. A random control has as many neurons in each layer."""

    name: str
    mask: NeuronMask

    def controls(self, graph: Graph, n_random: int, seed: int) -> list[NeuronMask]:
        """`n_random` random sets with as many neurons in each layer."""
        generator = seeded(seed)
        return [torch.stack([_drawn(layer, generator) for layer in self.mask]) for _ in range(n_random)]

    def free_share(self, graph: Graph) -> float:
        """Share of the set's neurons that a control can put elsewhere, in [0, 1]: 0 where whole layers are ablated."""
        held = self.mask.sum(1)
        return (held[held < self.mask.shape[1]].sum() / held.sum()).item()


def strongest_neurons(effect: Float[Tensor, "n_layers d_mlp"], share: float, cut: int) -> NeuronSet:
    """Of the layers below `cut`, the `share`, in (0, 1], of all their neurons with the largest |effect|. Raises ValueError outside."""
    layers, width = effect.shape
    if not (0 < share <= 1 and 1 <= cut <= layers):
        raise ValueError(f"share is {share} and cut is {cut}; give a share in (0, 1] and a cut from 1 to {layers}")
    early = effect[:cut].abs().flatten()
    mask = torch.zeros(layers, width, dtype=torch.bool)
    mask[:cut] = strongest(early, max(1, round(share * len(early)))).view(cut, width)
    return NeuronSet(f"top {int(mask.sum())} neurons of the early layers", mask)


def _drawn(chosen: Bool[Tensor, " d_mlp"], generator: torch.Generator) -> Bool[Tensor, " d_mlp"]:
    return chosen[torch.randperm(len(chosen), generator=generator)]
