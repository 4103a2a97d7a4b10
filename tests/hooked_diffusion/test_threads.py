"""Real threads: a second one on the same model is refused at once and changes nothing; two models in two threads, and re-entry, work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.gradients import frozen
from hooked_diffusion.threads import ModelInUse, in_one_thread

Native = Callable[..., Any]
MASK = 2
TOKENS = torch.tensor([[5, 6, MASK, 8, MASK, 4]])
RESID = "blocks.0.hook_out"


def mdm_of(native: Native, seed: int = 0) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native("llama", seed=seed), spec=DiffusionSpec("full", 1, MASK))


def elsewhere(work: Callable[[], Any]) -> Any:
    """What `work` gives, or raises, in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=60)


WORK: dict[str, Callable[[HookedDiffusionTransformer], Any]] = {
    "forward": lambda model: model(TOKENS),
    "token_logits": lambda model: model.token_logits(TOKENS),
    "attention": lambda model: model.attention("causal").__enter__(),
    "hooks": lambda model: model.hooks(fwd_hooks=[(RESID, lambda tensor, hook: tensor * 0)]).__enter__(),
    "run_with_hooks": lambda model: model.run_with_hooks(TOKENS, fwd_hooks=[(RESID, lambda tensor, hook: tensor * 0)]),
    "run_with_cache": lambda model: model.run_with_cache(TOKENS),
    "denoise": lambda model: model.denoise(TOKENS),
    "run_with_denoising_cache": lambda model: model.run_with_denoising_cache(TOKENS),
    "frozen": lambda model: frozen(model).__enter__(),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_a_second_thread_is_refused_and_changes_nothing(native: Native, work: Callable[[HookedDiffusionTransformer], Any]):
    model = mdm_of(native)
    before = model(TOKENS)
    for held in (frozen(model), model.attention("full"), model.hooks(fwd_hooks=[(RESID, lambda tensor, hook: tensor)])):
        with held:
            with pytest.raises(ModelInUse, match="another thread is running this HookedDiffusionTransformer, .* once for each thread"):
                elsewhere(lambda: work(model))
            assert torch.equal(model(TOKENS), before)
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.direction == "full"
    assert torch.equal(model(TOKENS), before) and not model.hook_dict[RESID].fwd_hooks


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_a_model_is_free_again_after_an_error(native: Native, work: Callable[[HookedDiffusionTransformer], Any]):
    model = mdm_of(native)

    def fail(tensor: torch.Tensor, hook: Any) -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), model.hooks(fwd_hooks=[(RESID, fail)]):
        model.denoise(TOKENS)
    if work not in (WORK["attention"], WORK["hooks"], WORK["frozen"]):  # these three stay entered
        elsewhere(lambda: work(model))
    assert elsewhere(lambda: model(TOKENS)).shape == (1, 6, 48)


def test_a_denoising_run_holds_its_model_from_the_first_step_to_the_last(native: Native):
    model, started, go_on = mdm_of(native), Event(), Event()

    def wait(tensor: torch.Tensor, hook: Any, step: Any) -> None:
        started.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: model.run_with_denoising_hooks(TOKENS, fwd_hooks=[(RESID, wait)]))
        assert started.wait(60)
        with pytest.raises(ModelInUse):
            model(TOKENS)
        go_on.set()
        trajectory = running.result(timeout=60)
    assert torch.equal(trajectory.canvases, model.denoise(TOKENS).canvases)


def test_two_models_in_two_threads_do_not_disturb_each_other(native: Native):
    models = [mdm_of(native, seed) for seed in (0, 1)]
    alone = [model.denoise(TOKENS, temperature=1.0, seed=3).canvases for model in models]
    together = Barrier(2)

    def run(model: HookedDiffusionTransformer) -> list[torch.Tensor]:
        together.wait(60)
        with model.attention("full"), frozen(model):
            return [model.denoise(TOKENS, temperature=1.0, seed=3).canvases for _ in range(5)]

    with ThreadPoolExecutor(2) as pool:
        for found, expected in zip(pool.map(run, models), alone, strict=True):
            assert all(torch.equal(canvases, expected) for canvases in found)


def test_the_same_thread_enters_as_often_as_it_likes(native: Native):
    model = mdm_of(native)
    with frozen(model), in_one_thread(model), model.attention("causal"), frozen(model):
        assert model.denoise(TOKENS).steps == 2
        with pytest.raises(ModelInUse):
            elsewhere(lambda: model(TOKENS))
    assert elsewhere(lambda: model.denoise(TOKENS)).steps == 2


def test_many_threads_on_one_model_are_right_or_refused(native: Native):
    model = mdm_of(native)
    expected = model(TOKENS)

    def run(_: int) -> str:
        try:
            with frozen(model):
                return "right" if torch.equal(model(TOKENS), expected) else "wrong"
        except ModelInUse:
            return "refused"

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(run, range(200)))
    assert "right" in found and found <= {"right", "refused"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_plain_bridge_is_held_while_it_is_frozen(native: Native):
    bridge = build_bridge_from_module(native("llama"), "LlamaForCausalLM", hf_config=native("llama").config, tokenizer=None)
    with frozen(bridge), pytest.raises(ModelInUse, match="this TransformerBridge"):
        elsewhere(lambda: frozen(bridge).__enter__())
