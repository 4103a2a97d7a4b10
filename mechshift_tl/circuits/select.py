"""Which edges make a circuit.

1. Candidates are the edges that can exist and do not score zero; with `zeros`, edges that score zero too.
2. Rank them by |score|, or by the signed score, which puts edges that work against the behaviour last.
3. Take the first n edges, a fraction of the possible edges, or all edges from a threshold up. `greedy` takes them by walking back from the
   logits (`circuits.paths`) instead, so that every edge taken leads to the logits.
4. Prune: of these, keep the edges on a path from `input` to `logits`.

Other choices than the strongest edges are made by `optimal`, exactly, and from prompts drawn anew (`circuits.resampled`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from numbers import Integral
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechshift_tl.circuits.optimal import optimal
from mechshift_tl.circuits.paths import greedy, on_a_path
from mechshift_tl.graph import Graph

Rank = Literal["magnitude", "signed"]
Choice = Literal["strongest", "consistent", "frequent", "optimal"]
MAX_DEFAULT_N = 1000


@dataclass(frozen=True)
class Selection:
    """How a circuit's edges are chosen. Give at most one of `n`, `fraction` and `threshold`; without any, `n` is what `default_n` says.

    - `n`: edges, from 0 (the empty circuit).
    - `fraction`: edges as a fraction of the possible ones in [0, 1], rounded down as MIB's grid of sizes is.
    - `threshold`: the least |score| (or score) of an edge, in the scores' unit.
    - `by`: "magnitude" ranks by |score| (as MIB's CMD does), "signed" by the score itself (CPR).
    - `greedy`: walk back from the logits instead of ranking all edges at once.
    - `zeros`: edges that score exactly zero may enter, as in the reference code. Between the two runs that were scored they carry nothing;
      under another intervention they may.
    - `prune`: drop edges with no path from input to logits.
    - `choose`: the "strongest" edges; those of them whose scores keep their sign in 95 % of draws of the prompts ("consistent"); those that
      are most often among the strongest on such draws ("frequent"; both need per-example scores); or the connected circuit of largest
      Σ|score|, exactly ("optimal").

    Raises ValueError on two sizes at once, a value outside these ranges, and on settings that `choose` does not take.
    """

    n: int | None = None
    fraction: float | None = None
    threshold: float | None = None
    by: Rank = "magnitude"
    greedy: bool = False
    zeros: bool = False
    prune: bool = True
    choose: Choice = "strongest"

    def __post_init__(self) -> None:
        given = {name: value for name in ("n", "fraction", "threshold") if (value := getattr(self, name)) is not None}
        if len(given) > 1:
            raise ValueError(f"a circuit has one size, but {' and '.join(f'{k}={v}' for k, v in given.items())} were given; keep one")
        if self.by not in ("magnitude", "signed"):
            raise ValueError(f"by is {self.by!r}; rank edges by 'magnitude' or 'signed'")
        if self.n is not None and not isinstance(self.n, Integral):
            raise ValueError(f"n is {self.n!r}; give a whole number of edges, or fraction={self.n!r} for a share of the possible ones")
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; give a share of the possible edges in [0, 1], or n={self.fraction} edges")
        if self.threshold is not None and not isfinite(self.threshold):
            raise ValueError(f"threshold is {self.threshold}; give a finite score")
        if self.choose not in get_args(Choice):
            raise ValueError(f"choose is {self.choose!r}; choose one of {', '.join(get_args(Choice))}")
        if self.choose != "strongest" and (self.greedy or self.by == "signed"):
            raise ValueError(f"choose={self.choose!r} ranks by |score| and is not greedy; leave out greedy, and by='signed'")
        if self.choose == "frequent" and self.threshold is not None:
            raise ValueError("choose='frequent' counts how often edges are among the n strongest; give n or fraction, not a threshold")
        if self.threshold is not None and self.threshold < 0 and self.by == "magnitude":
            raise ValueError(f"threshold is {self.threshold}, but no |score| is below 0; give 0 or more, or by='signed'")

    def size(self, graph: Graph) -> int:
        """Edges asked for in `graph`; all of them under a threshold. Raises ValueError when `n` lies outside 0 … possible edges."""
        if self.threshold is not None:
            return graph.n_edges
        if self.fraction is not None:
            # Rounded down, as MIB rounds.
            return int(self.fraction * graph.n_edges)
        n = default_n(graph) if self.n is None else int(self.n)
        check_size(n, graph, least=0)
        return n

    def edges(self, matrix: Float[Tensor, "n_writers n_readers"], graph: Graph) -> tuple[Bool[Tensor, "n_writers n_readers"], int]:
        """The circuit's edges, and how many were requested: under a threshold, how many pass it.

        Raises ValueError when the scores are not of edges, one is not finite, or `n` lies outside 0 … possible edges.
        """
        n = self.size(graph)
        check_edges(matrix, graph)
        check_finite(matrix, graph)
        strength = matrix.abs() if self.by == "magnitude" else matrix
        barred = ~graph.possible if self.zeros else ~graph.possible | (matrix == 0)
        if self.threshold is not None:
            barred = barred | (strength < self.threshold)
            n = int((~barred).sum())
        return self._chosen(strength.masked_fill(barred, -inf), graph, n), n

    def _chosen(self, strength: Float[Tensor, "n_writers n_readers"], graph: Graph, n: int) -> Bool[Tensor, "n_writers n_readers"]:
        if self.choose == "optimal":
            return optimal(strength, graph, n)
        edges = greedy(strength, graph, n) if self.greedy else strongest(strength.flatten(), n, above=-inf).view_as(strength)
        return on_a_path(edges, graph) if self.prune else edges


def default_n(graph: Graph) -> int:
    """Edges asked for by default: 1000, or 5 % of the possible edges (rounded up) where that is fewer."""
    # −(−a // b) rounds up.
    return min(MAX_DEFAULT_N, -(-graph.n_edges // 20))


def strongest(strength: Float[Tensor, " m"], n: int, above: float = 0.0) -> Bool[Tensor, " m"]:
    """True at the `n` largest entries. Ties go to the first entries; entries at or below `above` are never chosen."""
    if not n:
        return torch.zeros(strength.shape, dtype=torch.bool)
    # `topk` names no order among ties, so they are dealt with below.
    threshold = strength.topk(min(n, len(strength))).values[-1]
    larger = strength > threshold
    ties = strength == threshold
    # Of the ties only as many as still fit, from the front.
    ties &= ties.cumsum(0) <= n - larger.sum()
    return (larger | ties) & (strength > above)


def check_size(n: int, graph: Graph, least: int = 1) -> None:
    """Raise ValueError unless least ≤ n ≤ the graph's possible edges. Needs no scores, so a caller can check before any work."""
    if not least <= n <= graph.n_edges:
        raise ValueError(f"n is {n}; a circuit of this graph has {least} to {graph.n_edges} edges")


def check_edges(matrix: Tensor, graph: Graph) -> None:
    """Raise ValueError unless there is one score per writer and reader; scores of nodes and neurons have no edges to choose from."""
    if matrix.shape != graph.possible.shape:
        raise ValueError(
            f"scores are {tuple(matrix.shape)}, not {tuple(graph.possible.shape)} writers × readers; attribute(level='edges') gives those "
            "that circuits are made of"
        )


def check_finite(matrix: Float[Tensor, "n_writers n_readers"], graph: Graph) -> None:
    """Raise ValueError, naming the first such edge, when the score of a possible edge is NaN or infinite."""
    bad = graph.possible & ~matrix.isfinite()
    if bad.any():
        writer, reader = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{int(bad.sum())} of {graph.n_edges} edge scores are not finite (the first: {graph.writers[writer]} → {graph.readers[reader]} "
            f"= {matrix[writer, reader].item()}); attribute again with a metric that is finite on every example"
        )
