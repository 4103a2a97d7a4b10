"""Paths from `input` to `logits`: which edges of a set lie on one, and which set is built by walking back from the logits.

A component is reached when any of its readers is. A path that enters a KV group may leave by any of the group's heads. Each direction of
pruning is one pass over the layers: forwards, attention comes before the MLP; backwards, the MLP comes first.

`greedy` is the published greedy selection (`apply_greedy` of the EAP-IG code, Hanna et al., arXiv 2403.17806): a best-first search.

1. The candidates are the edges into `logits`.
2. Take the strongest candidate. If its writer is new, the edges into that writer's own readers become candidates too.
3. Until n are taken or no candidate is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from math import inf

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechshift_tl.graph import Graph


def on_a_path(edges: Bool[Tensor, "n_writers n_readers"], graph: Graph) -> Bool[Tensor, "n_writers n_readers"]:
    """The edges that lie on a path from `input` to `logits` made of these edges alone."""
    return edges & reached(edges, graph)[:, None] & leading(edges, graph)


def reached(edges: Bool[Tensor, "n_writers n_readers"], graph: Graph) -> Bool[Tensor, " n_writers"]:
    """Writers that a path from `input` reaches; `input` itself is one."""
    live = torch.zeros(len(graph.writers), dtype=torch.bool)
    live[0] = True
    for readers, writers in _stages(graph):
        entered = (edges[:, readers] & live[:, None]).any(0)
        # A head is reached when one of its readers is; a reader of a KV group reaches all its heads.
        live[writers] = entered.float() @ graph.membership[readers, writers] > 0
    return live


def leading(edges: Bool[Tensor, "n_writers n_readers"], graph: Graph) -> Bool[Tensor, " n_readers"]:
    """Readers from which a path leads to `logits`; `logits` itself is one."""
    live = torch.zeros(len(graph.readers), dtype=torch.bool)
    live[-1] = True
    # From the logits back to the input.
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


def greedy(strength: Float[Tensor, "n_writers n_readers"], graph: Graph, n: int) -> Bool[Tensor, "n_writers n_readers"]:
    """The first `n` edges that a best-first search from the logits takes. Of equal edges, the first in the matrix is taken first.

    `strength` ranks the edges; edges with −inf may not enter. Every edge taken leads to the logits, but the input need not lead to it. The
    edges of one reader are sorted once, and only the best one not yet taken is a candidate: O(n log readers) after the sorting.
    """
    ranked = strength.sort(dim=0, descending=True, stable=True)
    values, writers = ranked.values.T.tolist(), ranked.indices.T.tolist()
    n_readers, opened = len(graph.readers), {len(graph.readers) - 1}
    joined: set[int] = set()
    candidates: list[tuple[float, int, int]] = []
    taken: list[int] = []

    def offer(reader: int, rank: int) -> None:
        if rank < len(graph.writers) and values[reader][rank] > -inf:
            # A heap gives the smallest first, so strength is negated. Of equal ones the edge that comes first in the matrix wins.
            heappush(candidates, (-values[reader][rank], writers[reader][rank] * n_readers + reader, rank))

    offer(n_readers - 1, 0)
    while candidates and len(taken) < n:
        _, edge, rank = heappop(candidates)
        taken.append(edge)
        writer, reader = divmod(edge, n_readers)
        # The reader's next best edge is a candidate now.
        offer(reader, rank + 1)
        if writer not in joined:
            joined.add(writer)
            # The readers of the writer's own component; some may be open already, through another head of the KV group.
            new = set(graph.membership[:, writer].nonzero()[:, 0].tolist()) - opened
            opened |= new
            for other in new:
                offer(other, 0)
    edges = torch.zeros(strength.shape, dtype=torch.bool)
    edges.view(-1)[taken] = True
    return edges
