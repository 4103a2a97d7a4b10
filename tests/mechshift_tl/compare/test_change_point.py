"""Trajectories whose truth is known: a step, a ramp, nothing; prompts as noisy, and as alike over checkpoints, as real ones."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
import torch
from torch import Tensor

from mechshift_tl.compare import change_point as module
from mechshift_tl.compare.change_fit import Fit
from mechshift_tl.compare.change_point import CANNOT_TELL, ChangePoint, change_point
from mechshift_tl.compare.change_power import smallest_change
from mechshift_tl.compare.change_shapes import Shapes
from mechshift_tl.compare.moves_first import moves_first, probability_before

#: Steps of the bundled pair's checkpoints.
STEPS = (0, 20, 50, 100, 200, 400, 1200, 3800)
TOKENS = [2000 * step for step in STEPS]
N_PROMPTS, N_BOOT, SEEDS = 40, 200, 200
RIGHT = {"step": "abrupt", "ramp": "gradual", "constant": CANNOT_TELL}


class Truth:
    """Statistics that are means over prompts. Their noise has a variance of 1, of which `alike` is common to all checkpoints."""

    def __init__(self, alike: float, wobble: float = 0) -> None:
        self.alike, self.wobble, self.shapes = alike, wobble, Shapes.of(TOKENS)

    def drawn(self, kind: str, size: float, seed: int) -> tuple[list[float], Tensor]:
        """Values and draws of one trajectory of a kind, at a place of its own."""
        generator = torch.Generator().manual_seed(seed)
        common, own = (torch.randn(N_PROMPTS, n, generator=generator, dtype=torch.float64) for n in (1, len(TOKENS)))
        noise = (self.alike**0.5 * common + (1 - self.alike) ** 0.5 * own) * N_PROMPTS**0.5
        rows = self.shapes.rise[self.shapes.kinds == ["constant", "step", "ramp"].index(kind)]
        truth = size * rows[torch.randint(len(rows), (1,), generator=generator)]
        truth = truth + self.wobble * torch.randn(1, len(TOKENS), generator=generator, dtype=torch.float64)
        drawn = torch.randint(N_PROMPTS, (N_BOOT, N_PROMPTS), generator=generator)
        return (truth + noise).mean(0).tolist(), (truth + noise)[drawn].mean(1)

    def power(self) -> float:
        """The smallest change that can be told, as an average trajectory states it."""
        fits = [Fit.of(self.shapes, self.drawn("constant", 0, seed)[1]) for seed in range(900, 903)]
        return sorted(smallest_change(fit, self.wobble) for fit in fits)[1]


SLOW = [pytest.param(alike, 0.0, marks=pytest.mark.slow) for alike in (0.0, 0.9)]


@pytest.mark.parametrize(("alike", "wobble"), [(0.5, 0.0), (0.5, 1.0), *SLOW])
def test_steps_ramps_and_nothing_are_told_in_95_percent_of_200_seeds(alike: float, wobble: float, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = Truth(alike, wobble)
    size = 1.2 * truth.power()
    assert size < inf
    # Its simulations were made once, for `power`: every seed has the same design.
    monkeypatch.setattr(module, "smallest_change", lambda *given: nan)
    for kind, right in RIGHT.items():
        said = [change_point("made", TOKENS, *truth.drawn(kind, size, seed)).answer for seed in range(SEEDS)]
        assert said.count(right) >= 0.95 * SEEDS, (kind, {one: said.count(one) for one in said})


@pytest.mark.parametrize("kind", ["step", "ramp"])
def test_a_change_too_small_to_tell_is_seldom_told_wrong(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "smallest_change", lambda *given: nan)
    truth, wrong = Truth(0.5), ({"abrupt", "gradual"} - {RIGHT[kind]}).pop()
    for size in (1.0, 3.0, 5.0):
        said = [change_point("made", TOKENS, *truth.drawn(kind, size, seed)).answer for seed in range(SEEDS)]
        assert said.count(wrong) <= 0.05 * SEEDS


def test_the_interval_holds_the_change_in_95_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "smallest_change", lambda *given: nan)
    truth, held = Truth(0.5), 0
    gaps = torch.tensor(TOKENS, dtype=torch.float64)
    for seed in range(SEEDS):
        values, draws = truth.drawn("constant", 0, seed)
        gap = seed % (len(TOKENS) - 1)
        found = change_point("made", TOKENS, [value + 12 * (i > gap) for i, value in enumerate(values)], draws)
        # The whole gap, less what 5 % may leave out at its ends.
        held += found.changed and found.low >= gaps[gap] and found.high <= gaps[gap + 1] and found.low < found.at < found.high
    assert held >= 0.95 * SEEDS


def test_shapes_by_hand() -> None:
    shapes = Shapes.of([0, 10, 100, 1000, 10_000])
    assert shapes.axis.tolist() == [0, 1, 2, 3, 4]
    assert shapes.kinds.tolist().count(1) == 4
    assert shapes.rise[1:5].tolist() == [[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]
    assert [0, 0.25, 0.5, 0.75, 1] in shapes.rise[5:].tolist()
    # Two gaps and a half are the least: two fifths of the change in each whole one.
    assert (shapes.end - shapes.start)[5:].min() == 2.5 and shapes.rise[5:].diff(dim=1).max() == pytest.approx(0.4)
    assert [shapes.at_tokens(place) for place in (0.0, 0.5, 1.0, 1.5, 4.0)] == pytest.approx([0, 5, 10, 10**1.5, 10_000])


def test_weights_are_those_of_a_brute_force_sum() -> None:
    shapes = Shapes.of(TOKENS)
    truth = Truth(0.5)
    values, draws = truth.drawn("step", 6, 3)
    fit = Fit.of(shapes, draws)
    found = fit.weights(torch.tensor([values], dtype=torch.float64))[..., 0]
    y, one, brute = torch.tensor(values, dtype=torch.float64), torch.ones(len(TOKENS), dtype=torch.float64), torch.zeros_like(found)
    for i, wobble in enumerate((0.0, 0.5, 1.0, 2.0, 4.0, 8.0)):
        noise = fit.noise + (wobble * fit.sd) ** 2 * torch.eye(len(y), dtype=torch.float64)
        whiten = torch.linalg.cholesky(noise).inverse()
        for j, rise in enumerate(shapes.rise):
            design = torch.stack([one, rise], 1)[:, : 1 if j == 0 else 2]
            levels = torch.linalg.lstsq(whiten @ design, (whiten @ y)[:, None]).solution
            rest = whiten @ (y - (design @ levels)[:, 0])
            alike = int((shapes.kinds == shapes.kinds[j]).sum())
            brute[i, j] = (-(rest @ rest + noise.logdet()) / 2).exp() * len(y) ** (-design.shape[1] / 2) / alike
    assert torch.allclose(found, brute / brute.sum(), atol=1e-9)


def test_a_statistic_that_is_exact_at_the_start_is_no_reason_to_be_sure() -> None:
    values, draws = Truth(0.0).drawn("constant", 0, 5)
    draws[:, 0], values[0] = 0.0, 0.0
    assert change_point("made", TOKENS, values, draws).answer == CANNOT_TELL


def test_too_little_is_an_answer() -> None:
    draws = torch.randn(50, 8)
    few = change_point("made", TOKENS, [nan] * 4 + [1.0] * 4, draws)
    assert (few.answer, few.probability) == (CANNOT_TELL, {}) and "4 checkpoints" in few.finding()
    exact = change_point("made", TOKENS, [1.0] * 8, torch.ones(50, 8))
    assert exact.answer == CANNOT_TELL and "same on every draw" in exact.why
    with pytest.raises(ValueError, match="7 values"):
        change_point("made", TOKENS, [1.0] * 7, draws)
    with pytest.raises(ValueError, match="ascending"):
        change_point("made", TOKENS[::-1], [1.0] * 8, draws)


def at_gap(name: str, gap: int, seed: int = 0) -> ChangePoint:
    values, draws = Truth(0.5).drawn("constant", 0, seed)
    return change_point(name, TOKENS, [value + 15 * (i > gap) for i, value in enumerate(values)], draws)


def test_which_moves_first() -> None:
    early, late, still = at_gap("depth", 1), at_gap("accuracy", 4, 1), at_gap("overlap", 9, 2)
    found = moves_first([late, early, still])
    assert (found.first, found.unchanged) == ("depth", ("overlap",))
    assert found.before["depth"]["accuracy"] == pytest.approx(1, abs=1e-3)
    together = moves_first([early, at_gap("accuracy", 1, 1)])
    assert together.first == CANNOT_TELL and together.before["depth"]["accuracy"] == pytest.approx(0.5, abs=0.05)
    assert moves_first([still]).first == CANNOT_TELL
    assert probability_before(early, early) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="name of its own"):
        moves_first([early, replace(late, name="depth")])


def test_it_comes_back_from_its_file(tmp_path) -> None:
    found = at_gap("depth", 2)
    found.save(tmp_path / "change.json")
    assert ChangePoint.load(tmp_path / "change.json") == found
    assert found.figure().data and "abrupt" in found.finding()
