"""Attributions made by hand: a graph, and the score of each edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from mechshift_tl.attribution import EdgeScores
from mechshift_tl.graph import Graph


@pytest.fixture(scope="session")
def scored() -> Callable[..., EdgeScores]:
    """`scored(graph, {("input", "m0"): 1.0}, **fields)`, or a matrix; a three-dimensional one is per example, one position read in each."""

    def make(graph: Graph, scores: Mapping[tuple[str, str], float] | Tensor, **fields: object) -> EdgeScores:
        if not isinstance(scores, Tensor):
            matrix = torch.zeros(graph.possible.shape)
            for (writer, reader), score in scores.items():
                matrix[graph.writers.index(writer), graph.readers.index(reader)] = score
            scores = matrix
        parts: dict = {"n_examples": 1}
        if scores.ndim == 3:
            n = len(scores)
            ones = torch.ones(n, dtype=torch.long)
            parts = {"n_examples": n, "per_example": scores, "ends_per_example": torch.ones(2, n), "read_per_example": ones}
            scores = scores.mean(0)
        return EdgeScores(
            matrix=scores, graph=graph, per_step=scores[None], steps=[0], n_read=[1], clean=1.0, corrupt=0.0, **(parts | fields)
        )

    return make
