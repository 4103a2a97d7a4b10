"""Draws of examples: whole, of a size that memory holds, and the same for the same seed."""

from __future__ import annotations

from math import isnan, nan
from typing import Any

import pytest
import torch

from mechshift_tl.intervals import check_draws, draw_counts, drawn_examples, judged, normal_interval, seeded


def test_counts_are_those_of_the_drawn_examples() -> None:
    drawn, counts = drawn_examples(5, 20, seed=3), draw_counts(5, 20, seed=3)
    assert drawn.shape == counts.shape == (20, 5) and counts.dtype == torch.float64
    for row, count in zip(drawn, counts, strict=True):
        assert torch.equal(torch.bincount(row, minlength=5).double(), count)
    assert torch.equal(drawn, drawn_examples(5, 20, seed=3)) and not torch.equal(drawn, drawn_examples(5, 20, seed=4))
    assert draw_counts(5, 0).shape == (0, 5)


@pytest.mark.parametrize("n_boot", [0, -1, 2.5, "many", None])
def test_draws_that_cannot_be_are_refused(n_boot: Any) -> None:
    with pytest.raises(ValueError, match="n_resamples is .*; an interval needs at least 1 draw"):
        check_draws(n_boot, "n_resamples")


def test_more_draws_than_memory_holds_are_refused_before_they_are_made() -> None:
    with pytest.raises(ValueError, match="n_boot is 1000000000000: .* do not fit; give n_boot of at most 671088"):
        drawn_examples(100, 10**12)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 0.5, None, "0"])
def test_a_seed_is_a_whole_number_of_64_bits(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed is .*; give a whole number from"):
        seeded(seed)


def test_the_widest_seeds_are_taken() -> None:
    for seed in (2**64 - 1, -(2**63)):
        assert torch.equal(torch.rand(3, generator=seeded(seed)), torch.rand(3, generator=seeded(seed)))


def test_a_verdict_begins_with_one_of_two_words() -> None:
    assert (judged(True), judged(False)) == ("Supported", "Not supported")


def test_an_interval_by_the_spread_of_the_draws() -> None:
    found = normal_interval(0.9, [0.7, 0.8, nan, 0.9], 0, 1)
    sd = (0.02 / 3) ** 0.5
    assert (found.mean, found.low, found.high, found.n_draws) == (pytest.approx(0.8), pytest.approx(0.9 - 1.96 * sd), 1, 3)
    assert isnan(normal_interval(0.5, []).low)
