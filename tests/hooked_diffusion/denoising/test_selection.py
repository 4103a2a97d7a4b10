"""Tokens, scores and choices on hand-made logits."""

import math
from itertools import permutations

import pytest
import torch
from scipy.stats import chisquare

from hooked_diffusion.denoising.selection import Proposal, choose, propose, restrict
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


def chi_square(counts: torch.Tensor, probs: torch.Tensor) -> float:
    """p-value of drawn counts under exact probabilities; outcomes of probability 0 must never be drawn."""
    likely, probs = probs > 0, probs.double()
    assert not counts[~likely].any()
    return float(chisquare(counts[likely].double(), probs[likely] / probs.sum() * counts.sum()).pvalue)


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k", "expected"),
    [
        (1.0, 1.0, None, [0.5, 0.3, 0.15, 0.05]),
        (0.5, 1.0, None, [0.25, 0.09, 0.0225, 0.0025]),
        (2.0, 1.0, None, [0.5**0.5, 0.3**0.5, 0.15**0.5, 0.05**0.5]),
        (1.0, 0.75, None, [0.5, 0.3, 0.0, 0.0]),
        (1.0, 1.0, 3, [0.5, 0.3, 0.15, 0.0]),
        (1.0, 0.9, 2, [0.5, 0.3, 0.0, 0.0]),
        (2.0, 0.75, None, [0.5**0.5, 0.3**0.5, 0.15**0.5, 0.0]),  # temperature first: the flatter distribution keeps one token more
    ],
)
def test_tokens_are_drawn_with_the_exact_probabilities(temperature, top_p, top_k, expected):
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(1, 20_000, 4)
    settings = DenoisingSettings(temperature=temperature, top_p=top_p, top_k=top_k)
    proposal = propose(logits, torch.ones(1, 20_000, dtype=torch.bool), settings, generator())
    expected = torch.tensor(expected) / sum(expected)
    assert chi_square(proposal.tokens[0].bincount(minlength=4), expected) > 1e-3


def test_a_cut_distribution_is_dreams():
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    kept = [
        (restrict(logits, top_p, top_k)[0] > float("-inf")).tolist() for top_p, top_k in ((0.4, None), (0.5, None), (0.6, None), (0.9, 1))
    ]
    assert kept == [[False, True, False, False], [False, True, False, True], [False, True, False, True], [False, True, False, False]]
    assert torch.equal(restrict(logits, 1.0, 4), logits)


def test_tempered_scores_read_the_cut_distribution():
    settings = DenoisingSettings(top_p=0.55, tempered_scores=True)
    proposal = propose(torch.tensor([[[0.5, 0.3, 0.2]]]).log(), torch.ones(1, 1, dtype=torch.bool), settings, generator())
    torch.testing.assert_close(proposal.score, torch.tensor([[0.5 / 0.8]]))
    torch.testing.assert_close(proposal.probability, torch.tensor([[0.5]]))


def proposed(score: torch.Tensor, ranked: torch.Tensor | None = None) -> Proposal:
    return Proposal(torch.zeros_like(score).long(), score, score if ranked is None else ranked, score)


def test_the_best_positions_of_each_row_are_chosen():
    score = torch.tensor([[0.1, 0.9, 0.5, float("-inf")], [0.3, 0.2, float("-inf"), 0.4]])
    open_ = score > float("-inf")
    chosen = choose(proposed(score), open_, [2, 1], DenoisingSettings(), generator())
    assert chosen.tolist() == [[False, True, True, False], [False, False, False, True]]
    assert not choose(proposed(score), open_, [0, 0], DenoisingSettings(), generator()).any()


def test_positions_above_the_threshold_come_along():
    ranked = torch.tensor([[0.95, 0.91, 0.5, 0.99], [0.3, 0.2, 0.6, 0.4]])
    open_ = torch.tensor([[True, True, True, False], [True, True, True, True]])
    chosen = choose(
        proposed(ranked.masked_fill(~open_, float("-inf")), ranked), open_, [1, 1], DenoisingSettings(threshold=0.9), generator()
    )
    assert chosen.tolist() == [[True, True, False, False], [False, False, True, False]]


@pytest.mark.parametrize("alg_temp", [0.3, 1.0])
def test_positions_are_drawn_without_replacement_with_the_exact_probabilities(alg_temp):
    """Two of three open positions: P(i first, j second) = wᵢ · wⱼ / (1 − wᵢ), as `torch.multinomial` draws them."""
    score = torch.tensor([0.2, 0.9, 0.5, float("-inf")])
    n = 20_000
    settings = DenoisingSettings(alg_temp=alg_temp)
    chosen = choose(proposed(score.expand(n, 4)), (score > float("-inf")).expand(n, 4), [2] * n, settings, generator())
    w = (score[:3] / alg_temp).softmax(-1)
    orders = [list(permutations([i for i in range(3) if i != out])) for out in range(3)]
    left_out = torch.stack([torch.stack([w[i] * w[j] / (1 - w[i]) for i, j in order]).sum() for order in orders])
    assert chi_square((~chosen[:, :3]).sum(0), left_out) > 1e-3
    assert not chosen[:, 3].any()


def test_low_precision_logits_are_scored_in_single_precision():
    proposal = propose(PROBS.log().bfloat16(), OPEN, DenoisingSettings(), generator())
    assert proposal.score.dtype == torch.float32
