"""The picture of edge scores: its heat map adds up, and stays readable where a model is deep."""

from __future__ import annotations

from typing import Any

import torch

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.attribution.scores_figure import layer_masses
from mechshift_tl.circuits import Circuit
from mechshift_tl.graph import Graph


def deep() -> EdgeScores:
    """Random scores of 30 layers of 8 heads."""
    graph = Graph(30, 8, 8)
    matrix = torch.randn(graph.shape, generator=torch.Generator().manual_seed(0)).masked_fill(~graph.possible, 0)
    return EdgeScores(matrix, graph, matrix[None], [0], [1], 1.0, 0.0, 1)


def test_masses_by_layer_are_sums_over_edges() -> None:
    scores = deep()
    masses = layer_masses(scores.matrix, scores.graph)
    frame = scores.to_dataframe()
    wanted = frame.loc[(frame["writer_layer"] == 3) & (frame["reader_layer"] == 7), "score"].abs().sum()
    torch.testing.assert_close(masses[4, 7].item(), wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(masses.sum(), scores.matrix.abs().sum(), rtol=1e-5, atol=0)


def test_thirty_layers_and_two_hundred_edges_fit() -> None:
    scores = deep()
    figure: Any = scores.figure(20)  # plotly makes its attributes at run time
    assert figure.layout.height < 600 and figure.layout.xaxis.nticks == 18
    assert len(figure.data[1].y) == 20 and figure.data[1].y[0] == f"{scores.top(1)['writer'][0]} → {scores.top(1)['reader'][0]}".replace(
        "<", "&lt;"
    ).replace(">", "&gt;")
    drawn: Any = Circuit.from_scores(scores, 400, greedy=True).figure(200)
    assert 0 < len(drawn.data) < 30 and drawn.layout.width > 3000  # a column of at least 100 pixels for each layer
