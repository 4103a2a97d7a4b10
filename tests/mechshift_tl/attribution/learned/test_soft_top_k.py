"""Soft masks: their sums, their slopes against differences, and what they become when they are hard."""

from __future__ import annotations

import pytest
import torch

from mechshift_tl.attribution.learned.settings import MaskSettings
from mechshift_tl.attribution.learned.soft_top_k import by_rank, soft_top_k

SCORES = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIZES = torch.tensor([0.3, 3.0, 17.5, 39.9], dtype=torch.float64)


def test_masks_sum_to_their_sizes_and_follow_the_scores() -> None:
    masks = soft_top_k(SCORES, SIZES, 0.5)
    torch.testing.assert_close(masks.sum(1), SIZES, rtol=1e-6, atol=0)
    order = SCORES.argsort()
    assert (masks[:, order].diff(dim=1) > 0).all()
    torch.testing.assert_close(soft_top_k(SCORES + 7, SIZES, 0.5), masks)


def test_cold_masks_are_the_largest_scores() -> None:
    hard = soft_top_k(SCORES, torch.tensor([5.0], dtype=torch.float64), 1e-4)[0]
    assert torch.equal(hard.round().bool(), SCORES.topk(5).values[-1] <= SCORES)


def test_slopes_are_those_of_differences_at_a_constant_sum() -> None:
    torch.manual_seed(0)
    weights, way = torch.randn(2, 4, 40, dtype=torch.float64)
    scores = SCORES.clone().requires_grad_()
    (slope,) = torch.autograd.grad((soft_top_k(scores, SIZES, 0.5) * weights).sum(), scores)
    up, down = ((soft_top_k(SCORES + step * way[0], SIZES, 0.5) * weights).sum() for step in (1e-5, -1e-5))
    torch.testing.assert_close(slope @ way[0], (up - down) / 2e-5, rtol=1e-4, atol=0)
    assert slope.sum().abs() < 1e-6  # to raise all scores alike changes nothing


def test_a_rank_is_the_share_of_sizes_on_a_log_scale() -> None:
    found = by_rank(torch.tensor([2.0, 9.0, 2.0]))
    torch.testing.assert_close(found, 1 - torch.tensor([2.0, 1.0, 3.0]).log() / torch.tensor(4.0).log())


def test_sizes_fill_the_scale_of_roots_and_depend_on_seed_and_step_alone() -> None:
    settings = MaskSettings(smallest=0.01, largest=0.25)
    sizes = settings.sizes(3, 8, 1000)
    places = (((sizes / 1000).sqrt() - 0.1) / 0.4 * 8).sort().values
    assert torch.equal(places.floor(), torch.arange(8.0))
    assert torch.equal(settings.sizes(3, 8, 1000), sizes) and not torch.equal(settings.sizes(4, 8, 1000), sizes)
    assert MaskSettings(objective=7).sizes(0, 2, 1000).tolist() == [7.0, 7.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps is 0; give a whole number of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; give a finite number above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"objective": "one size"}, "objective is 'one size'; give 'all sizes', or one number of edges"),
        ({"objective": 0}, "objective is 0"),
        ({"loss": "kl"}, "loss is 'kl'; choose one of deficit, squared, metric"),
        ({"smallest": 0.5, "largest": 0.1}, "sizes run from 0.5 to 0.1"),
        ({"seed": 0.5}, "seed is a whole number"),
    ],
)
def test_settings_out_of_range_are_refused(given, message) -> None:
    with pytest.raises(ValueError, match=message):
        MaskSettings(**given)
