"""Activations along a denoising run are those of `run_with_cache`, bit for bit."""

import pytest
import torch
from transformer_lens import ActivationCache
from transformers import LlamaConfig, LlamaForCausalLM

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer

MASK = 3


@pytest.fixture(scope="module", params=[0, 1], ids=["shift0", "shift1"])
def mdm(request) -> HookedDiffusionTransformer:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return HookedDiffusionTransformer.from_hf(LlamaForCausalLM(config), spec=DiffusionSpec("full", request.param, MASK))


CANVAS = torch.tensor([[20, 9, MASK, MASK, 30, MASK], [4, 5, 6, MASK, 8, 9]])


def assert_same(found: ActivationCache, expected: ActivationCache) -> None:
    assert found.cache_dict.keys() == expected.cache_dict.keys()
    for name, activation in expected.cache_dict.items():
        assert torch.equal(found[name], activation), name


@pytest.mark.parametrize(
    "chosen", [{}, {"steps": 2}, {"steps": 9, "schedule": "time_grid"}, {"steps": 5}, {"preset": "dream", "steps": 8}], ids=str
)
def test_every_hook_of_every_step_is_bit_equal(mdm, chosen):
    trajectory, cache = mdm.run_with_denoising_cache(CANVAS, **chosen)
    assert cache.steps == tuple(range(trajectory.steps))
    for step in cache:
        _, expected = mdm.run_with_cache(trajectory.canvases[step])
        assert "blocks.1.attn.hook_pattern" in expected.cache_dict
        assert_same(cache[step], expected)


def test_the_trajectory_is_that_of_denoise(mdm):
    kept, _ = mdm.run_with_denoising_cache(CANVAS, steps=4, select="entropy", names_filter="blocks.0.hook_resid_pre", at_steps=[1])
    plain = mdm.denoise(CANVAS, steps=4, select="entropy")
    for name in ("canvases", "commit_step", "confidence"):
        assert torch.equal(getattr(kept, name), getattr(plain, name))
    assert kept.forwards == plain.forwards


def test_steps_that_share_a_canvas_share_a_forward(mdm):
    trajectory, cache = mdm.run_with_denoising_cache(CANVAS, steps=6)
    assert trajectory.forwards == 4  # three commits; the idle steps 3, 4 and 5 share the finished canvas
    assert cache[3] is cache[4] is cache[5]
    late, _ = mdm.run_with_denoising_cache(CANVAS, steps=20, schedule="time_grid", at_steps=[0])
    assert late.forwards == mdm.denoise(CANVAS, steps=20, schedule="time_grid").forwards


def test_names_filter_steps_and_positions_narrow_the_cache(mdm):
    name = "blocks.1.attn.hook_pattern"
    trajectory, cache = mdm.run_with_denoising_cache(
        CANVAS, names_filter=lambda n: n.endswith(("hook_pattern", "hook_resid_post")), at_steps=[2, 0], positions=(3, 5)
    )
    assert cache.steps == (0, 2)
    assert len(cache) == 2
    _, whole = mdm.run_with_cache(trajectory.canvases[2])
    assert torch.equal(cache[2, name], whole[name][:, :, 3:5])
    assert torch.equal(cache[2, "resid_post", 0], whole["resid_post", 0][:, 3:5])
    assert all(key.endswith(("hook_pattern", "hook_resid_post")) for key in cache[0].cache_dict)


def test_stack_has_a_step_axis(mdm):
    trajectory, cache = mdm.run_with_denoising_cache(CANVAS, names_filter="blocks.0.hook_resid_pre")
    stacked = cache.stack("resid_pre", 0)
    assert stacked.shape == (3, 2, 6, 32)
    for step in cache:
        assert torch.equal(stacked[step], mdm.run_with_cache(trajectory.canvases[step])[1]["resid_pre", 0])


def test_hooks_set_by_the_caller_act_on_every_step(mdm):
    def silence(activation, hook):
        return torch.zeros_like(activation)

    with mdm.hooks(fwd_hooks=[("blocks.0.attn.hook_z", silence)]):
        trajectory, cache = mdm.run_with_denoising_cache(CANVAS, names_filter="blocks.0.attn.hook_out")
    assert not cache.stack("blocks.0.attn.hook_out").any()
    assert not torch.equal(trajectory.confidence, mdm.denoise(CANVAS).confidence)


@pytest.mark.parametrize("at_steps", [[3], [-1], []])
def test_steps_outside_the_run_are_refused(mdm, at_steps):
    with pytest.raises(ValueError, match="at_steps lies in 0 … 2"):
        mdm.run_with_denoising_cache(CANVAS, at_steps=at_steps)


def test_steps_that_were_not_recorded_are_named(mdm):
    _, cache = mdm.run_with_denoising_cache(CANVAS, at_steps=[0, 1], names_filter="hook_embed")
    with pytest.raises(KeyError, match="step 2 was not recorded; recorded are 0, 1"):
        cache[2]
    assert repr(cache) == "DenoisingCache of steps 0, 1"
