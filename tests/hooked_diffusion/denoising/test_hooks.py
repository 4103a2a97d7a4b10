"""Watching and steering a run: hooks that know the step, patches between runs, forced and frozen commits, resuming, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.denoising import DenoisingStep, DenoisingTrajectory, patch_from

MASK = 2
pytestmark = pytest.mark.filterwarnings("ignore:.*steps commit nothing")
RESID = "blocks.1.hook_out"
EMBED = "blocks.0.hook_in"
CANVAS = torch.tensor([[20, 9, MASK, MASK, 30, MASK], [4, 5, 6, MASK, 8, 9]])
OTHER = torch.tensor([[21, 7, MASK, MASK, 11, MASK], [14, 15, 16, MASK, 18, 19]])


@pytest.fixture(scope="module", params=[0, 1], ids=["shift0", "shift1"])
def mdm(request, native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec("full", request.param, MASK))


def same(one: DenoisingTrajectory, other: DenoisingTrajectory) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("canvases", "masked", "commit_step", "confidence"))


def silence(activation: torch.Tensor, hook: Any, step: DenoisingStep) -> torch.Tensor:
    return torch.zeros_like(activation)


def test_a_hook_sees_where_the_run_stands(mdm):
    seen: list[tuple[str, DenoisingStep, torch.Tensor]] = []

    def watch(activation: torch.Tensor, hook: Any, step: DenoisingStep) -> None:
        seen.append((hook.name, step, activation.clone()))

    trajectory = mdm.run_with_denoising_hooks(CANVAS, fwd_hooks=[(RESID, watch)], block_length=2)
    assert same(trajectory, mdm.denoise(CANVAS, block_length=2))
    assert [step.index for _, step, _ in seen] == [0, 1, 2]
    for name, step, activation in seen:
        assert name == RESID and step.steps == 3
        assert torch.equal(step.canvas, trajectory.canvases[step.index])
        assert torch.equal(step.masked, trajectory.masked_at(step.index))
        assert torch.equal(activation, mdm.run_with_cache(step.canvas)[1][RESID])
    assert [step.noise.tolist() for _, step, _ in seen] == [[1.0, 1.0], [pytest.approx(2 / 3), 0.0], [pytest.approx(1 / 3), 0.0]]
    assert [step.block.tolist() for _, step, _ in seen] == [[0, 0], [0, 0], [1, 0]]
    assert seen[0][1].open[0].tolist() == [False, False, True, True, False, False]  # block 0: the first two masks


def test_hooks_hang_on_the_model_for_the_steps_asked_for_and_no_longer(mdm):
    fired: list[int] = []

    def count(activation: torch.Tensor, hook: Any, step: DenoisingStep) -> None:
        fired.append(step.index)

    mdm.run_with_denoising_hooks(CANVAS, steps=6, fwd_hooks=[(RESID, count)], at_steps=[1, 5])
    assert fired == [1, 5]  # step 5 is idle, but was asked for
    mdm.run_with_denoising_hooks(CANVAS, steps=6, fwd_hooks=[(lambda name: name == RESID, count)])
    assert fired == [1, 5, 0, 1, 2]
    with pytest.raises(RuntimeError, match="on purpose"):
        mdm.run_with_denoising_hooks(CANVAS, fwd_hooks=[(RESID, _raise)])
    mdm.denoise(CANVAS)
    assert len(fired) == 5


def _raise(activation: torch.Tensor, hook: Any, step: DenoisingStep) -> None:
    raise RuntimeError("on purpose")


def test_what_a_hook_returns_is_what_the_step_commits_from(mdm):
    trajectory = mdm.run_with_denoising_hooks(CANVAS, fwd_hooks=[("blocks.0.attn.hook_z", silence)], at_steps=[1])
    plain = mdm.denoise(CANVAS)
    assert torch.equal(trajectory.canvases[:2], plain.canvases[:2])
    hooks = [("blocks.0.attn.hook_z", lambda z, hook: torch.zeros_like(z))]
    logits = mdm.align_logits(mdm.run_with_hooks(trajectory.canvases[1], fwd_hooks=hooks))
    top = logits.softmax(-1).max(-1)
    row, pos = (trajectory.commit_step == 1).nonzero()[0].tolist()
    assert int(trajectory.tokens[row, pos]) == int(top.indices[row, pos])
    torch.testing.assert_close(trajectory.confidence[row, pos], top.values[row, pos])
    assert not torch.equal(trajectory.confidence, plain.confidence)


def test_one_step_patched_from_another_prompts_trajectory(mdm):
    """Step 1 of this run gets the last residual of step 1 of another prompt's: it then commits what that prompt's step would."""
    _, cache = mdm.run_with_denoising_cache(OTHER, names_filter=RESID)
    patched = mdm.run_with_denoising_hooks(CANVAS, fwd_hooks=[(RESID, patch_from(cache))], at_steps=[1])
    plain = mdm.denoise(CANVAS)
    assert torch.equal(patched.canvases[:2], plain.canvases[:2])
    theirs = mdm.token_logits(mdm.denoise(OTHER).canvases[1])
    row, pos = (patched.commit_step == 1).nonzero()[0].tolist()
    assert int(patched.tokens[row, pos]) == int(theirs[row, pos].argmax())


def test_a_patch_can_be_narrowed_to_positions(mdm):
    _, cache = mdm.run_with_denoising_cache(OTHER, names_filter=RESID)
    seen = []
    watch = [(RESID, patch_from(cache, [4])), (RESID, lambda activation, hook, step: seen.append(activation))]
    mdm.run_with_denoising_hooks(CANVAS, fwd_hooks=watch, at_steps=[0])
    own = mdm.run_with_cache(CANVAS)[1][RESID]
    assert torch.equal(seen[0][:, 4], cache[0, RESID][:, 4])
    assert torch.equal(seen[0][:, [0, 1, 2, 3, 5]], own[:, [0, 1, 2, 3, 5]])


def test_a_patch_that_does_not_fit_is_refused(mdm):
    _, cache = mdm.run_with_denoising_cache(OTHER, names_filter=RESID, at_steps=[0])
    with pytest.raises(KeyError, match="step 1 was not recorded"):
        mdm.run_with_denoising_hooks(CANVAS, fwd_hooks=[(RESID, patch_from(cache))], at_steps=[1])
    with pytest.raises(ValueError, match=r"patch_from: blocks.1.hook_out is \(1, 6, 32\) here, \(2, 6, 32\)"):
        mdm.run_with_denoising_hooks(CANVAS[:1], fwd_hooks=[(RESID, patch_from(cache))], at_steps=[0])


def test_caches_see_what_step_hooks_did(mdm):
    trajectory, cache = mdm.run_with_denoising_cache(CANVAS, names_filter=RESID, fwd_hooks=[(EMBED, silence)])
    hooks = [(EMBED, lambda resid, hook: torch.zeros_like(resid))]
    with mdm.hooks(fwd_hooks=hooks):
        assert torch.equal(cache[1, RESID], mdm.run_with_cache(trajectory.canvases[1])[1][RESID])


def metric(logits: torch.Tensor, step: DenoisingStep) -> torch.Tensor:
    """How sure the model is, over the masks of the step."""
    return logits.log_softmax(-1).amax(-1)[step.masked].sum()


@pytest.mark.parametrize("name", [RESID, EMBED, "blocks.0.attn.hook_pattern", "blocks.0.mlp.hook_out", "blocks.1.attn.q.hook_out"])
def test_backward_hooks_see_the_gradient_of_the_metric(mdm, name):
    """Against the gradient of a tensor put in by a hook, through the plain model."""
    gradients: dict[int, torch.Tensor] = {}

    def keep(gradient: torch.Tensor, hook: Any, step: DenoisingStep) -> None:
        assert hook.name == name
        gradients[step.index] = gradient.clone()

    before = [p.requires_grad for p in mdm.parameters()]
    trajectory = mdm.run_with_denoising_hooks(CANVAS, bwd_hooks=[(name, keep)], metric=metric)
    assert same(trajectory, mdm.denoise(CANVAS))
    assert [p.requires_grad for p in mdm.parameters()] == before and all(p.grad is None for p in mdm.parameters())
    for step, gradient in gradients.items():
        canvas, masked = trajectory.canvases[step], trajectory.masked_at(step)
        leaf = mdm.run_with_cache(canvas)[1][name].clone().requires_grad_()
        logits = mdm.align_logits(mdm.run_with_hooks(canvas, fwd_hooks=[(name, lambda a, hook, leaf=leaf: leaf)]))
        value = logits.log_softmax(-1).amax(-1)[masked].sum()
        torch.testing.assert_close(gradient, torch.autograd.grad(value, leaf)[0], atol=1e-6, rtol=1e-4)
    assert sorted(gradients) == [0, 1, 2]


def test_a_cache_can_hold_gradients_beside_activations(mdm):
    kept: dict[int, torch.Tensor] = {}
    names = [RESID, "blocks.1.attn.hook_pattern"]
    trajectory, cache = mdm.run_with_denoising_cache(CANVAS, names_filter=names, metric=metric)
    hooks = [(RESID, lambda gradient, hook, step: kept.__setitem__(step.index, gradient.clone()))]
    mdm.run_with_denoising_hooks(CANVAS, bwd_hooks=hooks, metric=metric)
    assert set(cache[0].cache_dict) == {*names, *(f"{name}_grad" for name in names)}
    for step in cache:
        assert torch.equal(cache[step, RESID], mdm.run_with_cache(trajectory.canvases[step])[1][RESID])
        assert torch.equal(cache[step, f"{RESID}_grad"], kept[step])
    _, narrow = mdm.run_with_denoising_cache(CANVAS, names_filter=names, metric=metric, positions=[2, 5])
    assert torch.equal(narrow[1, f"{RESID}_grad"], kept[1][:, [2, 5]])
    assert narrow[1, "blocks.1.attn.hook_pattern_grad"].shape == (2, 4, 2, 6)


def test_gradients_without_a_scalar_metric_are_refused(mdm):
    with pytest.raises(ValueError, match="pass metric, a function of"):
        mdm.run_with_denoising_hooks(CANVAS, bwd_hooks=[(RESID, silence)])
    with pytest.raises(ValueError, match=r"metric at step 0 must be a scalar that depends on the logits, got \(2, 6\)"):
        mdm.run_with_denoising_hooks(CANVAS, metric=lambda logits, step: logits.amax(-1))
    with pytest.raises(ValueError, match="did a hook replace every activation"):
        mdm.run_with_denoising_hooks(CANVAS, fwd_hooks=[(RESID, silence)], metric=metric)


def test_frozen_positions_wait_and_others_take_their_turn(mdm):
    frozen = torch.zeros_like(CANVAS, dtype=torch.bool)
    frozen[0, 2] = True
    held = mdm.denoise(CANVAS, freeze=frozen)
    assert (held.commit_step[0] >= 0).tolist() == [False, False, False, True, False, True]
    assert held.tokens[0, 2] == MASK and held.masked[-1, 0].tolist() == frozen[0].tolist() and held.confidence[0, 2] == 0
    late = mdm.denoise(CANVAS, freeze=lambda step: frozen & (step.index < 2))
    assert late.commit_step[0, 2] == 2
    assert torch.equal(late.tokens[1], mdm.denoise(CANVAS).tokens[1])


def test_forced_tokens_are_committed_whatever_the_model_says(mdm):
    wish = torch.full_like(CANVAS, -1)
    wish[0, 5] = 33
    trajectory = mdm.denoise(CANVAS, block_length=2, force={1: wish})
    free = mdm.denoise(CANVAS, block_length=2)
    assert torch.equal(trajectory.canvases[1, 0], free.canvases[1, 0])
    assert trajectory.commit_step[0, 5] == 1 and trajectory.tokens[0, 5] == 33  # though its block has not begun
    expected = mdm.token_logits(trajectory.canvases[1])[0, 5].softmax(-1)[33]
    torch.testing.assert_close(trajectory.confidence[0, 5], expected)


def test_forced_tokens_must_fall_on_masks(mdm):
    wish = torch.full_like(CANVAS, -1)
    wish[1, 3] = 44
    with pytest.raises(ValueError, match="force at step 2: row 1 is not masked at position 3"):
        mdm.denoise(CANVAS, force={2: wish})
    with pytest.raises(ValueError, match="force at step 0 holds ids outside"):
        mdm.denoise(CANVAS, force={0: wish * 48})
    with pytest.raises(ValueError, match="force at step 0 is shaped like"):
        mdm.denoise(CANVAS, force={0: wish[:1]})
    with pytest.raises(ValueError, match="freeze is boolean"):
        mdm.denoise(CANVAS, freeze=wish)


def test_a_trajectory_replayed_by_force_is_the_trajectory(mdm):
    drawn = mdm.denoise(CANVAS, temperature=1.0, select="random", seed=4)

    def replay(step: DenoisingStep) -> torch.Tensor:
        return torch.where(drawn.commit_step == step.index, drawn.tokens, -1)

    def others(step: DenoisingStep) -> torch.Tensor:
        return drawn.commit_step != step.index

    again = mdm.denoise(CANVAS, force=replay, freeze=others)
    assert torch.equal(again.canvases, drawn.canvases) and torch.equal(again.commit_step, drawn.commit_step)
    torch.testing.assert_close(again.confidence, drawn.confidence)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"preset": "dream", "steps": 9},
        {"preset": "diffullama", "steps": 4, "seed": 3},
        {"temperature": 1.0, "alg_temp": 0.5, "block_length": 1, "seed": 2},
        {"cfg_scale": 0.7},
    ],
    ids=str,
)
def test_a_run_resumed_anywhere_goes_on_as_it_would_have(mdm, chosen):
    whole = mdm.denoise(CANVAS, **chosen)
    for step in range(whole.steps + 1):
        assert same(mdm.resume_denoising(whole, step), whole), step


def test_a_run_with_remasking_resumes(mdm):
    whole = mdm.denoise(CANVAS, remask=0.5, seed=3)
    for step in range(whole.steps + 1):
        assert torch.equal(mdm.resume_denoising(whole, step).canvases, whole.canvases)


def test_a_run_resumes_from_an_edited_canvas(mdm):
    whole = mdm.denoise(CANVAS)
    edited = whole.canvases[1].clone()
    edited[0, 0] = 40  # another prompt word
    resumed = mdm.resume_denoising(whole, 1, canvas=edited)
    assert torch.equal(resumed.canvases[0], whole.canvases[0]) and torch.equal(resumed.canvases[1], edited)
    rest = mdm.denoise(edited)
    assert torch.equal(resumed.tokens, rest.tokens)
    assert torch.equal(resumed.commit_step[whole.masked[1]], rest.commit_step[whole.masked[1]] + 1)


def test_an_edit_can_give_a_masked_token_and_reopen_a_committed_one(mdm):
    whole = mdm.denoise(CANVAS)
    row, pos = (whole.commit_step == 0).nonzero()[0].tolist()
    given = next(p for p in (2, 3, 5) if p != pos)
    edited = whole.canvases[1].clone()
    edited[0, pos], edited[0, given] = MASK, 17
    resumed = mdm.resume_denoising(whole, 1, canvas=edited)
    assert row == 0 and resumed.tokens[0, given] == 17 and resumed.commit_step[0, given] == -1 and resumed.confidence[0, given] == 1
    assert resumed.commit_step[0, pos] >= 1 and not resumed.masked[-1].any()


def test_a_resumed_run_can_be_hooked(mdm):
    whole = mdm.denoise(CANVAS)
    resumed = mdm.resume_denoising(whole, 1, fwd_hooks=[("blocks.0.attn.hook_z", silence)], at_steps=[1])
    assert same(resumed, mdm.run_with_denoising_hooks(CANVAS, fwd_hooks=[("blocks.0.attn.hook_z", silence)], at_steps=[1]))


def test_resuming_outside_a_run_is_refused(mdm):
    whole = mdm.denoise(CANVAS)
    with pytest.raises(ValueError, match="step 4 lies outside 0 … 3"):
        mdm.resume_denoising(whole, 4)
    with pytest.raises(ValueError, match=r"in the trajectory's shape \(2, 6\), got \(1, 6\)"):
        mdm.resume_denoising(whole, 1, canvas=CANVAS[:1])
