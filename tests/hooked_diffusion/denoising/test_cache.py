"""Activations along a denoising run are those of `run_with_cache`, bit for bit."""

import pytest
import torch
from transformer_lens import ActivationCache
from transformers import LlamaConfig, LlamaForCausalLM

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.denoising import DenoisingCache
from hooked_diffusion.denoising.cache_folder import LazyTensors

MASK = 3
pytestmark = pytest.mark.filterwarnings("ignore:.*steps commit nothing")


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


NAMES = ["blocks.0.hook_resid_pre", "blocks.1.attn.hook_pattern"]


def test_a_folder_is_read_one_activation_at_a_time(mdm, tmp_path, monkeypatch):
    memory, cache = mdm.run_with_denoising_cache(CANVAS, steps=5, names_filter=NAMES)
    streamed, lazy = mdm.run_with_denoising_cache(CANVAS, steps=5, names_filter=NAMES, folder=tmp_path / "run")
    assert torch.equal(streamed.canvases, memory.canvases)
    again = DenoisingCache.load(tmp_path / "run", mdm)
    for found in (lazy, again):
        assert found.steps == cache.steps == (0, 1, 2, 3, 4)
        for step in cache:
            assert_same(found[step], cache[step])
        assert torch.equal(found.stack("pattern", -1), cache.stack("pattern", 1))
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert files == ["index.json", *(f"step-{step:05d}.safetensors" for step in range(4))]  # steps 3 and 4 share a canvas
    _, twice = mdm.run_with_denoising_cache(CANVAS, names_filter="blocks.0.hook_resid_post", folder=tmp_path / "twice")
    assert set(twice[0].cache_dict) == {"blocks.0.hook_resid_post", "blocks.0.hook_out"}  # one tensor by two names
    assert torch.equal(twice[0, "blocks.0.hook_out"], twice[0, "resid_post", 0])
    read: list[str] = []
    get = LazyTensors.__getitem__
    monkeypatch.setattr(LazyTensors, "__getitem__", lambda self, name: read.append(name) or get(self, name))
    again[2, "resid_pre", 0]
    assert read == ["blocks.0.hook_resid_pre"]


def test_a_folder_is_whole_or_not_there(mdm, tmp_path):
    def fail(activation, hook, step):
        if step.index == 1:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        mdm.run_with_denoising_cache(CANVAS, names_filter=NAMES, folder=tmp_path / "run", fwd_hooks=[(NAMES[0], fail)])
    assert not list(tmp_path.iterdir())
    (tmp_path / "run").mkdir()
    with pytest.raises(FileExistsError, match="give a new folder"):
        mdm.run_with_denoising_cache(CANVAS, names_filter=NAMES, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="is no denoising cache"):
        DenoisingCache.load(tmp_path / "run")


def test_a_filter_that_would_not_fit_is_refused_before_anything_is_committed(mdm, monkeypatch):
    forwards: list[int] = []
    run = HookedDiffusionTransformer.forward
    monkeypatch.setattr(HookedDiffusionTransformer, "forward", lambda self, *a, **k: forwards.append(1) or run(self, *a, **k))
    step = 2 * 6 * 32 * 4 + 2 * 4 * 6 * 6 * 4  # residuals and patterns, in bytes
    for chosen, canvases in (({}, 3), ({"steps": 40, "schedule": "time_grid"}, 2), ({"at_steps": [2]}, 1)):
        forwards.clear()
        with pytest.raises(ValueError, match="more than max_bytes.*or stream to a folder, or raise max_bytes"):
            mdm.run_with_denoising_cache(CANVAS, names_filter=NAMES, max_bytes=step * canvases - 1, **chosen)
        assert len(forwards) == 1
        mdm.run_with_denoising_cache(CANVAS, names_filter=NAMES, max_bytes=step * canvases, **chosen)


def test_streaming_needs_room_for_one_step(mdm, tmp_path):
    step = 2 * 6 * 32 * 4 + 2 * 4 * 6 * 6 * 4
    mdm.run_with_denoising_cache(CANVAS, names_filter=NAMES, folder=tmp_path / "run", max_bytes=step)
    with pytest.raises(ValueError, match="more than max_bytes"):
        mdm.run_with_denoising_cache(CANVAS, names_filter=NAMES, folder=tmp_path / "more", max_bytes=step - 1)
    assert not (tmp_path / "more").exists()


def test_precision_and_positions_are_what_is_kept(mdm):
    _, whole = mdm.run_with_denoising_cache(CANVAS, names_filter=NAMES)
    _, cache = mdm.run_with_denoising_cache(CANVAS, names_filter=NAMES, dtype=torch.bfloat16, positions=(1, 3), device="cpu")
    for step in cache:
        assert torch.equal(cache[step, NAMES[0]], whole[step, NAMES[0]][:, 1:3].bfloat16())
        for activation in cache[step].cache_dict.values():  # a slice has let go of the whole
            assert activation.untyped_storage().nbytes() == activation.numel() * activation.element_size()


def test_a_run_out_of_the_plan_is_stopped_when_it_grows(mdm):
    wish = torch.full_like(CANVAS, -1)
    step = 2 * 6 * 32 * 4
    with pytest.raises(ValueError, match="more than max_bytes"):
        mdm.run_with_denoising_cache(CANVAS, names_filter=NAMES[0], steps=9, force={0: wish}, max_bytes=8 * step)
    mdm.run_with_denoising_cache(CANVAS, names_filter=NAMES[0], steps=9, force={0: wish}, max_bytes=9 * step)


def test_padded_canvases_are_cached_with_their_padding(mdm):
    visible = torch.tensor([[False, True, True, True, True, True], [True] * 6])
    trajectory, cache = mdm.run_with_denoising_cache(CANVAS, attention_mask=visible)
    for step in cache:
        assert_same(cache[step], mdm.run_with_cache(trajectory.canvases[step], attention_mask=visible)[1])
