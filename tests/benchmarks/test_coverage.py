"""Coverage is counted right: of a mean it is near its nominal 95 %, of a statistic whose interval is moved away it is 0."""

from __future__ import annotations

import torch

from benchmarks.coverage import counted, covered

VALUES = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_coverage_of_a_mean() -> None:
    found = covered("mean", lambda drawn: VALUES[drawn].mean(1), 400, 60, samples=300, draws=200)
    assert found.truth == VALUES.mean().item()
    assert 0.89 <= found.percentile <= 0.99 and 0.89 <= found.normal <= 0.99
    assert 0.3 < found.width / VALUES.std() < 0.7  # 3.92 / √60 is 0.51


def test_a_biased_statistic_is_not_covered() -> None:
    found = covered("largest", lambda drawn: VALUES[drawn].max(1).values, 400, 20, samples=50, draws=50)
    assert found.percentile < 0.5


def test_counts() -> None:
    assert counted(torch.tensor([[0, 2, 2], [1, 1, 1]]), 4).tolist() == [[1, 0, 2, 0], [0, 3, 0, 0]]
