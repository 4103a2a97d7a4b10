"""Tokens, scores and choices on hand-made logits."""

import math

import pytest
import torch

from hooked_diffusion.denoising.selection import choose, propose, sample
from hooked_diffusion.denoising.settings import DenoisingSettings

PROBS = torch.tensor([[[0.1, 0.1, 0.8], [0.5, 0.3, 0.2], [0.25, 0.25, 0.5], [0.9, 0.05, 0.05]]])
OPEN = torch.tensor([[False, True, True, True]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores(**settings) -> torch.Tensor:
    return propose(PROBS.log(), OPEN, DenoisingSettings(**settings), generator()).score[0]


def test_a_proposal_is_the_most_probable_token_with_its_probability():
    proposal = propose(PROBS.log(), OPEN, DenoisingSettings(), generator())
    assert proposal.tokens[0, 1:].tolist() == [0, 2, 0]
    torch.testing.assert_close(proposal.probability[0], torch.tensor([0.0, 0.5, 0.5, 0.9]))


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("confidence", [0.5, 0.5, 0.9]),
        ("margin", [0.2, 0.25, 0.85]),
        ("entropy", [sum(p * math.log(p) for p in row) for row in PROBS[0, 1:].tolist()]),
        ("left_to_right", [-1.0, -2.0, -3.0]),
    ],
)
def test_scores(select, expected):
    score = scores(select=select)
    assert score[0] == float("-inf")
    torch.testing.assert_close(score[1:], torch.tensor(expected))


def test_random_scores_come_from_the_seed():
    a, b = (propose(PROBS.log(), OPEN, DenoisingSettings(select="random"), generator(s)).score for s in (1, 2))
    again = propose(PROBS.log(), OPEN, DenoisingSettings(select="random"), generator(1)).score
    assert torch.equal(a, again)
    assert not torch.equal(a, b)


def test_tempered_scores_read_the_tempered_distribution_while_the_probability_stays_the_models_own():
    settings = DenoisingSettings(temperature=0.5, tempered_scores=True, seed=3)
    proposal = propose(PROBS.log(), OPEN, settings, generator())
    token = proposal.tokens[0, 3]
    squared = PROBS[0, 3] ** 2 / (PROBS[0, 3] ** 2).sum()
    torch.testing.assert_close(proposal.score[0, 3], squared[token])
    torch.testing.assert_close(proposal.probability[0, 3], PROBS[0, 3, token])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_follows_the_tempered_softmax(temperature):
    probs = torch.tensor([0.6, 0.3, 0.1])
    tokens = sample(probs.log().expand(40_000, 3), temperature, generator())
    expected = (probs.log() / temperature).softmax(-1)
    torch.testing.assert_close(tokens.bincount(minlength=3) / 40_000, expected, atol=0.01, rtol=0)


def test_the_best_positions_of_each_row_are_chosen():
    score = torch.tensor([[0.1, 0.9, 0.5, float("-inf")], [0.3, 0.2, float("-inf"), 0.4]])
    assert choose(score, [2, 1]).tolist() == [[False, True, True, False], [False, False, False, True]]
    assert not choose(score, [0, 0]).any()


def test_low_precision_logits_are_scored_in_single_precision():
    proposal = propose(PROBS.log().bfloat16(), OPEN, DenoisingSettings(), generator())
    assert proposal.score.dtype == torch.float32
