"""Statistics of trajectories: made-up predictions whose answers are known, brute force over cached patterns, and what they look like."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import kendalltau

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.denoising.job import Job
from hooked_diffusion.denoising.loop import Denoiser, Forward
from hooked_diffusion.denoising.settings import make_settings
from hooked_diffusion.denoising.statistics import order_table, position_table, run_again
from hooked_diffusion.denoising.trajectory_statistics import TrajectoryStatistics

MASK = 2
pytestmark = pytest.mark.filterwarnings("ignore:.*steps commit nothing")


@pytest.fixture(scope="module")
def mdm(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec("full", 1, MASK))


CANVAS = torch.tensor([[20, 9, MASK, MASK, 30, MASK, MASK], [4, 5, 6, MASK, 8, 9, 11]])


class Made(SimpleNamespace):
    """A made-up model. Unlike a plain namespace, a trajectory can remember it without keeping it."""


def made_up(*answers: list[int]) -> Any:
    """A stand-in that predicts `answers[number of tokens written so far]`, the more surely the further left."""

    def token_logits(canvas: torch.Tensor, attention_mask: Any = None) -> torch.Tensor:
        told = torch.tensor([answers[int((canvas != MASK).sum())]])
        return torch.nn.functional.one_hot(told, 10) * torch.tensor([5.0, 4.0, 3.0])[:, None]

    cfg = SimpleNamespace(device="cpu", d_vocab=10, model_name="made up", n_layers=0)
    spec = DiffusionSpec("full", 0, MASK)
    return Made(token_logits=token_logits, spec=spec, source={}, tokenizer=None, cfg=cfg, hooks=lambda fwd_hooks: nullcontext())


def test_when_a_token_settles_and_how_often_it_flips():
    model = made_up([5, 6, 7], [5, 8, 9], [5, 8, 7])
    job = Job.make(model, torch.full((1, 3), MASK), make_settings())
    trajectory = Denoiser(Forward(model, job), job).run()
    assert trajectory.tokens.tolist() == [[5, 8, 7]]
    table = position_table(trajectory, run_again(model, trajectory, attention=False)[0])
    assert table["step"].tolist() == [0, 1, 2]
    assert table["settled"].tolist() == [0, 1, 2]  # 7 was the first choice at step 0, but did not stay
    assert table["flips"].tolist() == [0, 1, 2]


def test_idle_steps_count_as_steps():
    model = made_up([5, 6, 7], [5, 6, 7], [5, 6, 7])
    job = Job.make(model, torch.full((1, 3), MASK), make_settings(steps=12, schedule="time_grid"))
    trajectory = Denoiser(Forward(model, job), job).run()
    table = position_table(trajectory, run_again(model, trajectory, attention=False)[0])
    assert table["settled"].tolist() == [0, 0, 0] and table["flips"].tolist() == [0, 0, 0]
    assert table["step"].min() > 0


def test_a_drawn_token_that_was_never_first_choice_is_never_settled(mdm):
    trajectory = mdm.denoise(CANVAS, temperature=5.0, seed=1)
    table = trajectory.statistics(mdm, attention=False).positions
    for line in table.itertuples():
        top = [int(mdm.token_logits(trajectory.canvases[k])[line.row, line.pos].argmax()) for k in range(line.step + 1)]
        stays = [k for k in range(line.step + 1) if all(t == line.token for t in top[k:])]
        assert line.settled == (stays[0] if stays else -1)
        assert line.flips == sum(a != b for a, b in zip(top, top[1:], strict=False))
    assert (table["settled"] == -1).any()


@pytest.mark.parametrize(("select", "tau"), [("left_to_right", 1.0), ("random", None)])
def test_order_is_kendalls_tau(mdm, select, tau):
    trajectory = mdm.denoise(CANVAS, select=select, seed=2)
    table = order_table(trajectory)
    assert table["row"].tolist() == [0, 1] and table["commits"].tolist() == [4, 1]
    expected, _ = kendalltau([2, 3, 5, 6], trajectory.commit_step[0, [2, 3, 5, 6]].tolist())
    first, second = table["tau"].tolist()
    assert first == pytest.approx(expected) and (tau is None or first == pytest.approx(tau))
    assert math.isnan(second)


def test_right_to_left_is_minus_one(mdm):
    def last_only(step: Any) -> torch.Tensor:
        later = step.masked.flip(1).cumsum(1).flip(1) > 1
        return step.masked & later

    table = order_table(mdm.denoise(CANVAS, freeze=last_only))
    assert table["tau"][0] == pytest.approx(-1.0)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_tables_are_what_brute_force_finds(mdm, padded):
    visible = torch.ones_like(CANVAS, dtype=torch.bool)
    visible[1, 0] = not padded
    trajectory = mdm.denoise(CANVAS, attention_mask=visible)
    found = trajectory.statistics(mdm)
    before = None
    for step in range(trajectory.steps):
        canvas, masked = trajectory.canvases[step], trajectory.masked_at(step)
        raw, cache = mdm.run_with_cache(canvas, attention_mask=visible)
        probs = mdm.align_logits(raw).softmax(-1)
        for group in ("masked", "visible"):
            places = [(r, p) for r in range(2) for p in range(7) if visible[r, p] and bool(masked[r, p]) == (group == "masked")]
            first = {r: 1 if padded and r == 1 else 0 for r in range(2)}
            read = [(r, p) for r, p in places if p != first[r]]
            line = found.steps[(found.steps["step"] == step) & (found.steps["positions"] == group)].iloc[0]
            assert line["n"] == len(read)
            if read:
                assert line["confidence"] == pytest.approx(sum(float(probs[r, p].max()) for r, p in read) / len(read), abs=1e-5)
                assert line["final"] == pytest.approx(
                    sum(float(probs[r, p, trajectory.tokens[r, p]]) for r, p in read) / len(read), abs=1e-5
                )
                entropy = sum(float(-(probs[r, p] * probs[r, p].log()).sum()) for r, p in read) / len(read)
                assert line["entropy"] == pytest.approx(entropy, abs=1e-4)
            for layer in range(2):
                pattern = cache["pattern", layer]
                at = found.attention.query("step == @step and layer == @layer and queries == @group").iloc[0]
                n = 4 * len(places)
                sink = sum(float(pattern[r, h, p, first[r]]) for r, p in places for h in range(4)) / n
                to_masked = sum(float(pattern[r, h, p, masked[r]].sum()) for r, p in places for h in range(4)) / n
                assert at["sink"] == pytest.approx(sink, abs=1e-5) and at["to_masked"] == pytest.approx(to_masked, abs=1e-5)
                if before is None:
                    assert math.isnan(at["drift"])
                else:
                    moved = [(pattern[r, h, p] - before["pattern", layer][r, h, p]).abs().sum() / 2 for r, p in places for h in range(4)]
                    assert at["drift"] == pytest.approx(float(sum(moved)) / n, abs=1e-5)
        before = cache


def test_idle_steps_do_not_drift_and_run_nothing(mdm, monkeypatch):
    trajectory = mdm.denoise(CANVAS, preset="dream", steps=20)
    forwards: list[int] = []
    run = HookedDiffusionTransformer.forward
    monkeypatch.setattr(HookedDiffusionTransformer, "forward", lambda self, *a, **k: forwards.append(1) or run(self, *a, **k))
    found = trajectory.statistics(mdm)
    assert len(forwards) == trajectory.forwards
    drift = found.attention.groupby("step")["drift"].sum()
    assert (drift[[not k or torch.equal(trajectory.canvases[k], trajectory.canvases[k - 1]) for k in range(20)]] == 0).all()
    assert sorted(found.attention["step"].unique()) == list(range(20))


def test_an_arms_trajectory_can_be_measured(native):
    arm = HookedDiffusionTransformer.from_hf(native())
    wanted = torch.zeros_like(CANVAS, dtype=torch.bool)
    wanted[:, 4:] = True
    found = arm.denoise(CANVAS, mask_positions=wanted).statistics(arm)
    assert (found.orders["tau"] == 1).all() and (found.positions["settled"] >= 0).all()


def test_statistics_draw_themselves(mdm):
    found = mdm.denoise(CANVAS).statistics(mdm)
    order = found.order_figure()
    assert list(order.data[0].x) == [2, 3, 5, 6] and "τ" in order.data[0].name
    assert len(found.confidence_figure().data) == 4
    heat = found.attention_figure("drift", "visible").data[0]
    assert heat.z.shape == (2, 4) and list(heat.y) == [0, 1]
    assert "TrajectoryStatistics" in found._repr_html_()
    assert found.to_dataframe()["tau"].notna().sum() == 4
    with pytest.raises(ValueError, match="choose from sink, to_masked, drift"):
        found.attention_figure("mass")
    with pytest.raises(ValueError, match="attention was not measured"):
        mdm.denoise(CANVAS).statistics(mdm, attention=False).attention_figure()


def test_statistics_survive_saving(mdm, tmp_path):
    found = mdm.denoise(CANVAS).statistics(mdm)
    found.save(tmp_path / "run.json")
    loaded = TrajectoryStatistics.load(tmp_path / "run.json")
    for name in ("orders", "positions", "steps", "attention"):
        torch.testing.assert_close(
            torch.tensor(getattr(loaded, name).select_dtypes("number").to_numpy(dtype=float)),
            torch.tensor(getattr(found, name).select_dtypes("number").to_numpy(dtype=float)),
            equal_nan=True,
        )
        assert list(getattr(loaded, name).columns) == list(getattr(found, name).columns)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no trajectory statistics"):
        TrajectoryStatistics.load(tmp_path / "other.json")
