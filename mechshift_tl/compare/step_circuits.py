"""`group_overlaps`: do the steps of one model, or its kinds of position, use one circuit?

1. Cut a circuit of each group of rows (`row_groups`), all of the size and by the settings of the circuit that they are held against.
2. Overlap every two of them, in edges and in components. A component is in a circuit when one of its edges is.
3. Join them in three ways, and overlap each with the pooled circuit: the circuit of the mean |score|, the union, and the vote (edges in
   at least half of the circuits).
4. Floor: all of it on circuits redrawn with their own layer profiles. A circuit of many edges touches most components by chance alone.
5. Interval: all of it on drawn prompts. Repeatability: the same group on two halves of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.overlap import jaccard
from mechshift_tl.circuits.select import Selection
from mechshift_tl.compare.matrix import common, components_of, off_diagonal, overlap_matrix, redrawn
from mechshift_tl.compare.result import Statistic
from mechshift_tl.compare.row_groups import RowGroups, cut
from mechshift_tl.compare.step_result import GroupOverlaps
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import draw_counts, intervals, seeded

#: Halvings of the prompts behind a repeatability.
N_SPLITS = 4


def group_overlaps(
    groups: RowGroups, chosen: Selection, *, role: str, family: str, n_boot: int = 50, n_random: int = 50, seed: int = 0
) -> GroupOverlaps | None:
    """How the circuits of `groups` overlap, cut as `chosen` says; None where fewer than two groups have reads enough.

    `role` and `family` name the model and what is grouped. Cost: one circuit per group and draw.
    """
    reads = groups.reads
    if len(reads) < 2:
        return None
    circuits = groups.circuits(chosen)
    edges, graph = torch.stack([one.edges for one in circuits]), groups.graph
    chance = redrawn(circuits, n_random, seed)
    drawn = [groups.circuits(chosen, counts) for counts in draw_counts(groups.n_examples, n_boot, seed)] if n_boot else []
    spread = intervals(_alike(torch.stack([one.edges for one in some]), graph) for some in drawn) if drawn else {}
    floor = intervals(_alike(one, graph) for one in chance)
    again = _repeatability(groups, chosen, seed)
    values = {name: Statistic(value, spread.get(name), floor.get(name), again.get(name)) for name, value in _alike(edges, graph).items()}
    pooled = groups.pooled(chosen)
    return GroupOverlaps(
        role=role,
        family=family,
        labels=list(reads),
        n_read=list(reads.values()),
        kept=[one.kept for one in circuits],
        edges=overlap_matrix(edges.flatten(1)).tolist(),
        components=overlap_matrix(components_of(edges, graph)).tolist(),
        edge_floor=torch.stack([overlap_matrix(one.flatten(1)) for one in chance]).mean(0).tolist(),
        statistics=values | _joined(groups, circuits, pooled, chosen),
        with_pooled=[jaccard(one.edges, pooled.edges) for one in circuits],
        n=groups.n_examples,
    )


def _alike(edges: Float[Tensor, "k n_writers n_readers"], graph: Graph) -> dict[str, float]:
    """How alike circuits are: means over every two of them, and what all of them have in common."""
    touched = components_of(edges, graph)
    sizes = touched.sum(1)
    return {
        "edge overlap": off_diagonal(overlap_matrix(edges.flatten(1))).nanmean().item(),
        "component overlap": off_diagonal(overlap_matrix(touched)).nanmean().item(),
        "components shared": off_diagonal(common(touched) / sizes[:, None]).nanmean().item(),
        "components in all": (touched.all(0).sum() / touched.any(0).sum()).item(),
    }


def _repeatability(groups: RowGroups, chosen: Selection, seed: int) -> dict[str, float]:
    """How alike the circuits of one group are, on two halves of the prompts: means over groups and halvings."""
    generator, found = seeded(seed), []
    for _ in range(N_SPLITS):
        first = torch.zeros(groups.n_examples)
        first[torch.randperm(groups.n_examples, generator=generator)[: groups.n_examples // 2]] = 1
        halves = [groups.circuits(chosen, counts) for counts in (first, 1 - first)]
        found += [_alike(torch.stack([a.edges, b.edges]), groups.graph) for a, b in zip(*halves, strict=True) if a.kept and b.kept]
    return {name: one.mean for name, one in intervals(found).items() if name != "components in all"} if found else {}


def _joined(groups: RowGroups, circuits: Sequence[Circuit], pooled: Circuit, chosen: Selection) -> dict[str, Statistic]:
    """Edge overlap of the pooled circuit with each way of joining the groups' circuits."""
    edges = torch.stack([one.edges for one in circuits])
    strength = groups.matrices().abs().mean(0)
    ways = {
        "mean |score|": cut(strength, groups.graph, chosen).edges,
        "union": edges.any(0),
        "vote": edges.float().mean(0) >= 0.5,
    }
    return {f"{name} ~ pooled": Statistic(jaccard(one, pooled.edges)) for name, one in ways.items()}
