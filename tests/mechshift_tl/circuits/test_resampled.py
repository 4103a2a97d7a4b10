"""Sign consistency and inclusion frequency against draws one by one, and the circuits that they choose."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.resampled import inclusion_frequency, sign_consistency
from mechshift_tl.circuits.select import Selection, strongest
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import drawn_examples

GRAPH = Graph(1, 2, 2)


@pytest.fixture
def scores(scored):
    """Twelve prompts whose edges differ much in strength and in sign."""
    torch.manual_seed(0)
    return scored(GRAPH, (torch.randn(12, *GRAPH.shape) + torch.randn(GRAPH.shape)) * GRAPH.possible)


def test_both_are_shares_of_draws(scores) -> None:
    draws = [scores.resample(examples).matrix for examples in drawn_examples(12, 50, 3)]
    same = torch.stack([(one.sign() == scores.matrix.sign()) & (one != 0) for one in draws]).float().mean(0)
    torch.testing.assert_close(sign_consistency(scores, n_boot=50, seed=3), same)
    among = torch.stack([strongest(one.abs().flatten(), 4).view_as(one) for one in draws]).float().mean(0)
    torch.testing.assert_close(inclusion_frequency(scores, 4, n_boot=50, seed=3), among)
    assert among.sum() == pytest.approx(4) and same[~GRAPH.possible].sum() == 0


def test_circuits_of_certain_and_of_frequent_edges(scores) -> None:
    certain = sign_consistency(scores) >= 0.95
    assert 0 < certain.sum() < GRAPH.n_edges
    circuit = Circuit.from_scores(scores, GRAPH.n_edges, choose="consistent", prune=False)
    assert torch.equal(circuit.edges, certain) and torch.equal(circuit.scores[certain], scores.matrix[certain])
    few = Circuit.from_scores(scores, 3, choose="frequent", prune=False)
    frequency = inclusion_frequency(scores, 3)
    assert few.kept == 3 and frequency[few.edges].min() >= frequency[~few.edges].max()
    assert few.settings["choose"] == "frequent" and few.selection.choose == "frequent"


def test_what_does_not_fit_is_refused(scores, scored) -> None:
    with pytest.raises(ValueError, match="attributed with keep_per_example=True"):
        Circuit.from_scores(scored(GRAPH, scores.matrix), 3, choose="consistent")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"choose": "best"}, "choose is 'best'; choose one of strongest, consistent, frequent, optimal"),
        ({"choose": "optimal", "greedy": True}, "choose='optimal' ranks by |score| and is not greedy"),
        ({"choose": "frequent", "threshold": 0.1}, "give n or fraction, not a threshold"),
    ]
    for given, message in refused:
        with pytest.raises(ValueError, match=message.replace("|", r"\|")):
            Selection(**given)
