"""Views and the pool see what the mask shows: padded rows read as the rows without their padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.readouts import Readouts, aligned_logits
from mechshift_tl.readouts.pool import read_correctly
from mechshift_tl.views import component_lens, neuron_activations
from mechshift_tl.views.neurons import example_activations

LEFT = torch.arange(8) >= torch.tensor([3, 1, 0, 2, 3, 1])[:, None]
LENGTHS = LEFT.sum(1)


@pytest.fixture(scope="module", params=["arm", "mdm", "plain"])
def model(request, native) -> Any:
    if request.param == "plain":
        hf_model = native("qwen2")
        return build_bridge_from_module(hf_model, "Qwen2ForCausalLM", hf_config=hf_model.config, tokenizer=None, model_name="plain")
    spec = DiffusionSpec("full", 0, 2) if request.param == "mdm" else DiffusionSpec()
    return HookedDiffusionTransformer.from_hf(native(), spec=spec)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(3, 48, (6, 8), generator=torch.Generator().manual_seed(0))


def padded(tokens: torch.Tensor, answers: torch.Tensor | None = None) -> Readouts:
    """Rows of five to eight visible tokens, padded on the left, each read at its last."""
    ids = torch.arange(6) + 10 if answers is None else answers
    groups = ["a", "a", "b", "b", "a", "b"]
    return Readouts.from_tokens(tokens, tokens, torch.full((6,), 7), ids, (ids + 1) % 48, attention_mask=LEFT, groups=groups)


def alone(rows: Readouts, i: int) -> Readouts:
    """Row `i` without its padding."""
    length = int(LENGTHS[i])
    canvas = rows.clean[i : i + 1, 8 - length :]
    return Readouts.from_tokens(canvas, canvas, torch.tensor([length - 1]), rows.answer_ids[i], rows.foil_ids[i])


def test_the_lens_of_a_padded_row_is_that_of_the_row_alone(model, tokens) -> None:
    rows = padded(tokens)
    lens = component_lens(model, rows)
    assert lens.gap < 1e-4
    for i in range(6):
        one = component_lens(model, alone(rows, i))
        for name in ("answer", "foil", "entropy"):
            torch.testing.assert_close(getattr(lens, name)[:, i], getattr(one, name)[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["target", -2])
def test_neurons_of_a_padded_row_are_those_of_the_row_alone(model, tokens, position) -> None:
    rows = padded(tokens)
    together = example_activations(model, rows, 1, position=position)
    for i in range(6):
        one = example_activations(model, alone(rows, i), 1, position=position)
        torch.testing.assert_close(together[i], one[0], rtol=1e-4, atol=1e-5)


def test_a_masked_position_has_no_neurons_to_read(model, tokens) -> None:
    with pytest.raises(ValueError, match="position 2 is masked in row 0; say one that every row shows"):
        neuron_activations(model, padded(tokens), 0, position=2)
    assert neuron_activations(model, padded(tokens), 0, position=-3, shuffles=20).sizes == [3, 3]


def test_the_pool_ranks_what_each_row_alone_ranks(model, tokens) -> None:
    """Answers that the rows alone rank first, in all rows but two; without the mask padded rows rank others."""
    rows = padded(tokens)
    with torch.no_grad():
        first = torch.stack([aligned_logits(model, alone(rows, i).clean)[0, -1].argmax() for i in range(6)])
        blind = aligned_logits(model, tokens)[:, -1].argmax(-1)
    answers = first.clone()
    answers[1:3] = (answers[1:3] + 5) % 48
    assert read_correctly(model, padded(tokens, answers)).tolist() == [True, False, False, True, True, True]
    assert (blind != first).any(), "the padding makes no difference to these rows"
