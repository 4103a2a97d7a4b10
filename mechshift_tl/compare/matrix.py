"""Overlaps of every circuit with every other one: matrices `(k, k)` of Jaccard indices in [0, 1], NaN where both circuits are empty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.random import random_circuits
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import seeded


def overlap_matrix(sets: Bool[Tensor, "k m"]) -> Float[Tensor, "k k"]:
    """|A ∩ B| / |A ∪ B| of every two of `k` sets, each given as its members among `m`."""
    shared = common(sets)
    return shared / (shared.diagonal()[:, None] + shared.diagonal() - shared)


def common(sets: Bool[Tensor, "k m"]) -> Float[Tensor, "k k"]:
    """|A ∩ B| of every two of `k` sets."""
    return sets.float() @ sets.float().T


def components_of(edges: Bool[Tensor, "k n_writers n_readers"], graph: Graph) -> Bool[Tensor, "k n_components"]:
    """Which components each circuit touches: by an edge out of one, or into one."""
    into = edges.any(1).float() @ graph.membership > 0
    return (edges.any(2) | into)[:, 1:]


def redrawn(circuits: Sequence[Circuit], n_random: int, seed: int = 0) -> list[Bool[Tensor, "k n_writers n_readers"]]:
    """`n_random` draws of all circuits at once, each with its own layer profile (`circuits.random`): what chance shares, for a floor."""
    generator = seeded(seed)
    drawn = zip(*(random_circuits(one, n_random, generator) for one in circuits), strict=True)
    return [torch.stack([one.edges for one in together]) for together in drawn]


def off_diagonal(matrix: Float[Tensor, "k k"]) -> Float[Tensor, " pairs"]:
    """The entries of two different circuits, each pair in both directions."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]
