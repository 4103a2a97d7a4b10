"""Early share and spread are those of the tables; a gain counts only where it exceeds the control and the ARM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mechshift_tl.attribution import EdgeScores
from mechshift_tl.circuits import Circuit
from mechshift_tl.compare.depth import depth_profile, early_share
from mechshift_tl.graph import Graph
from mechshift_tl.study import TaskStudy
from mechshift_tl.study.gains import Gain, early_shares, spreads
from mechshift_tl.views.specialisation import participation_ratio

GRAPH = Graph(3, 2, 2)


def test_early_share_of_all_edges(scored: Callable[..., EdgeScores]) -> None:
    parts = torch.randn(6, *GRAPH.possible.shape, generator=torch.Generator().manual_seed(0)) * GRAPH.possible
    scores = scored(GRAPH, parts)
    counts = torch.tensor([[1.0] * 6, [0, 0, 3, 1, 2, 0], [6, 0, 0, 0, 0, 0]], dtype=torch.float64)
    drawn = [range(6), [2, 2, 2, 3, 4, 4], [0] * 6]
    for cut in (1, 2):
        found = early_shares(scores, cut, counts)
        for share, examples in zip(found.tolist(), drawn, strict=True):
            whole = Circuit.from_scores(scores.resample(list(examples)), fraction=1.0, prune=False)
            assert share == pytest.approx(early_share(depth_profile(whole), cut), abs=1e-6)


def test_early_share_needs_prompts(scored: Callable[..., EdgeScores]) -> None:
    with pytest.raises(ValueError, match="keep_per_example"):
        early_shares(scored(GRAPH, {("input", "m0"): 1.0}), 1, torch.ones(1, 1))


def test_spread_is_the_participation_ratio(task_study: TaskStudy) -> None:
    lens = task_study.lenses["arm"]
    n = int(lens.example.max()) + 1
    counts = torch.ones(2, n, dtype=torch.float64)
    counts[1] = torch.arange(n)
    rows = [i for i, layer in enumerate(lens.layers) if layer >= 0]
    found = spreads(lens, counts)
    assert found[0].exp().item() == pytest.approx(participation_ratio(lens.effects[rows]).item())
    drawn = ((lens.answer - lens.foil)[rows] * counts[1][lens.example.long()]).sum(1)
    assert found[1].exp().item() == pytest.approx(participation_ratio(drawn).item(), rel=1e-5)


def test_a_gain_exceeds_both(tmp_path: Path) -> None:
    found = {"arm": torch.tensor([0.5, 0.5, 0.6]), "control": torch.tensor([0.3, 0.4, 0.3]), "mdm": torch.tensor([0.52, 0.3, 0.7])}
    gain = Gain.of("mdm", ("control", "arm"), {role: one.double() for role, one in found.items()}, 4)
    assert gain.value == pytest.approx(0.02) and gain.draws.tolist() == pytest.approx([-0.2, 0.1])
    assert gain.statistics == pytest.approx({"mdm": 0.52, "control": 0.3, "arm": 0.5})
    assert gain.interval.n_draws == 2 and gain.n == 4
    gain.save(tmp_path / "g.safetensors")
    assert torch.equal(Gain.load(tmp_path / "g.safetensors").draws, gain.draws)
