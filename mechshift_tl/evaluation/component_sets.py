"""Sets of components to ablate, and random sets to hold beside each.

A set is a mask over `Graph.components`: heads and MLPs. Its random controls have as many heads and MLPs in each third of the layers.
(Within a layer there is one MLP: controls that keep the layer could not move it.) Sets that are a part of the depth themselves, such as all
early layers, have controls with as many heads and MLPs anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.select import strongest
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import seeded

Mask = Bool[Tensor, " n_components"]


@dataclass(frozen=True, eq=False)
class ComponentSet:
    """Components under a name. `by_depth`: whether its controls keep its thirds of depth; else they keep only its kinds."""

    name: str
    mask: Mask
    by_depth: bool = True

    def controls(self, graph: Graph, n_random: int, seed: int) -> list[Mask]:
        """`n_random` random sets with as many heads and MLPs, in each third of the layers where `by_depth` says so."""
        generator, cells = seeded(seed), _cells(graph, self.by_depth)
        return [_drawn(self.mask, cells, generator) for _ in range(n_random)]

    def free_share(self, graph: Graph) -> float:
        """Share of the set's components that a control can put elsewhere, in [0, 1]: 0 where each of its cells is full."""
        cells = _cells(graph, self.by_depth)
        held, room = torch.bincount(cells[self.mask], minlength=6), torch.bincount(cells, minlength=6)
        return (held[held < room].sum() / held.sum()).item()


def named_sets(circuit: Circuit, k: int, cut: int) -> list[ComponentSet]:
    """Early, middle and late layers; the top `k` components by s(v); the top `k` of the early layers; all outside the top `k`.

    Early are the layers below `cut`, late the last `cut`, and what is left is the middle. Sets without a component are left out.
    Raises ValueError where `cut` leaves no layer late, or `k` is not of the graph.
    """
    graph = circuit.graph
    layers, strength = graph.writer_layers[1:], circuit.component_scores()
    if not 1 <= cut <= graph.n_layers // 2:
        raise ValueError(f"cut is {cut}; of {graph.n_layers} layers, 1 to {graph.n_layers // 2} can be early, and as many late")
    if not 1 <= k <= len(layers):
        raise ValueError(f"k is {k}; the graph has {len(layers)} components")
    early, late = layers < cut, layers >= graph.n_layers - cut
    top = strongest(strength, k)
    found = [
        ComponentSet("early layers", early, by_depth=False),
        ComponentSet("middle layers", ~early & ~late, by_depth=False),
        ComponentSet("late layers", late, by_depth=False),
        ComponentSet(f"top {k}", top),
        ComponentSet(f"top {k} of the early layers", strongest(strength.masked_fill(~early, 0), k)),
        ComponentSet(f"all but the top {k}", ~top),
    ]
    return [one for one in found if one.mask.any()]


def weakest_sets(effect: Float[Tensor, " n_components"], shares: tuple[float, ...]) -> list[ComponentSet]:
    """The weakest components by |effect|, in rising order: those that make up each of `shares` of all components, in (0, 1]."""
    order = effect.abs().argsort(stable=True)
    found = []
    for share in shares:
        mask = torch.zeros(len(effect), dtype=torch.bool)
        mask[order[: max(1, round(share * len(effect)))]] = True
        found.append(ComponentSet(f"weakest {share:.0%}", mask, by_depth=False))
    return found


def _cells(graph: Graph, by_depth: bool) -> Int[Tensor, " n_components"]:
    """Each component's cell: its kind, and its third of the layers where depth counts."""
    is_mlp = torch.tensor([name.startswith("m") for name in graph.components]).long()
    third = graph.writer_layers[1:] * 3 // graph.n_layers
    return 3 * is_mlp + (third if by_depth else 0)


def _drawn(mask: Mask, cells: Int[Tensor, " n_components"], generator: torch.Generator) -> Mask:
    found = torch.zeros_like(mask)
    for cell in cells[mask].unique():
        room = (cells == cell).nonzero()[:, 0]
        count = int(mask[room].sum())
        found[room[torch.randperm(len(room), generator=generator)[:count]]] = True
    return found
