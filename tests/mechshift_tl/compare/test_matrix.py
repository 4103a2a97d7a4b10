"""Matrices of overlaps, held against overlaps of two circuits at a time."""

from __future__ import annotations

import pytest
import torch

from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard
from mechshift_tl.circuits.random import cell_counts
from mechshift_tl.compare.matrix import common, components_of, off_diagonal, overlap_matrix, redrawn
from mechshift_tl.graph import Graph

GRAPH = Graph(2, 4, 2)


@pytest.fixture
def circuits(scored) -> list[Circuit]:
    generator = torch.Generator().manual_seed(0)
    return [Circuit.from_scores(scored(GRAPH, torch.randn(GRAPH.shape, generator=generator) * GRAPH.possible), n) for n in (20, 30, 12)]


def test_every_two_circuits_overlap_as_two_alone(circuits):
    found = overlap_matrix(torch.stack([one.edges for one in circuits]).flatten(1))
    for i, a in enumerate(circuits):
        for j, b in enumerate(circuits):
            assert found[i, j].item() == pytest.approx(edge_jaccard(a, b))
    assert sorted(off_diagonal(found).tolist()) == pytest.approx(
        sorted(edge_jaccard(a, b) for a in circuits for b in circuits if a is not b)
    )


def test_components_are_those_that_score_in_the_circuit(circuits):
    touched = components_of(torch.stack([one.edges for one in circuits]), GRAPH)
    for one, row in zip(circuits, touched, strict=True):
        assert {GRAPH.components[i] for i in row.nonzero()[:, 0].tolist()} == set(one.components["component"])
    sets = [set(row.nonzero()[:, 0].tolist()) for row in touched]
    assert common(touched).tolist() == [[len(a & b) for b in sets] for a in sets]


def test_redrawn_circuits_keep_their_layer_profiles(circuits):
    draws = redrawn(circuits, 4)
    assert len(draws) == 4 and not torch.equal(draws[0], draws[1])
    for draw in draws:
        for one, edges in zip(circuits, draw, strict=True):
            assert torch.equal(cell_counts(edges, GRAPH), cell_counts(one.edges, GRAPH))
