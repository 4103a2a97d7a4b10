"""Specialisation of three models beside each other, on lenses made so that the truth is known."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from mechshift_tl.compare.specialisation import MEAN, TOGETHER, SpecialisationComparison, compare_specialisation
from mechshift_tl.graph import Graph
from mechshift_tl.views import ComponentLens

N, HEADS = 40, 6


def lens_of(effects: torch.Tensor, seed: int = 0) -> ComponentLens:
    """A lens of heads whose effects are `effects (steps, heads)`, plus noise; every example has one read per step."""
    steps, heads = effects.shape
    noise = 0.05 * torch.randn(heads, N * steps, generator=torch.Generator().manual_seed(seed))
    step = torch.arange(steps).repeat_interleave(N)
    answer = effects[step].T + noise
    rank = torch.where(effects[step].T > 0.5, 0.0, 30.0)
    return ComponentLens(
        [f"a0.h{i}" for i in range(heads)], Graph(1, heads, heads), answer, torch.zeros_like(answer), rank, torch.full_like(rank, 30.0),
        rank, answer**2, rank.int(), step, torch.arange(N).repeat(steps), {}, 0.0,
    )  # fmt: skip


def focused(at: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(at), HEADS).float() * HEADS


@pytest.fixture(scope="module")
def found() -> SpecialisationComparison:
    """The ARM works with one head; the MDM's effect is spread; the control's heads take turns, one at each step."""
    lenses = {
        "arm": lens_of(focused(0).repeat(HEADS, 1)),
        "mdm": lens_of(torch.ones(HEADS, HEADS), 1),
        "control": lens_of(torch.stack([focused(i) for i in range(HEADS)]), 2),
    }
    return compare_specialisation(lenses, d_vocab=100, n_boot=50)


def test_a_spread_is_told_from_an_average_over_steps(found) -> None:
    ratio = {role: [found.of("participation_ratio", role, scope)["value"] for scope in (TOGETHER, MEAN)] for role in found.roles}
    assert ratio["arm"] == pytest.approx([1, 1], abs=0.1)
    assert ratio["mdm"] == pytest.approx([HEADS, HEADS], abs=0.1)
    assert ratio["control"] == pytest.approx([HEADS, 1], abs=0.1)


def test_contrasts_hold_the_truth(found) -> None:
    for contrast, scope, truth in (("MDM − ARM", TOGETHER, 6), ("MDM − control", TOGETHER, 1), ("MDM − control", MEAN, 6)):
        assert found.of("participation_ratio", contrast, scope)["value"] == pytest.approx(truth, rel=0.1)
    assert found.of("naming", "MDM − ARM")["value"] == 5
    assert found.of("with_effect", "arm", "step 0")["value"] <= found.components


def test_finding_says_what_is_supported(found) -> None:
    first, second = found.finding().split("ported: ", 2)[:2]
    assert first.endswith("Sup") and "than the ARM: ratio" in second
    assert "Not supported: the MDM spreads its work over more components than the control" in found.finding()


def test_an_interval_is_that_of_a_bootstrap_written_out() -> None:
    lens = lens_of(torch.ones(2, 4) + torch.arange(4) / 4)
    found = compare_specialisation({"arm": lens}, d_vocab=50, n_boot=60, seed=5).of("participation_ratio", "arm")
    drawn = torch.randint(N, (60, N), generator=torch.Generator().manual_seed(5))
    values = []
    for examples in drawn:
        reads = torch.cat([(lens.example == e).nonzero()[:, 0] for e in examples])
        sizes = lens.answer[:, reads].mean(1).abs()
        values.append((sizes.sum() ** 2 / (sizes**2).sum()).item())
    low, high = torch.tensor(values).double().quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    assert (found["low"], found["high"]) == pytest.approx((low, high), rel=1e-5)


def test_sensitivity_counts_more_with_more_tokens_and_less_effect(found) -> None:
    frame = found.sensitivity
    for role in found.roles:
        grid = frame.pivot(index="top", columns="least", values=role)
        assert (grid.diff().iloc[1:] >= 0).all(axis=None) and (grid.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)
    assert found.chance == pytest.approx(1 - 0.95**2)


def test_shown_saved_and_loaded(found, tmp_path) -> None:
    found.save(tmp_path / "found.json")
    again = SpecialisationComparison.load(tmp_path / "found.json")
    pd.testing.assert_frame_equal(again.to_dataframe(), found.to_dataframe())
    assert again.finding() == found.finding() and found.finding() in found._repr_html_().replace("&#39;", "'")
    assert len(found.figure().data) == 4 * 2 * 3 and "silent heads added" in found.to_dataframe()
    with pytest.raises(KeyError, match="no 'gini' of 'other'"):
        found.of("gini", "other")


def test_lenses_of_other_prompts_are_refused() -> None:
    lens = lens_of(torch.ones(1, 4))
    with pytest.raises(ValueError, match="different examples"):
        compare_specialisation({"arm": lens, "mdm": replace(lens, example=torch.arange(N) % 9)}, d_vocab=50)
