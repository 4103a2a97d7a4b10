"""Edge overlap of two circuits: Jaccard indices in [0, 1], NaN where both circuits are empty."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.random import cell_counts
from mechshift_tl.graph import check_same_graph


def edge_jaccard(a: Circuit, b: Circuit) -> float:
    """|A ∩ B| / |A ∪ B| over edges."""
    check_same_graph(a.graph, b.graph)
    return jaccard(a.edges, b.edges)


def expected_jaccard(a: Circuit, b: Circuit) -> float:
    """I / (|A| + |B| − I) with I = Σ_cells |A_c|·|B_c| / |possible_c|, the mean intersection of both circuits redrawn (hypergeometric)."""
    x, y, room = (cell_counts(edges, a.graph).double() for edges in (a.edges, b.edges, a.graph.possible))
    shared = (x * y / room.clamp(min=1)).sum()
    return (shared / (x.sum() + y.sum() - shared)).item()


def jaccard(a: Bool[Tensor, "*shape"], b: Bool[Tensor, "*shape"]) -> float:
    """|A ∩ B| / |A ∪ B| of two boolean tensors of one shape."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else float("nan")
