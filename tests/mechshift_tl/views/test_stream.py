"""The lens of the stream by depth is TransformerLens' reading of it, and ends in the model's prediction."""

from __future__ import annotations

import pytest
import torch
from transformer_lens.tools.analysis.logit_lens import logit_readout

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.readouts import Readouts, aligned_logits
from mechshift_tl.views.stream import stream_lens


@pytest.fixture(scope="module", params=[DiffusionSpec(), DiffusionSpec("full", 1, 2), DiffusionSpec("full", 0, 2)])
def model(request, native):
    return HookedDiffusionTransformer.from_hf(native(), spec=request.param)


@pytest.fixture(scope="module")
def rows() -> Readouts:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(3, 48, (5, 7), generator=generator)
    answer = torch.randint(48, (5, 2), generator=generator)
    return Readouts.from_tokens(clean, clean, torch.tensor([[3, 6]] * 5), answer, (answer + 7) % 48)


def test_the_last_depth_is_the_prediction(model, rows):
    lens = stream_lens(model, rows)
    with torch.no_grad():
        logits = aligned_logits(model, rows.clean)[:, [3, 6]].flatten(0, 1)
    torch.testing.assert_close(lens.answer[-1], logits.gather(1, rows.answer_ids.flatten()[:, None])[:, 0], rtol=1e-4, atol=1e-4)
    log_p = logits.log_softmax(-1)
    torch.testing.assert_close(lens.entropy[-1], -(log_p.exp() * log_p).sum(-1), rtol=1e-4, atol=1e-4)
    assert lens.gap < 1e-5 and lens.components == ["embeddings", "layer 0", "layer 1"]


def test_every_depth_is_transformer_lens_reading(model, rows):
    lens = stream_lens(model, rows, batch_tokens=7)
    _, cache = model.run_with_cache(rows.clean)
    at = torch.tensor([3, 6]) - model.spec.logit_shift
    for depth, name in enumerate(("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post")):
        expected = logit_readout(model, cache[name][:, at].flatten(0, 1), apply_ln=True, targets=rows.foil_ids.flatten())
        torch.testing.assert_close(lens.foil[depth], expected.values[:, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(lens.entropy[depth], expected.entropy, rtol=1e-4, atol=1e-4)
