"""Quadrature rules, by what they integrate exactly."""

from __future__ import annotations

import pytest

from mechshift_tl.attribution.path import quadrature


def integral(rule, steps: int, power: int) -> float:
    return sum(weight * alpha**power for alpha, weight in quadrature(rule, steps))


@pytest.mark.parametrize("rule", ["midpoint", "gauss-legendre", "right", "left"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_weights_sum_to_one_and_points_lie_on_the_path(rule, steps: int) -> None:
    points = quadrature(rule, steps)
    assert len(points) == steps and sum(weight for _, weight in points) == pytest.approx(1)
    assert all(0 <= alpha <= 1 for alpha, _ in points)


def test_the_grids() -> None:
    assert quadrature("right", 1) == [(1.0, 1.0)]
    assert [alpha for alpha, _ in quadrature("left", 5)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert [alpha for alpha, _ in quadrature("right", 5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert [alpha for alpha, _ in quadrature("midpoint", 5)] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_the_degrees_that_are_exact() -> None:
    assert integral("midpoint", 3, 1) == pytest.approx(1 / 2)
    assert [integral("gauss-legendre", 3, power) for power in range(6)] == pytest.approx([1 / (power + 1) for power in range(6)])
    assert integral("gauss-legendre", 3, 6) != pytest.approx(1 / 7, rel=1e-6)


def test_the_midpoint_error_falls_with_the_square() -> None:
    coarse, fine = (integral("midpoint", steps, 2) - 1 / 3 for steps in (4, 8))
    assert coarse / fine == pytest.approx(4)
