"""The hooked model: direction of attention, alignment of logits, parity with the native classes."""

from __future__ import annotations

import copy

import pytest
import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer

SIZES = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
CLASSES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


def make(family: str, seed: int = 0):
    config, model = CLASSES[family]
    torch.manual_seed(seed)
    return model(config(**SIZES)).eval()


def spec_of(attention: str, shift: int = 1) -> DiffusionSpec:
    return DiffusionSpec(attention, shift, mask_token_id=39 if attention == "full" else None)


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("attention", ["causal", "full"])
def test_logits_are_the_native_models(family, attention):
    native = make(family)
    native.config.is_causal = attention == "causal"
    expected = native(input_ids=TOKENS, use_cache=False).logits.detach()
    model = HookedDiffusionTransformer.from_hf(native, spec=spec_of(attention))
    torch.testing.assert_close(model(TOKENS), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_every_hook_of_a_causal_bridge_fires(attention):
    plain = build_bridge_from_module(make("llama"), "LlamaForCausalLM", hf_config=LlamaConfig(**SIZES))
    model = HookedDiffusionTransformer.from_hf(make("llama"), spec=spec_of(attention))
    _, expected = plain.run_with_cache(TOKENS)
    _, cache = model.run_with_cache(TOKENS)
    assert set(cache.keys()) == set(expected.keys())
    above = cache["pattern", 0].triu(1).sum()
    assert (above > 0) == (attention == "full")


@pytest.mark.parametrize(("attention", "shift"), [("causal", 1), ("causal", 0), ("full", 1), ("full", 0)])
def test_token_logits_are_aligned(attention, shift):
    model = HookedDiffusionTransformer.from_hf(make("llama"), spec=spec_of(attention, shift))
    raw, aligned = model(TOKENS), model.token_logits(TOKENS)
    assert aligned.shape == raw.shape and torch.isfinite(aligned).all()
    assert torch.equal(aligned[:, 1:], raw[:, 1 - shift : raw.shape[1] - shift])


def test_position_0_of_a_shifted_model_repeats_raw_row_0():
    model = HookedDiffusionTransformer.from_hf(make("llama"), spec=spec_of("full"))
    assert torch.equal(model.token_logits(TOKENS)[:, 0], model(TOKENS)[:, 0])


def test_a_spec_that_contradicts_the_attention_is_refused(monkeypatch):
    monkeypatch.setattr("hooked_diffusion.model._direct_attention", lambda spec: lambda adapter: None)
    with pytest.raises(ValueError, match="full attention, but editing the last token"):
        HookedDiffusionTransformer.from_hf(make("llama"), spec=spec_of("full"))


def test_mask_id_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="mask token id 40 lies outside the vocabulary of 40"):
        HookedDiffusionTransformer.from_hf(make("llama"), spec=DiffusionSpec("full", mask_token_id=40))


def test_another_class_is_refused():
    with pytest.raises(TypeError, match="GPT2LMHeadModel"):
        HookedDiffusionTransformer.from_hf(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=10)))


def test_a_deep_copy_is_whole():
    model = HookedDiffusionTransformer.from_hf(make("llama"), spec=spec_of("full"))
    twin = copy.deepcopy(model)
    assert type(twin) is HookedDiffusionTransformer and twin.spec == model.spec
    assert torch.equal(twin(TOKENS), model(TOKENS))
