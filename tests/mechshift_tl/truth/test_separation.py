"""Area under the curve and average precision, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mechshift_tl.truth.separation import auroc, average_precision


def test_areas_are_counted_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, true = rng.integers(-3, 4, 12).astype(float), rng.random(12) < 0.4
        if true.all() or not true.any():
            continue
        sizes = np.abs(scores)
        pairs = [(a > b) + 0.5 * (a == b) for a in sizes[true] for b in sizes[~true]]
        assert auroc(scores, true) == pytest.approx(np.mean(pairs))


def test_precision_at_every_true_edge() -> None:
    scores, true = np.array([4.0, -3, 2, 1]), np.array([True, False, True, False])
    assert average_precision(scores, true) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4), true) == pytest.approx(0.5)


def test_rounding_is_a_tie_and_one_kind_has_no_area() -> None:
    true = np.array([True, True, False])
    assert auroc(np.array([1.0, 0, 1e-9]), true) == 0.75
    assert np.isnan(auroc(np.ones(3), np.ones(3, bool)))
    assert np.isnan(average_precision(np.ones(3), np.zeros(3, bool)))
