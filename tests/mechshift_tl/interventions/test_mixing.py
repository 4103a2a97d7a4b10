"""Mixtures of live and replaced outputs: their ends, circuits as their corners, rows with masks of their own, memory set free.

`attribution/test_brute_force.py` holds them, and their slopes, against a forward written out by hand in float64.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.gradients import frozen
from mechshift_tl.graph import Graph
from mechshift_tl.interventions import mixing
from mechshift_tl.interventions.mixing import mixed_logits
from mechshift_tl.interventions.patching import ends, patched_logits
from mechshift_tl.readouts import Batch, Readouts

FULL = DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2)


def batch_of(model: Any, *, narrow: bool = True, hidden: bool = False) -> Batch:
    """Three rows of seven tokens that begin alike; with `hidden`, the second's first token is hidden."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(3, 48, (3, 7), generator=generator)
    corrupt = clean.clone()
    corrupt[:, 2:4] = torch.randint(3, 48, (3, 2), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 3, 2), generator=generator)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 0] = not hidden
    rows = Readouts.from_tokens(clean, corrupt, torch.tensor([[4, 6]] * 3), answers, foils, attention_mask=mask)
    batch = next(iter(rows.batches(100)))
    return batch.narrowed(model) if narrow else batch


@pytest.mark.parametrize(("family", "spec"), [("llama", DiffusionSpec()), ("qwen2", FULL), ("qwen3", FULL), ("gpt2", DiffusionSpec())])
@pytest.mark.parametrize("intervention", ["counterfactual", "zero"])
def test_ends_and_corners_are_runs_of_circuits(native, family, spec, intervention) -> None:
    model = HookedDiffusionTransformer.from_hf(native(family), spec=spec)
    for kv in ("grouped", "ungrouped"):
        graph: Graph = Graph.of(model, kv)
        for batch in (batch_of(model), batch_of(model, narrow=False), batch_of(model, hidden=True)):
            clean, base, corrupt = ends(model, batch, graph, intervention)
            some = graph.possible & (torch.rand(graph.shape, generator=torch.Generator().manual_seed(1)) < 0.4)
            expected = {"clean": clean, "base": corrupt, "circuit": patched_logits(model, batch, graph, some, base)}
            for edges, (name, logits) in zip((graph.possible, some & False, some), expected.items(), strict=True):
                with torch.no_grad():
                    found = mixed_logits(model, batch, graph, edges[None].float(), base)
                assert (found - logits).abs().max() < 1e-5 * clean.abs().max(), (kv, name)


def test_each_row_may_have_masks_of_its_own(native) -> None:
    model = HookedDiffusionTransformer.from_hf(native(), spec=FULL)
    batch, graph = batch_of(model), Graph.of(model)
    _, base, _ = ends(model, batch, graph)
    masks = torch.rand(3, *graph.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = mixed_logits(model, batch, graph, masks, base)
        for i in range(3):
            torch.testing.assert_close(mixed_logits(model, batch, graph, masks[i][None], base)[i], together[i], rtol=1e-4, atol=1e-4)


def test_what_a_step_kept_is_freed_with_its_loss(native, monkeypatch) -> None:
    model, held = HookedDiffusionTransformer.from_hf(native()), []
    monkeypatch.setattr(mixing, "_Differences", type("Watched", (mixing._Differences,), {}))
    made = mixing._Differences.__init__
    monkeypatch.setattr(mixing._Differences, "__init__", lambda self, *args: (made(self, *args), held.append(weakref.ref(self)))[0])
    batch, graph = batch_of(model), Graph.of(model)
    _, base, _ = ends(model, batch, graph)
    masks = torch.rand(1, *graph.shape, requires_grad=True)
    gc.disable()
    try:
        with frozen(model):
            torch.autograd.grad(mixed_logits(model, batch, graph, masks, base).sum(), masks)
        assert len(held) == 1 and held[0]() is None
    finally:
        gc.enable()
