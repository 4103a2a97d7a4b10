"""Losses by layer: as patching by hooks gives them, nothing for a silent layer, and draws of the prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mechshift_tl.evaluation.faithfulness import NoGap
from mechshift_tl.evaluation.layer_losses import layer_losses
from mechshift_tl.intervals import drawn_examples
from mechshift_tl.readouts import Readouts


def by_hooks(model: Any, rows: Readouts, layer: int) -> tuple[torch.Tensor, ...]:
    """Per example the metric, clean, corrupt, and with the layer's outputs taken from the corrupt run: hooks in place of edges."""
    names = [f"blocks.{layer}.hook_attn_out", f"blocks.{layer}.hook_mlp_out"]
    logits = []
    _, cache = model.run_with_cache(rows.corrupt)
    put = [(name, lambda tensor, hook: cache[hook.name]) for name in names]
    with torch.no_grad():
        for run in (model(rows.clean), model(rows.corrupt), model.run_with_hooks(rows.clean, fwd_hooks=put)):
            logits.append(run[torch.arange(len(rows)), rows.target_pos[:, 0] - 1])
    return tuple((one.gather(1, rows.answer_ids) - one.gather(1, rows.foil_ids))[:, 0].double() for one in logits)


def rows_of(model: Any) -> Readouts:
    """Six rows whose answers and foils are what the model says on clean and on corrupt tokens: it tells them apart."""
    clean, corrupt = torch.randint(3, 48, (2, 6, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers, foils = (model(tokens)[:, 5].argmax(-1) for tokens in (clean, corrupt))
    return Readouts.from_tokens(clean, corrupt, torch.full((6,), 6), answers, foils)


def test_losses_are_those_of_patching_the_layer_by_hooks(models):
    model = models["arm"]
    rows = rows_of(model)
    n_layers = model.cfg.n_layers
    found = layer_losses(model, rows, n_boot=5)
    assert found.shape == (6, n_layers)
    for layer in range(n_layers):
        clean, corrupt, patched = by_hooks(model, rows, layer)
        gap, lost = clean - corrupt, clean - patched
        assert found[0, layer].item() == pytest.approx((lost.sum() / gap.sum()).item(), abs=1e-4)
        for draw, examples in enumerate(drawn_examples(6, 5), 1):
            assert found[draw, layer].item() == pytest.approx((lost[examples].sum() / gap[examples].sum()).item(), rel=1e-3, abs=1e-4)


def test_a_model_that_does_not_tell_the_prompts_apart_has_no_losses(models):
    rows = rows_of(models["arm"])
    with pytest.raises(NoGap):
        layer_losses(models["arm"], replace(rows, corrupt=rows.clean), n_boot=5)
