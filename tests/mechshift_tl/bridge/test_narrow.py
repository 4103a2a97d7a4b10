"""Runs of no more than what is read: the same numbers, and really less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.readouts import Batch, Readouts


@pytest.fixture(scope="module")
def models(native) -> dict[str, Any]:
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=48, n_positions=32, initializer_range=0.3)).eval()
    specs = {"arm": DiffusionSpec(), "mdm": DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2)}
    return {name: HookedDiffusionTransformer.from_hf(native(), spec=spec) for name, spec in specs.items()} | {
        "gpt2": HookedDiffusionTransformer.from_hf(gpt2)
    }


def rows(targets: list[list[int]]) -> Readouts:
    """Three rows of nine tokens, each read at `targets`."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(3, 48, (2, 3, 9), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 3, len(targets[0])), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.tensor(targets), answers, foils)


def batch_of(readouts: Readouts) -> Batch:
    (batch,) = readouts.batches(10**6)
    return batch


@pytest.mark.parametrize("name", ["arm", "mdm", "gpt2"])
@pytest.mark.parametrize("side", ["clean", "corrupt"])
def test_logits_are_the_whole_run_s(models, name, side, counting) -> None:
    model, whole = models[name], batch_of(rows([[5, 3], [4, 6], [2, 2]]))
    narrow, tokens = whole.narrowed(model), []
    with torch.no_grad(), counting(model.blocks[-1].mlp.original_component, tokens):
        torch.testing.assert_close(narrow.logits(model, side), whole.logits(model, side), atol=1e-5, rtol=1e-5)
    assert tokens == [5, 27]  # a position that is read twice is run once


def test_only_a_causal_model_s_canvas_is_cut_and_only_behind_what_is_read(models) -> None:
    batch = batch_of(rows([[5], [6], [2]]))
    assert batch.narrowed(models["arm"]).clean.shape == (3, 6) and torch.equal(batch.narrowed(models["arm"]).corrupt, batch.corrupt[:, :6])
    assert batch.narrowed(models["mdm"]).clean.shape == (3, 9)
    with models["arm"].attention("full"):
        assert batch.narrowed(models["arm"]).clean.shape == (3, 9)
    with models["mdm"].attention("causal"):
        assert batch.narrowed(models["mdm"]).clean.shape == (3, 7)  # its logits are not shifted: 6 is read at 6


def test_a_model_that_somebody_watches_runs_as_it_is(models, watched) -> None:
    batch = batch_of(rows([[5], [6], [2]]))
    with watched(models["arm"]):
        assert batch.narrowed(models["arm"]) is batch


def test_a_part_with_hooks_within_runs_everywhere(models) -> None:
    model, batch = models["arm"], batch_of(rows([[5], [6], [2]])).narrowed(models["arm"])
    seen: list[torch.Size] = []
    with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda tensor, hook: seen.append(tensor.shape))]):
        batch.logits(model)
    assert seen[0][:2] == (3, 6)


def test_modules_are_left_as_they_were_even_by_a_run_that_fails(models) -> None:
    model = models["arm"]

    def hooks() -> list[int]:
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]

    before, batch = hooks(), batch_of(rows([[5], [6], [2]])).narrowed(model)
    batch.logits(model)
    with pytest.raises(IndexError):
        replace(batch, clean=batch.clean + 48).logits(model)
    assert hooks() == before


@pytest.mark.parametrize("name", ["arm", "mdm", "gpt2"])
@pytest.mark.parametrize("settings", [{}, {"kv": "ungrouped"}, {"level": "nodes"}, {"level": "neurons"}, {"method": "exact"}], ids=str)
def test_scores_are_the_whole_run_s(models, name, settings, watched) -> None:
    """Positions read twice among them: each counts once in every gradient that reaches it."""
    model, readouts = models[name], rows([[5, 3], [4, 6], [2, 2]])
    found = attribute(model, readouts, **settings)
    with watched(model):
        expected = attribute(model, readouts, **settings)
    assert (found.matrix - expected.matrix).abs().max() < 1e-5 * expected.matrix.abs().max()
