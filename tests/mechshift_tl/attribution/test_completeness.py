"""Which quadrature rule closes the completeness gap fastest per forward: on IOI of the bundled pair, whose metric is smooth on the path.

Each point of a path costs one forward and one backward under every rule, so rules are compared at equal numbers of points. On Countdown,
where the metric bends sharply, no order holds at few points: the ends' rules are sometimes closest by chance.
"""

from __future__ import annotations

import pytest

from hooked_diffusion import load_pair
from mechshift_tl import attribute
from mechshift_tl.readouts import readouts
from mechshift_tl.tasks import IOI

RULES = ("left", "right", "midpoint", "gauss-legendre")


@pytest.fixture(scope="module", params=["arm", "mdm"])
def gaps(request) -> dict[tuple[str, int], float]:
    """|completeness gap|, as a share of the effect, by rule and number of points."""
    pair = load_pair("tiny")
    assert pair.tokenizer is not None
    model = getattr(pair, request.param)
    rows = readouts(model, IOI().examples(pair.tokenizer, n=3, seed=0))
    return {(rule, m): abs(attribute(model, rows, ig_steps=m, rule=rule).completeness_gap) for rule in RULES for m in (4, 8)}


def test_gauss_legendre_closes_it_fastest_then_the_midpoint(gaps) -> None:
    for m in (4, 8):
        assert gaps["gauss-legendre", m] < gaps["midpoint", m] < min(gaps["left", m], gaps["right", m])


def test_four_points_come_within_one_per_cent_but_not_at_the_ends_of_the_intervals(gaps) -> None:
    assert max(gaps["gauss-legendre", 4], gaps["midpoint", 4]) < 0.01
    assert min(gaps["left", 8], gaps["right", 8]) > 0.05


def test_twice_the_points_halve_quarter_or_all_but_close_it(gaps) -> None:
    left, right, midpoint, gauss = (gaps[rule, 4] / gaps[rule, 8] for rule in RULES)
    assert left == pytest.approx(2, rel=0.3) and right == pytest.approx(2, rel=0.3)
    assert midpoint == pytest.approx(4, rel=0.3)
    assert gauss > 10
