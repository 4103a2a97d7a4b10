"""Correlations of all edges, and their correction for noise, against scores whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from mechshift_tl.compare import compare
from mechshift_tl.compare.bounds import ceiling
from mechshift_tl.compare.correlation import noise_corrected, noise_corrected_draws, score_correlations, spearman_brown
from mechshift_tl.graph import Graph

GRAPH = Graph(4, 4, 4)
N = 40


def noisy(scored, noise: float, seed: int):
    """Two models: positive signals that correlate, plus each prompt's own noise, small beside the signal: logs are then near linear."""
    draw = torch.Generator().manual_seed(seed)
    shared, *own = torch.rand(3, *GRAPH.shape, generator=draw)
    signals = [10 + shared + one for one in own]
    truth = np.corrcoef([one[GRAPH.possible].log().numpy() for one in signals])[0, 1]
    return [scored(GRAPH, (one + noise * torch.randn(N, *GRAPH.shape, generator=draw)) * GRAPH.possible) for one in signals], truth


def test_the_correction_finds_what_noise_has_hidden(scored):
    """Means over five pairs of models, beside the truth; a reliability is the square of the correlation with what is true."""
    rows = []
    for seed in range(5):
        (a, b), truth = noisy(scored, 3.0, seed)
        quiet, found = noisy(scored, 0.0, seed)[0][0], noise_corrected(a, b)
        reliability = score_correlations(quiet, a)["score_correlation"] ** 2
        plain = score_correlations(a, b)["score_correlation"]
        rows.append((truth, plain, found["score_correlation_corrected"], reliability, found["reliability_a"]))
    truth, plain, corrected, reliability, estimated = np.mean(rows, axis=0)
    assert plain < truth - 0.1
    assert corrected == pytest.approx(truth, abs=0.05) and estimated == pytest.approx(reliability, abs=0.04)


def test_without_noise_there_is_nothing_to_correct(scored):
    (a, b), truth = noisy(scored, 0.0, 1)
    found = noise_corrected(a, b)
    assert found["score_correlation_corrected"] == pytest.approx(truth) and found["reliability_b"] == pytest.approx(1.0)


def test_draws_keep_a_prompt_s_copies_in_one_half(scored):
    """Pure noise has no reliability; if copies were split, each draw would find some."""
    draw = torch.Generator().manual_seed(0)
    a, b = (scored(GRAPH, (10 + torch.randn(N, *GRAPH.shape, generator=draw)) * GRAPH.possible) for _ in range(2))
    found = [one["reliability_a"] for one in noise_corrected_draws(a, b, n_boot=60, seed=0)]
    assert abs(np.nanmean(found)) < 0.1


def test_spearman_is_scipy_s_and_edges_of_zero_are_left_out(scored):
    draw = torch.Generator().manual_seed(3)
    x, y = (torch.randn(GRAPH.shape, generator=draw) * GRAPH.possible for _ in range(2))
    x[0, 0] = 0.0
    kept = GRAPH.possible & (x != 0) & (y != 0)
    found = score_correlations(scored(GRAPH, x), scored(GRAPH, -3 * y))
    assert found["score_spearman"] == pytest.approx(spearmanr(x[kept].abs().numpy(), y[kept].abs().numpy())[0])
    logs = [one[kept].abs().log().numpy() for one in (x, y)]
    assert found["score_correlation"] == pytest.approx(np.corrcoef(logs)[0, 1], abs=1e-5)
    assert all(math.isnan(value) for value in score_correlations(scored(GRAPH, x * 0), scored(GRAPH, y)).values())


def test_spearman_brown_by_hand():
    assert spearman_brown(0.5) == pytest.approx(2 / 3) and spearman_brown(spearman_brown(0.3), 0.5) == pytest.approx(0.3)


def test_the_ceiling_is_what_two_samples_of_all_prompts_share(scored):
    """Split-half repeatability of one sample, corrected, beside the overlap of independent samples of the same size."""
    draw = torch.Generator().manual_seed(5)
    signal = torch.randn(GRAPH.shape, generator=draw) ** 3

    def sample():
        return scored(GRAPH, (signal + 3 * torch.randn(100, *GRAPH.shape, generator=draw)) * GRAPH.possible)

    pairs = [(sample(), sample()) for _ in range(6)]
    shared = np.mean([compare(a, b, n=60, prune=False, n_boot=0, n_random=1).edge_jaccard for a, b in pairs])
    corrected = np.mean([ceiling(a, n=60, prune=False)["edge_jaccard"] for a, _ in pairs])
    assert corrected == pytest.approx(shared, abs=0.03)
