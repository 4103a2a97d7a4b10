"""The connected circuit of largest Σ|score| among those of at most k edges, found exactly by an integer programme (HiGHS).

    maximise Σ strength(e) x(e)    with x(e) in {0, 1},  Σ x(e) ≤ k,  and for every edge u → v:
        x(u → v) ≤ reached(u),    reached(u) ≤ Σ of x over the edges into u's readers    (the input is reached)
        x(u → v) ≤ leading(v),    leading(v) ≤ Σ of x over the edges out of v's components    (the logits lead)

Edges only lead forwards, so a chosen edge whose writer is reached, and whose reader leads, lies on a path from input to logits. Taking the
strongest edges and pruning spends edges on what is pruned; a greedy walk takes an edge before it knows what it leads to. After 2510.25786.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.optimize import Bounds, milp
from torch import Tensor

from mechshift_tl.graph import Graph

#: Candidates from which an exact answer is no longer cheap: some seconds at this number.
MOST_EDGES = 20_000
#: Seconds after which the search ends.
PATIENCE = 60.0


def optimal(strength: Float[Tensor, "n_writers n_readers"], graph: Graph, n: int) -> Bool[Tensor, "n_writers n_readers"]:
    """At most `n` edges, all on paths from input to logits, of the largest sum; edges with −inf may not enter.

    Raises ValueError where there are more candidates than are solved exactly, and TimeoutError where the search takes over a minute.
    """
    writers, readers = (strength > -torch.inf).nonzero(as_tuple=True)
    if len(writers) > MOST_EDGES:
        raise ValueError(
            f"{len(writers)} edges are candidates, and an exact choice is made among at most {MOST_EDGES}; give a threshold, or choose "
            "greedily"
        )
    edges = torch.zeros(strength.shape, dtype=torch.bool)
    if not len(writers) or not n:
        return edges
    gain = np.concatenate([strength[writers, readers].double().numpy(), np.zeros(len(graph.writers) + len(graph.readers))])
    free = np.arange(len(gain)) < len(writers)
    solved = milp(
        -gain, integrality=free, bounds=Bounds(0, 1), constraints=_paths(graph, writers.numpy(), readers.numpy(), n),
        options={"time_limit": PATIENCE, "mip_rel_gap": 0},
    )  # fmt: skip
    if solved.status != 0:
        raise TimeoutError(f"no circuit of {n} edges was proved the best within {PATIENCE:.0f} s ({solved.message}); choose greedily")
    chosen = torch.from_numpy(solved.x[: len(writers)] > 0.5)
    edges[writers[chosen], readers[chosen]] = True
    return edges


def _paths(graph: Graph, writers: np.ndarray, readers: np.ndarray, n: int) -> tuple[sparse.csr_matrix, float, np.ndarray]:
    """The constraints, and their lower and upper limits: over the edges, then `reached` of every writer, then `leading` of every reader."""
    m, (n_writers, n_readers) = len(writers), graph.shape
    # belongs[r, w]: an edge into reader r enters component w; the logits are no writer's, the input has no reader.
    belongs = sparse.csr_matrix((graph.membership > 0).numpy().astype(float))
    into = sparse.csr_matrix((np.ones(m), (readers, np.arange(m))), (n_readers, m))
    out_of = sparse.csr_matrix((np.ones(m), (writers, np.arange(m))), (n_writers, m))
    one, reached, leading = sparse.eye(m), sparse.eye(n_writers), sparse.eye(n_readers)
    rows = [
        [one, -out_of.T, None],
        [one, None, -into.T],
        [-belongs.T @ into, reached, None],
        [-belongs @ out_of, None, leading],
        [sparse.csr_matrix(np.ones((1, m))), None, None],
    ]
    limits = [np.zeros(2 * m), np.eye(n_writers)[0], np.eye(n_readers)[-1], [n]]
    return sparse.csr_matrix(sparse.bmat(rows)), -np.inf, np.concatenate(limits)
