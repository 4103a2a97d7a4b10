"""How firmly the prompts hold a circuit: what becomes of it, and of single edges, when they are drawn anew.

Each draw resamples the examples with replacement and selects a circuit of the same size and by the same settings from the scores on that
draw. A draw holds about 63 % of the examples, so its circuit differs more from the sample's than another sample of the same size would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mechshift_tl.attribution.scores import EdgeScores, can_resample
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard
from mechshift_tl.intervals import Interval, check_draws, interval, resamples

#: Settings of a selection that a circuit remembers.
_SELECTION = ("by", "greedy", "zeros", "prune")
EDGES_AT_ONCE = 4096


def resampled_circuits(
    scores: EdgeScores, n: int | None = None, *, n_boot: int = 200, seed: int = 0, **selection: Any
) -> Iterator[Circuit]:
    """`n_boot` circuits of `n` edges, each of one resample of the examples; `selection` as `Circuit.from_scores` takes it.

    Raises ValueError unless attributed with `keep_per_example=True` on at least two examples.
    """
    _check(scores, n_boot)
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(n_boot), desc="circuits of resampled prompts", unit="draw", delay=2, leave=False):
        examples = torch.randint(scores.n_examples, (scores.n_examples,), generator=generator)
        yield Circuit.from_scores(scores.resample(examples), n, **selection)


def inclusion_frequency(
    scores: EdgeScores, n: int | None = None, *, n_boot: int = 200, seed: int = 0, **selection: Any
) -> Float[Tensor, "n_writers n_readers"]:
    """Share of resampled circuits that hold each edge, in [0, 1]: `resampled_circuits`, whose settings and errors it shares."""
    circuits = resampled_circuits(scores, n, n_boot=n_boot, seed=seed, **selection)
    return sum((circuit.edges.float() for circuit in circuits), torch.zeros(scores.graph.possible.shape)) / n_boot


def jaccard_over_resamples(circuit: Circuit, scores: EdgeScores, *, n_boot: int = 200, seed: int = 0) -> Interval:
    """Edge Jaccard of `circuit` with those of resampled examples, of its requested size and by its own settings of selection."""
    selection = {name: circuit.settings[name] for name in _SELECTION if name in circuit.settings}
    circuits = resampled_circuits(scores, circuit.requested, n_boot=n_boot, seed=seed, **selection)
    return interval(edge_jaccard(circuit, other) for other in circuits)


@dataclass(frozen=True, eq=False)
class EdgeIntervals:
    """`low`, `high (n_writers, n_readers)`: the central 95 % of every edge's score over resampled examples, in the scores' unit."""

    low: Float[Tensor, "n_writers n_readers"]
    high: Float[Tensor, "n_writers n_readers"]


def edge_intervals(scores: EdgeScores, *, n_boot: int = 1000, seed: int = 0) -> EdgeIntervals:
    """95 % percentile intervals of every edge's score. Memory: `n_boot` · 4096 numbers at a time; cost: n_boot · examples · edges.

    Raises ValueError unless attributed with `keep_per_example=True` on at least two examples.
    """
    _check(scores, n_boot)
    assert scores.per_example is not None and scores.read_per_example is not None
    counts = resamples(scores.n_examples, n_boot, seed).float()
    weights = counts / (counts @ scores.read_per_example.float())[:, None]
    parts = [
        (weights @ part).quantile(torch.tensor([0.025, 0.975]), dim=0) for part in scores.per_example.flatten(1).split(EDGES_AT_ONCE, dim=1)
    ]
    low, high = torch.cat(parts, 1).view(2, *scores.matrix.shape)
    return EdgeIntervals(low, high)


def _check(scores: EdgeScores, n_boot: int) -> None:
    check_draws(n_boot)
    if not can_resample(scores):
        raise ValueError(f"{scores.n_examples} examples: resampling needs two examples and scores attributed with keep_per_example=True")
