"""Bootstrap intervals and ceilings: constants, coverage, pairing."""

import math

import pytest
import torch

from mechshift_tl.attribution.bootstrap import bootstrap
from mechshift_tl.compare.bounds import ceiling
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import interval, intervals

GRAPH = Graph(2, 2, 2)


def noisy(n: int, seed: int, noise: float = 1.0) -> torch.Tensor:
    """Scores per example: a signal of its own for every edge, the same for every seed, and noise."""
    signal = torch.randn(GRAPH.possible.shape, generator=torch.Generator().manual_seed(99))
    return (signal + noise * torch.randn(n, *signal.shape, generator=torch.Generator().manual_seed(seed))) * GRAPH.possible


def direct(scores) -> dict[str, float]:
    return {"direct": scores.matrix[0, -1].item()}


def spread_of(*scores, statistic=direct, n_boot: int, seed: int = 0):
    (spread,) = intervals(bootstrap(statistic, *scores, n_boot=n_boot, seed=seed)).values()
    return spread


def test_an_interval_is_the_central_95_percent_of_the_defined_draws():
    spread = interval([*range(1001), float("nan")])
    assert (spread.mean, spread.low, spread.high, spread.n_draws) == (500.0, 25.0, 975.0, 1001)
    nothing = interval([float("nan")])
    assert math.isnan(nothing.low) and nothing.n_draws == 0
    assert intervals([{"x": 1.0}, {"x": 3.0}])["x"].mean == 2.0


def test_what_is_the_same_in_every_prompt_has_no_width(scored):
    constant = torch.ones(8, 1, 1) * 0.5 * GRAPH.possible
    spread = spread_of(scored(GRAPH, constant), n_boot=50)
    assert (spread.mean, spread.low, spread.high) == (0.5, 0.5, 0.5)


def test_intervals_of_a_mean_cover_it_as_often_as_they_say(scored):
    truth = noisy(1, 0, noise=0.0)[0, 0, -1].item()
    spreads = [spread_of(scored(GRAPH, noisy(40, seed)), n_boot=200, seed=seed) for seed in range(60)]
    covered = sum(spread.low <= truth <= spread.high for spread in spreads)
    assert 52 <= covered <= 60
    width = sum(spread.high - spread.low for spread in spreads) / 60
    assert width == pytest.approx(2 * 1.96 / 40**0.5, rel=0.1)


def test_both_models_are_resampled_on_the_same_prompts(scored):
    scores = scored(GRAPH, noisy(20, 0))
    spread = spread_of(scores, scores, statistic=lambda a, b: {"gap": (a.matrix - b.matrix).abs().max().item()}, n_boot=20)
    assert spread.high == 0.0


def test_the_seed_makes_the_draws(scored):
    scores = scored(GRAPH, noisy(20, 0))
    assert bootstrap(direct, scores, n_boot=20, seed=1) == bootstrap(direct, scores, n_boot=20, seed=1)
    assert bootstrap(direct, scores, n_boot=20, seed=1) != bootstrap(direct, scores, n_boot=20, seed=2)


def test_a_ceiling_is_one_without_noise_and_falls_with_it(scored):
    steady, loud = (ceiling(scored(GRAPH, noisy(30, 0, noise)), n=12, k=2) for noise in (0.0, 5.0))
    assert all(value == pytest.approx(1.0) for value in steady.values())
    assert set(steady) == {"edge_jaccard", "component_jaccard", "weighted_jaccard", "rank_biased_overlap", "spearman"}
    assert all(loud[name] < 1.0 for name in ("edge_jaccard", "weighted_jaccard", "spearman"))


def test_what_cannot_be_resampled_is_refused(scored):
    bare, one = scored(GRAPH, noisy(4, 0)[0]), scored(GRAPH, noisy(1, 0))
    for scores in (bare, one):
        with pytest.raises(ValueError, match="keep_per_example=True"):
            bootstrap(direct, scores)
        with pytest.raises(ValueError, match="keep_per_example=True"):
            ceiling(scores)
    with pytest.raises(ValueError, match="these come from 4, 5"):
        bootstrap(lambda a, b: {}, scored(GRAPH, noisy(4, 0)), scored(GRAPH, noisy(5, 0)))
