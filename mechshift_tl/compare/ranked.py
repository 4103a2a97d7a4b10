"""Rank-biased overlap: two circuits as lists of edges, strongest |score| first, compared from the top down.

A reader walks down both lists and goes on from each rank with probability p. The overlap is the agreement that this reader expects: at rank
d, agreement is the share of the first d edges that both lists hold. So an edge at the top counts more than one at the end, where a Jaccard
index counts both alike. Beyond the lists' ends, agreement is taken to stay as it was there (Webber, Moffat & Zobel 2010, equation 32).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.graph import check_same_graph

#: The reader stops after this fraction of the longer circuit on average: 98 % of the walks then end inside it.
WALK = 0.25


def rank_biased_overlap(a: Circuit, b: Circuit, p: float | None = None) -> float:
    """Rank-biased overlap of the edges of two circuits, in [0, 1]: 1 for one order, 0 without a common edge, NaN where either is empty.

    `p`: the chance to go on from each rank, in (0, 1); by default the walk ends after a quarter of the longer circuit on average. Of equal
    scores, the edge that comes first in the matrix ranks first. Raises ValueError where the graphs differ or `p` lies outside (0, 1).
    """
    check_same_graph(a.graph, b.graph)
    short, long = sorted((a.kept, b.kept))
    if not short:
        return float("nan")
    p = 1 - 1 / max(2.0, WALK * long) if p is None else p
    if not 0 < p < 1:
        raise ValueError(f"p is {p}; give the chance to go on from each rank, between 0 and 1")
    shared = shared_by_rank(a, b)
    return _extrapolated(shared, short, p)


def shared_by_rank(a: Circuit, b: Circuit) -> Float[Tensor, " ranks"]:
    """How many edges the first d ranks of both circuits have in common, for d = 1 … the edges of the larger circuit; float64."""
    ranks = [_ranks(circuit) for circuit in (a, b)]
    deeper = torch.maximum(*ranks)[a.edges & b.edges]
    return torch.bincount(deeper, minlength=max(a.kept, b.kept)).cumsum(0).double()


def _ranks(circuit: Circuit) -> Int[Tensor, "n_writers n_readers"]:
    """Each edge's rank from 0; meaningless outside the circuit."""
    ranks = torch.zeros(circuit.edges.shape, dtype=torch.long)
    order = circuit.scores[circuit.edges].abs().argsort(descending=True, stable=True)
    ranks[circuit.edges] = order.argsort()
    return ranks


def _extrapolated(shared: Float[Tensor, " ranks"], short: int, p: float) -> float:
    """Webber et al.'s RBO_EXT of lists of `short` and `len(shared)` entries."""
    d = torch.arange(1, len(shared) + 1, dtype=torch.float64)
    at_short, at_end = shared[short - 1], shared[-1]
    agreement = shared / d + (d > short) * at_short * (d - short) / (short * d)
    beyond = (at_end - at_short) / len(shared) + at_short / short
    return ((1 - p) / p * (agreement * p**d).sum() + beyond * p ** len(shared)).item()
