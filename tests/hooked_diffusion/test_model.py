"""The hooked model: direction of attention, alignment of logits, parity with the native classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.architectures import direct_attention
from hooked_diffusion.spec import BosPolicy

Native = Callable[..., Any]
FAMILIES = ("llama", "qwen2", "qwen3", "gpt2")
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


def spec_of(attention: Any, shift: Any = 1) -> DiffusionSpec:
    return DiffusionSpec(attention, shift, mask_token_id=47 if attention == "full" else None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["causal", "full"])
@torch.no_grad()
def test_logits_are_the_native_models(native: Native, family: str, attention: Any):
    hf_model = native(family)
    hf_model.config.is_causal = attention == "causal"
    expected = hf_model(input_ids=TOKENS, use_cache=False).logits
    model = HookedDiffusionTransformer.from_hf(hf_model, spec=spec_of(attention))
    torch.testing.assert_close(model(TOKENS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_directions_differ(native: Native, family: str):
    causal, full = (HookedDiffusionTransformer.from_hf(native(family), spec=spec_of(attention))(TOKENS) for attention in ("causal", "full"))
    assert (causal - full).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_block_causal_native_model_is_told_by_a_mask(native: Native, family: str):
    """Hugging Face and TransformerLens agree on a four-dimensional mask, whichever way the model was built."""
    blocks = torch.arange(TOKENS.shape[1]) // 4
    mask = (blocks[None, :] <= blocks[:, None])[None, None].expand(len(TOKENS), 1, -1, -1)
    expected = native(family)(input_ids=TOKENS, attention_mask=mask, use_cache=False).logits
    for attention in ("causal", "full"):
        model = HookedDiffusionTransformer.from_hf(native(family), spec=spec_of(attention))
        torch.testing.assert_close(model(TOKENS, attention_mask=mask), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("block_length", [1, 4, 5, 32])
@torch.no_grad()
def test_a_block_causal_model_needs_no_mask_from_its_caller(native: Native, family: str, block_length: int):
    blocks = torch.arange(TOKENS.shape[1]) // block_length
    mask = (blocks[None, :] <= blocks[:, None])[None, None].expand(len(TOKENS), 1, -1, -1)
    expected = native(family)(input_ids=TOKENS, attention_mask=mask, use_cache=False).logits
    spec = DiffusionSpec("block", 0, mask_token_id=47, block_length=block_length)
    model = HookedDiffusionTransformer.from_hf(native(family), spec=spec)
    torch.testing.assert_close(model(TOKENS), expected, atol=1e-5, rtol=0)


def test_bos_is_put_in_front_as_the_spec_says(native: Native, word_tokenizer: Any):
    cases: tuple[tuple[BosPolicy, list[int]], ...] = (("tokenizer", [0, 5, 6]), ("required", [0, 5, 6]), ("none", [5, 6]))
    for bos, expected in cases:
        model = HookedDiffusionTransformer.from_hf(native("llama"), word_tokenizer, DiffusionSpec("full", 1, 2, bos=bos))
        assert model.to_tokens("w5 w6")[0].tolist() == expected, bos


def test_bos_never_stands_twice(native: Native, word_tokenizer: Any):
    model = HookedDiffusionTransformer.from_hf(native("llama"), word_tokenizer, DiffusionSpec("full", 1, 2, bos="required"))
    with pytest.raises(ValueError, match="BOS would stand twice: the text '<s> w5' begins with '<s>'; take it out, or pass"):
        model.to_tokens(["w5", "<s> w5"])
    assert model.to_tokens("<s> w5", prepend_bos=False)[0].tolist() == [0, 5]


def test_a_tokenizer_that_does_not_belong_is_refused(native: Native, word_tokenizer: Any):
    with pytest.raises(ValueError, match="the tokenizer does not belong to it: 'w47' is id 47, and the model has 40 rows"):
        HookedDiffusionTransformer.from_hf(native("llama", vocab_size=40), word_tokenizer)
    with pytest.raises(ValueError, match="its mask token '<mask>' is id 2, and the model's masks are 3; pass the checkpoint's own"):
        HookedDiffusionTransformer.from_hf(native("llama"), word_tokenizer, DiffusionSpec("full", 1, 3))


def test_gpt2_keeps_one_tensor_for_embedding_and_head(native: Native):
    hf_model = native("gpt2")
    HookedDiffusionTransformer.from_hf(hf_model, spec=spec_of("full"))
    assert hf_model.lm_head.weight is hf_model.transformer.wte.weight


@pytest.mark.parametrize("attention", ["causal", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_hook_of_a_causal_bridge_fires(native: Native, family: str, attention: Any):
    hf_model = native(family)
    plain = build_bridge_from_module(hf_model, type(hf_model).__name__, hf_config=hf_model.config)
    model = HookedDiffusionTransformer.from_hf(native(family), spec=spec_of(attention))
    _, expected = plain.run_with_cache(TOKENS)
    _, cache = model.run_with_cache(TOKENS)
    assert set(cache.keys()) == set(expected.keys())
    above = cache["pattern", 0].triu(1).sum()
    assert (above > 0) == (attention == "full")


@pytest.mark.parametrize(("attention", "shift"), [("causal", 1), ("causal", 0), ("full", 1), ("full", 0)])
def test_token_logits_are_aligned(native: Native, attention: Any, shift: Any):
    model = HookedDiffusionTransformer.from_hf(native("llama"), spec=spec_of(attention, shift))
    raw, aligned = model(TOKENS), model.token_logits(TOKENS)
    assert aligned.shape == raw.shape and torch.isfinite(aligned).all()
    assert torch.equal(aligned[:, 1:], raw[:, 1 - shift : raw.shape[1] - shift])


def test_position_0_of_a_shifted_model_repeats_raw_row_0(native: Native):
    model = HookedDiffusionTransformer.from_hf(native("llama"), spec=spec_of("full"))
    assert torch.equal(model.token_logits(TOKENS)[:, 0], model(TOKENS)[:, 0])


def test_a_spec_that_contradicts_the_attention_is_refused(native: Native, monkeypatch: pytest.MonkeyPatch):
    def causal_whatever_is_asked(adapter: Any, causal: bool) -> None:
        direct_attention(adapter, True)

    monkeypatch.setattr("hooked_diffusion.architectures.direct_attention", causal_whatever_is_asked)
    with pytest.raises(ValueError, match="full attention, but editing the last token"):
        HookedDiffusionTransformer.from_hf(native("llama"), spec=spec_of("full"))


def test_mask_id_outside_the_vocabulary_is_refused(native: Native):
    with pytest.raises(ValueError, match="mask token id 48 lies outside the vocabulary of 48"):
        HookedDiffusionTransformer.from_hf(native("llama"), spec=DiffusionSpec("full", mask_token_id=48))


def test_another_class_is_refused():
    config = GPTNeoXConfig(num_hidden_layers=1, num_attention_heads=2, hidden_size=8, intermediate_size=8, vocab_size=10)
    with pytest.raises(TypeError, match="Qwen3ForCausalLM, got GPTNeoXForCausalLM"):
        HookedDiffusionTransformer.from_hf(GPTNeoXForCausalLM(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_deep_copy_is_whole(native: Native, family: str):
    model = HookedDiffusionTransformer.from_hf(native(family), spec=spec_of("full"))
    twin = copy.deepcopy(model)
    assert type(twin) is HookedDiffusionTransformer and twin.spec == model.spec
    assert torch.equal(twin(TOKENS), model(TOKENS))


def test_weights_that_are_no_numbers_are_not_taken_for_another_direction(native: Native):
    hf_model = native("llama")
    hf_model.lm_head.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="broken: its logits are not finite; its weights hold NaN or overflow"):
        HookedDiffusionTransformer.from_hf(hf_model, name="broken")


def test_rows_longer_than_the_models_positions_are_refused(native: Native, word_tokenizer: Any):
    model = HookedDiffusionTransformer.from_hf(native("llama"), word_tokenizer, DiffusionSpec("full", mask_token_id=2))
    longest = torch.full((2, 64), 5)
    assert model(longest).shape == (2, 64, 48)
    message = "a row has 65 tokens, the model 64 positions; shorten the prompt"
    with pytest.raises(ValueError, match=message):
        model(torch.full((2, 65), 5))
    with pytest.raises(ValueError, match=message):
        model.token_logits(torch.full((2, 65), 5))
    with pytest.raises(ValueError, match=message):
        model.denoise(torch.full((1, 65), 5).index_fill(1, torch.tensor([7]), 2))
    with pytest.raises(ValueError, match=message):
        model("w5 " * 64)  # and BOS
    assert model.to_tokens("w5 " * 64, truncate=True).shape == (1, 64)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_padding_takes_up_no_position(native: Native, family: str):
    model = HookedDiffusionTransformer.from_hf(native(family), spec=spec_of("full"))
    row, hidden = torch.full((1, 70), 5), torch.zeros(1, 6, dtype=torch.bool)
    visible = torch.cat([hidden, torch.ones(1, 64, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(model(row, attention_mask=visible)[:, 6:], model(row[:, 6:]))
    with pytest.raises(ValueError, match="a row has 65 tokens"):
        model(row, attention_mask=visible.index_fill(1, torch.tensor([0]), True))


def test_rope_that_stretches_with_the_length_has_no_bound(native: Native):
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = HookedDiffusionTransformer.from_hf(native("llama", rope_parameters=rope))
    assert model.max_positions is None and model(torch.full((1, 80), 5)).isfinite().all()


def test_float8_weights_are_refused_by_name(native: Native):
    broken = native("llama")
    broken.model.layers[1].mlp.up_proj.weight.data = broken.model.layers[1].mlp.up_proj.weight.data.to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"mine: weight model\.layers\.1\.mlp\.up_proj\.weight is float8_e4m3fn, .* convert"):
        HookedDiffusionTransformer.from_hf(broken, name="mine")
