"""How far two circuits of one graph overlap: in edges, in components, and in how they distribute their |score|.

All Jaccard indices lie in [0, 1]; they are NaN where both sides are empty. Overlap depends on the size n of the circuits and has a floor
and a ceiling of its own (`compare.bounds`): it means something only between these.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard, expected_jaccard, jaccard
from mechshift_tl.circuits.select import Selection, strongest
from mechshift_tl.compare.ranked import rank_biased_overlap
from mechshift_tl.graph import Graph, check_same_graph

MAX_DEFAULT_K = 100


def default_k(graph: Graph) -> int:
    """Components compared by default: 100, or 10 % of the graph's components (rounded up) where that is fewer."""
    return min(MAX_DEFAULT_K, -(-len(graph.components) // 10))


def weighted_jaccard(a: Circuit, b: Circuit) -> float:
    """Σ min(w_a, w_b) / Σ max(w_a, w_b) over edges, w = |score| as a fraction of its circuit's total: scale and sign do not matter."""
    check_same_graph(a.graph, b.graph)
    if not (a.kept or b.kept):
        return float("nan")
    common = a.edges & b.edges
    w_a, w_b = (c.scores[common].abs().double() / c.scores.abs().sum(dtype=torch.float64) for c in (a, b))
    shared = torch.minimum(w_a, w_b).sum()
    return (shared / (2 - shared)).item()


def top_components(circuit: Circuit, k: int, *, signed: bool = False) -> Bool[Tensor, " n_components"]:
    """True at the `k` components of largest s(v), or at fewer where fewer score above 0. Of equal components the earlier in the model wins.

    Raises ValueError when `k` lies outside 1 … components.
    """
    if not 1 <= k <= len(circuit.graph.components):
        raise ValueError(f"k is {k}; the graph has {len(circuit.graph.components)} components")
    return strongest(circuit.component_scores(signed=signed), k)


def component_jaccard(a: Circuit, b: Circuit, k: int | None = None, *, signed: bool = False) -> float:
    """Jaccard of the top-`k` components by s(v), by default as `default_k` says; `signed` ranks by summed scores instead of summed |score|.

    Raises ValueError when `k` lies outside 1 … components.
    """
    check_same_graph(a.graph, b.graph)
    k = default_k(a.graph) if k is None else k
    return jaccard(top_components(a, k, signed=signed), top_components(b, k, signed=signed))


def spearman(
    a: Float[Tensor, "n_writers n_readers"], b: Float[Tensor, "n_writers n_readers"], where: Bool[Tensor, "n_writers n_readers"]
) -> float:
    """Rank correlation, in [−1, 1], of two models' signed scores on the edges `where`: the union of their circuits.

    Give the full scores, not those of a circuit: its zeros outside would correlate negatively, whatever the models do. NaN where fewer than
    three edges are ranked, or all scores are equal.
    """
    x, y = a[where], b[where]
    if len(x) < 3 or x.min() == x.max() or y.min() == y.max():
        return float("nan")
    return torch.tensor(spearmanr(x.numpy(), y.numpy())[0]).item()


def overlaps(a: Circuit, b: Circuit, *, k: int | None = None, signed: bool = False) -> dict[str, float]:
    """edge_jaccard, component_jaccard, weighted_jaccard and rank_biased_overlap of two circuits."""
    return {
        "edge_jaccard": edge_jaccard(a, b),
        "component_jaccard": component_jaccard(a, b, k, signed=signed),
        "weighted_jaccard": weighted_jaccard(a, b),
        "rank_biased_overlap": rank_biased_overlap(a, b),
    }


def curve_sizes(n: int, graph: Graph) -> list[int]:
    """`n`, its halvings and its doublings, n/16 … 16n, without sizes that a circuit of the graph cannot have."""
    sizes = {round(n * 2.0**power) for power in range(-4, 5)}
    return sorted(size for size in sizes if 1 <= size <= graph.n_edges)


def jaccards(a: EdgeScores, b: EdgeScores, sizes: Sequence[int], *, prune: bool = True) -> list[float]:
    """Edge Jaccard of the circuits of each of `sizes`: only their edges are made, for this runs on every draw of the prompts."""
    cuts = [Selection(n, prune=prune) for n in sizes]
    return [jaccard(*(cut.edges(scores.matrix, scores.graph)[0] for scores in (a, b))) for cut in cuts]


def jaccard_curve(a: EdgeScores, b: EdgeScores, sizes: Sequence[int], *, prune: bool = True) -> pd.DataFrame:
    """Edge Jaccard over circuit size, one row per requested size: n, jaccard, expected, kept_a, kept_b.

    `expected` is the Jaccard at the mean intersection of random circuits with the same layer profiles, `expected_jaccard`.
    """
    check_same_graph(a.graph, b.graph)
    rows = []
    for n in sizes:
        x, y = (Circuit.from_scores(scores, n, prune=prune) for scores in (a, b))
        rows.append({"n": n, "jaccard": edge_jaccard(x, y), "expected": expected_jaccard(x, y), "kept_a": x.kept, "kept_b": y.kept})
    return pd.DataFrame(rows)
