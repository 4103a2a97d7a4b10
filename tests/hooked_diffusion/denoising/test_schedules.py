"""Schedules, settings and plans: arithmetic, no model."""

from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.denoising.plan import Plan
from hooked_diffusion.denoising.schedules import commits_per_step, quota
from hooked_diffusion.denoising.settings import PRESETS, DenoisingSettings, Preset, SettingArguments, make_settings

SCHEDULES = ("even", "time_grid", "rounded", "bernoulli")


@pytest.mark.parametrize(("schedule", "plan"), [("time_grid", [2, 2, 2, 4]), ("even", [3, 3, 2, 2]), ("rounded", [2, 3, 2, 3])])
def test_ten_masks_in_four_steps(schedule, plan):
    assert commits_per_step(schedule, 10, 4) == plan


@pytest.mark.parametrize("n", [4, 10, 16, 32, 64])
def test_dreams_grid_with_a_step_per_mask_idles_first_and_ends_with_two(n):
    plan = commits_per_step("time_grid", n, n)
    assert (plan[0], plan[-1]) == (0, 2)
    assert set(plan[1:-1]) == {1}


def test_dreams_grid_with_many_steps_idles_for_most_of_them():
    plan = commits_per_step("time_grid", 32, 512)
    assert plan[:481] == [0] * 481
    assert sum(plan) == 32


@given(st.sampled_from(SCHEDULES), st.integers(0, 80), st.integers(1, 160))
def test_every_plan_commits_every_mask(schedule, n, steps):
    plan = commits_per_step(schedule, n, steps)
    assert len(plan) == steps
    assert sum(plan) == n
    assert min(plan) >= 0


@given(st.integers(0, 80), st.integers(1, 160))
def test_even_and_rounded_plans_idle_at_the_end_only(n, steps):
    even, rounded = commits_per_step("even", n, steps), commits_per_step("rounded", n, steps)
    assert even == sorted(even, reverse=True)
    assert [k > 0 for k in rounded] == sorted((k > 0 for k in rounded), reverse=True)


def test_a_quota_never_exceeds_what_is_left():
    assert quota("even", 10, 1, 0, 4) == 1


def test_a_passed_setting_beats_the_preset():
    settings = make_settings("dream", select="margin", steps=7, temperature=0.0, schedule=None)
    assert settings == DenoisingSettings(steps=7, select="margin", schedule="time_grid", tempered_scores=True, masked_by_token=True)
    assert make_settings("llada") == PRESETS["llada"]
    assert make_settings("dream", masked_by_token=False).masked_by_token is False


def test_the_default_order_follows_the_attention():
    assert make_settings().select == "confidence"
    assert make_settings(causal=True).select == "left_to_right"
    assert make_settings("llada", causal=True).select == "confidence"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("select", "certainty"),
        ("schedule", "cosine"),
        ("steps", 0),
        ("steps", 2.5),
        ("block_length", -4),
        ("eps", 1.0),
        ("eps", -0.1),
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("top_p", 1.2),
        ("top_k", 0),
        ("alg_temp", -0.5),
        ("threshold", -0.1),
        ("cfg_scale", -1.0),
        ("remask", 1.0),
        ("preset", "bert"),
    ],
)
def test_an_impossible_setting_is_named(setting, value):
    with pytest.raises(ValueError, match=setting):
        make_settings(**{setting: value})


def test_an_unknown_setting_is_named():
    unknown: Any = {"remasking": "low_confidence"}
    with pytest.raises(TypeError, match="no setting remasking; it has preset, steps, select, schedule, eps"):
        make_settings(**unknown)


def test_what_is_passed_by_name_is_what_the_settings_have():
    """The typed dictionary that editors read and the settings themselves list the same names, with the same types."""
    own, passed = get_type_hints(DenoisingSettings), get_type_hints(SettingArguments)
    assert own.keys() - passed.keys() == {"steps", "select"}
    for name, kind in passed.items():
        assert kind == (own[name] if name == "seed" else own[name] | None), name
    assert set(PRESETS) == set(get_args(Preset))


@pytest.mark.parametrize("seed", [None, 2**64, 0.5])
def test_a_seed_that_is_no_whole_number_of_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match="denoising: seed is a whole number"):
        make_settings("dream", seed=seed)


def masks(*rows: str) -> torch.Tensor:
    return torch.tensor([[c == "_" for c in row] for row in rows])


def follow(plan: Plan, masked: torch.Tensor) -> list[list[int]]:
    """Quotas per step when each step commits the leftmost open positions."""
    quotas = []
    for step in range(plan.steps):
        open_ = plan.reach(step, masked)
        now = plan.quotas(step, open_)
        quotas.append(now)
        for row, k in enumerate(now):
            masked[row, open_[row].nonzero()[:k, 0]] = False
    assert not masked.any()
    return quotas


