"""Which edges make a circuit.

1. The n largest |score| among the edges that can exist and do not score zero.
2. Of these, the edges on a path from `input` to `logits`: the writer is reached from the input, and the reader leads to the logits. A
   component is reached when any of its readers is; a path that enters a KV group leaves by any of the group's heads.

Both directions are one sweep over the layers, attention before MLP going down, MLP before attention going back.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechshift_tl.graph import Graph

MAX_DEFAULT_N = 1000


def default_n(graph: Graph) -> int:
    """Edges asked for by default: 1000, or 5 % of the possible edges (rounded up) where that is fewer."""
    return min(MAX_DEFAULT_N, -(-graph.n_edges // 20))


def strongest(strength: Float[Tensor, " m"], n: int) -> Bool[Tensor, " m"]:
    """True at the `n` largest entries; of equal ones the first come first, and entries that are not positive never do."""
    threshold = strength.topk(min(n, len(strength))).values[-1]
    above = strength > threshold
    ties = strength == threshold
    ties &= ties.cumsum(0) <= n - above.sum()
    return (above | ties) & (strength > 0)


def select(
    matrix: Float[Tensor, "n_writers n_readers"], graph: Graph, n: int, *, prune: bool = True
) -> Bool[Tensor, "n_writers n_readers"]:
    """Edges of the circuit: the top `n` by |score|, pruned or not.

    Raises ValueError when a possible edge's score is not finite, or unless 1 ≤ n ≤ the graph's possible edges.
    """
    check_size(n, graph)
    check_finite(matrix, graph)
    edges = strongest(matrix.abs().masked_fill(~graph.possible, 0).flatten(), n).view_as(matrix)
    return on_a_path(edges, graph) if prune else edges


def check_size(n: int, graph: Graph) -> None:
    """Raises ValueError unless 1 ≤ n ≤ the graph's possible edges: what a caller can know before it scores anything."""
    if not 1 <= n <= graph.n_edges:
        raise ValueError(f"n is {n}; a circuit of this graph has 1 to {graph.n_edges} edges")


def check_finite(matrix: Float[Tensor, "n_writers n_readers"], graph: Graph) -> None:
    """Raises ValueError, naming the first edge, when a possible edge's score is NaN or infinite."""
    bad = graph.possible & ~matrix.isfinite()
    if bad.any():
        writer, reader = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{int(bad.sum())} of {graph.n_edges} edge scores are not finite (the first: {graph.writers[writer]} → {graph.readers[reader]} "
            f"= {matrix[writer, reader].item()}); attribute again with a metric that is finite on every example"
        )


def on_a_path(edges: Bool[Tensor, "n_writers n_readers"], graph: Graph) -> Bool[Tensor, "n_writers n_readers"]:
    """The edges that lie on a path from `input` to `logits` made of these edges alone."""
    return edges & reached(edges, graph)[:, None] & leading(edges, graph)


def reached(edges: Bool[Tensor, "n_writers n_readers"], graph: Graph) -> Bool[Tensor, " n_writers"]:
    """Writers that a path from `input` reaches; `input` itself is one."""
    live = torch.zeros(len(graph.writers), dtype=torch.bool)
    live[0] = True
    for readers, writers in _stages(graph):
        entered = (edges[:, readers] & live[:, None]).any(0)
        live[writers] = entered.float() @ graph.membership[readers, writers] > 0
    return live


def leading(edges: Bool[Tensor, "n_writers n_readers"], graph: Graph) -> Bool[Tensor, " n_readers"]:
    """Readers from which a path leads to `logits`; `logits` itself is one."""
    live = torch.zeros(len(graph.readers), dtype=torch.bool)
    live[-1] = True
    for readers, writers in reversed(list(_stages(graph))):
        left = (edges[writers] & live).any(1)
        live[readers] = graph.membership[readers, writers] @ left.float() > 0
    return live


def _stages(graph: Graph) -> Iterator[tuple[slice, slice]]:
    """Readers and writers of each attention and each MLP, in the order the residual stream meets them."""
    for layer in range(graph.n_layers):
        heads, mlp = graph.writers_before_attention(layer), graph.mlp_reader(layer)
        after = heads + graph.n_heads
        yield graph.attention_readers(layer), slice(heads, after)
        yield slice(mlp, mlp + 1), slice(after, after + 1)
