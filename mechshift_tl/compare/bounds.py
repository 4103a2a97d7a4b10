"""The floor and the ceiling of an overlap. It means something only between them.

Floor: both circuits are redrawn with their own layer profiles (`circuits.random`); mean and central 95 % over the draws. An overlap inside
this range is what chance and the profiles give.

Ceiling, or split-half repeatability: one model is compared with itself, on two disjoint halves of its prompts, at the same n; c is the mean
over a few random splits. A half holds half of the prompts, so its circuit is noisier than that of all, and c lies too low by .02 to .05 on
the bundled pair. Near 1, what is missing falls as 1/√n, as noise does, so the ceiling is 1 − (1 − c)/√2; of a correlation, 2 c / (1 + c).
A pruned circuit of a few edges changes by whole paths: there this is a rough figure only.

An overlap near it is as high as the prompts can show. It is no upper bound: two models that read the same prompts share some of their noise
and may exceed it.
"""

from __future__ import annotations

import torch

from mechshift_tl.attribution.bootstrap import check_can_resample
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.random import random_circuits
from mechshift_tl.compare.correlation import spearman_brown
from mechshift_tl.compare.overlap import overlaps, spearman
from mechshift_tl.intervals import Interval, intervals, seeded

N_SPLITS = 10


def floor(a: Circuit, b: Circuit, *, k: int | None = None, signed: bool = False, n_random: int = 200, seed: int = 0) -> dict[str, Interval]:
    """Mean and central 95 % of the statistics of `overlaps` over `n_random` redraws of both circuits.

    Raises ValueError unless `n_random` is at least 1.
    """
    if n_random < 1:
        raise ValueError(f"n_random is {n_random}; a floor needs at least 1 redraw, and some 200 for its 95 %")
    generator = seeded(seed)
    pairs = zip(random_circuits(a, n_random, generator), random_circuits(b, n_random, generator), strict=True)
    return intervals(overlaps(x, y, k=k, signed=signed) for x, y in pairs)


def ceiling(
    scores: EdgeScores,
    *,
    n: int | None = None,
    k: int | None = None,
    prune: bool = True,
    signed: bool = False,
    n_splits: int = N_SPLITS,
    seed: int = 0,
) -> dict[str, float]:
    """Overlaps (and Spearman) of one model with itself over `n_splits` random halvings of its prompts, corrected to all prompts.

    An odd prompt sits out.

    Raises ValueError unless attributed with `keep_per_example=True` on at least two examples.
    """
    check_can_resample(scores)
    generator = seeded(seed)
    half = scores.n_examples // 2
    draws = []
    for _ in range(n_splits):
        order = torch.randperm(scores.n_examples, generator=generator)
        a, b = scores.resample(order[:half]), scores.resample(order[half : 2 * half])
        x, y = Circuit.from_scores(a, n, prune=prune), Circuit.from_scores(b, n, prune=prune)
        draws.append(overlaps(x, y, k=k, signed=signed) | {"spearman": spearman(a.matrix, b.matrix, x.edges | y.edges)})
    return {name: repeatability(name, spread.mean) for name, spread in intervals(draws).items()}


def repeatability(name: str, c: float) -> float:
    """What two halves of the prompts share of a statistic, `c`, as two samples of all prompts would: see the module docstring."""
    return spearman_brown(c) if name == "spearman" else 1 - (1 - c) / 2**0.5
