"""Edge overlap of two circuits: Jaccard indices in [0, 1], NaN where both circuits are empty.

*Stability* is the overlap of a circuit with those of resampled prompts: each draw takes the examples with replacement and selects a circuit
of the same size, by the same settings, from the scores on that draw. A draw holds about 63 % of the examples, so its circuit differs more
from the sample's than another sample of the same size would.
"""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from mechshift_tl.attribution.bootstrap import bootstrap
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.random import cell_counts
from mechshift_tl.graph import check_same_graph
from mechshift_tl.intervals import Interval, interval


def edge_jaccard(a: Circuit, b: Circuit) -> float:
    """|A ∩ B| / |A ∪ B| over edges. Raises ValueError where the graphs differ."""
    check_same_graph(a.graph, b.graph)
    return jaccard(a.edges, b.edges)


def expected_jaccard(a: Circuit, b: Circuit) -> float:
    """I / (|A| + |B| − I) with I = Σ_cells |A_c|·|B_c| / |possible_c|, the mean intersection of both circuits redrawn (hypergeometric)."""
    x, y, room = (cell_counts(edges, a.graph).double() for edges in (a.edges, b.edges, a.graph.possible))
    shared = (x * y / room.clamp(min=1)).sum()
    return (shared / (x.sum() + y.sum() - shared)).item()


def stability(circuit: Circuit, scores: EdgeScores, *, n_boot: int = 200, seed: int = 0) -> Interval:
    """Edge Jaccard of `circuit` with `n_boot` circuits of resampled examples, each chosen from `scores` as `circuit` was.

    Raises ValueError unless the scores were attributed with `keep_per_example=True` on at least two examples.
    """
    chosen_as = circuit.selection

    def overlap(drawn: EdgeScores) -> float:
        return edge_jaccard(circuit, Circuit.select(drawn, chosen_as))

    return interval(bootstrap(overlap, scores, n_boot=n_boot, seed=seed))


def jaccard(a: Bool[Tensor, "*shape"], b: Bool[Tensor, "*shape"]) -> float:
    """|A ∩ B| / |A ∪ B| of two boolean tensors of one shape."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else float("nan")