def test_rows_have_their_own_quotas():
    assert follow(Plan.make(masks("..____", "....__"), DenoisingSettings(steps=3)), masks("..____", "....__")) == [[2, 1], [1, 1], [1, 0]]


def test_steps_default_to_the_fullest_row():
    assert Plan.make(masks("..____", "....__"), DenoisingSettings()).steps == 4


def test_blocks_open_one_after_another_each_with_its_share_of_the_steps():
    masked = masks(".__._._", "....._.")
    masked[1] = masked[0]
    plan = Plan.make(masked, DenoisingSettings(steps=4, block_length=2))
    opened = [plan.reach(step, masked)[0].tolist() for step in range(4)]
    assert opened[0] == opened[1] == [False, True, True, False, False, False, False]
    assert opened[2] == masked[0].tolist()
    assert follow(plan, masked.clone()) == [[1, 1]] * 4


def test_rows_with_more_blocks_have_fewer_steps_for_each():
    masked = masks("____", "__..")
    plan = Plan.make(masked, DenoisingSettings(steps=4, block_length=2))
    assert follow(plan, masked) == [[1, 1], [1, 1], [1, 0], [1, 0]]


def test_the_last_block_may_be_shorter_and_remainders_go_to_the_first():
    masked = masks("._____")
    assert follow(Plan.make(masked, DenoisingSettings(block_length=2)), masked.clone()) == [[1]] * 5
    plan = Plan.make(masked, DenoisingSettings(block_length=2, steps=4))
    assert plan.blocks.masks == ((2, 2, 1),) and plan.shares == ((2, 1, 1),)
    assert follow(plan, masked) == [[1], [1], [2], [1]]


def test_without_steps_every_row_commits_one_mask_per_step():
    masked = masks(".____", "...__", ".....")
    plan = Plan.make(masked, DenoisingSettings())
    assert plan.shares == ((4,), (2,), ())
    assert follow(plan, masked) == [[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]]


BLOCKWISE = DiffusionSpec("block", 0, 2, block_length=4)


def test_a_block_causal_models_blocks_lie_on_the_canvas():
    masked = masks("......____")  # positions 6 … 9: the second half of block 1, the first half of block 2
    plan = Plan.make(masked, DenoisingSettings(), BLOCKWISE)
    assert plan.blocks.masks == ((2, 2),)
    halves = Plan.make(masked, DenoisingSettings(block_length=1), BLOCKWISE)
    assert halves.blocks.masks == ((1, 1, 1, 1),)
    padded = Plan.make(masked, DenoisingSettings(), BLOCKWISE, visible=masks("..________"))
    assert padded.blocks.masks == ((4,),)  # two tokens of padding shift the blocks


def test_a_shifted_block_causal_model_commits_the_first_of_a_block_by_itself():
    spec = DiffusionSpec("block", 1, 2, block_length=4)
    masked = masks("...______")
    plan = Plan.make(masked, DenoisingSettings(), spec)
    assert plan.blocks.masks == ((1, 1, 3, 1),)
    assert plan.blocks.lead == ((False, True, False, True),)
    assert Plan.make(masked, DenoisingSettings(steps=4), spec).shares == ((1, 1, 1, 1),)
    assert Plan.make(masked, DenoisingSettings(steps=7), spec).shares == ((3, 1, 2, 1),)


def test_coins_are_tossed_for_each_mask_and_all_are_committed_at_last():
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([[quota("bernoulli", 6, 6, 1, 4, 0.0, generator)] for _ in range(4000)]).float()
    assert abs(counts.mean() - 6 / 3) < 0.06  # from t = 3/4 to s = 1/2: 1 − s/t = 1/3
    assert abs(counts.var() - 6 / 3 * 2 / 3) < 0.1
    assert quota("bernoulli", 6, 5, 3, 4, 0.0, generator) == 5


def test_threshold_is_a_way_of_selecting():
    assert make_settings(select="threshold") == DenoisingSettings(threshold=0.9)
    assert make_settings(select="threshold", threshold=0.5) == DenoisingSettings(threshold=0.5)
    assert make_settings("threshold", threshold=0.8).threshold == 0.8


@pytest.mark.parametrize(
    ("settings", "spec", "message"),
    [
        (DenoisingSettings(block_length=1, steps=3), None, "3 steps are fewer than the 4 blocks of row 0"),
        (DenoisingSettings(block_length=3), BLOCKWISE, "block_length 3 does not divide the 4 positions"),
    ],
)
def test_blocks_that_cannot_be_are_refused(settings, spec, message):
    with pytest.raises(ValueError, match=message):
        Plan.make(masks("..____"), settings, spec)
