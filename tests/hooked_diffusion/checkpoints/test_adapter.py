"""Families: which config belongs to which, what a config must state, and how keys are renamed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.checkpoints import CheckpointAdapter, arm_spec, families, register_adapter, registry
from hooked_diffusion.checkpoints.config import native_config
from hooked_diffusion.checkpoints.dream import DREAM
from hooked_diffusion.checkpoints.gpt2 import GPT2
from hooked_diffusion.checkpoints.llada import LLADA
from hooked_diffusion.checkpoints.llama import LLAMA
from hooked_diffusion.checkpoints.qwen2 import QWEN2
from hooked_diffusion.checkpoints.registry import adapter_for

LLAMA_CONFIG = {
    "model_type": "llama", "vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 5e5,
}  # fmt: skip
QWEN_CONFIG = LLAMA_CONFIG | {"model_type": "qwen2", "use_sliding_window": False}
GPT2_CONFIG = {
    "model_type": "gpt2", "vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_ctx": 64,
    "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
}  # fmt: skip
DREAM_CONFIG = QWEN_CONFIG | {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 40}


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def test_every_row_has_its_family() -> None:
    assert set(families()) >= {
        "llama", "qwen2", "qwen3", "gpt2", "dream", "diffullama", "diffugpt", "a2d-qwen2", "a2d-qwen3", "a2d-qwen2-bd3lm",
        "a2d-qwen3-bd3lm", "llada", "fast-dllm-v2", "sdar",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name", "family"),
    [
        ({"model_type": "llama"}, "", "llama"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "", "qwen2"),
        ({"model_type": "qwen3"}, "", "qwen3"),
        ({"model_type": "gpt2"}, "gpt2-medium", "gpt2"),
        ({"model_type": "Dream"}, "Dream-v0-Base-7B", "dream"),
        ({"model_type": "Dream"}, "DiffuCoder-7B-Instruct", "dream"),
        ({"model_type": "llama"}, "diffullama", "diffullama"),
        ({"model_type": "gpt2", "architectures": ["DiscreteDiffusionModel"]}, "", "diffugpt"),
        ({"model_type": "gpt2"}, "diffugpt-m", "diffugpt"),
        ({"model_type": "a2d-qwen3"}, "Qwen3-0.6B-diffusion-mdlm-v0.1", "a2d-qwen3"),
        ({"model_type": "a2d-qwen3"}, "Qwen3-0.6B-diffusion-bd3lm-v0.1", "a2d-qwen3-bd3lm"),
        ({"architectures": ["A2DQwen2LMHeadModel"]}, "Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1", "a2d-qwen2"),
        ({"architectures": ["A2DQwen2LMHeadModel"]}, "Qwen2.5-Coder-0.5B-Instruct-diffusion-bd3lm-v0.1", "a2d-qwen2-bd3lm"),
        ({"model_type": "llada"}, "LLaDA-1.5", "llada"),
        ({"model_type": "Fast_dLLM_Qwen"}, "Fast_dLLM_v2_7B", "fast-dllm-v2"),
        ({"model_type": "sdar"}, "SDAR-1.7B-Chat", "sdar"),
    ],
)
def test_a_config_or_a_name_finds_its_family(config: dict[str, Any], name: str, family: str) -> None:
    assert adapter_for(config, name=name).family == family


def test_a_folder_that_states_its_spec_is_native_whatever_its_name() -> None:
    assert adapter_for({"model_type": "llama", "diffusion_spec": {}}, name="diffullama").family == "llama"


def test_what_only_a_name_tells_apart_is_noted() -> None:
    shape = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32}
    (note,) = registry.lookalikes(shape, LLAMA)
    assert "read as llama; the config of diffullama looks the same: pass family='diffullama' for one" in note
    assert registry.lookalikes(shape | {"diffusion_spec": {}}, LLAMA) == registry.lookalikes(LLAMA_CONFIG, LLAMA) == ()
    assert registry.lookalikes(shape, adapter_for(shape, name="diffullama")) == ()


def test_family_overrides_the_config_and_unknown_ones_list_the_known() -> None:
    assert adapter_for({"model_type": "qwen2"}, "dream") is DREAM
    known = "dream, efficient-dlm, fast-dllm-v2, gpt2, .*, llama, .*, qwen2"
    with pytest.raises(ValueError, match=f"unknown checkpoint family 'lama'; known: .*{known}"):
        adapter_for({}, "lama")
    with pytest.raises(ValueError, match="model_type 'gemma'.*no known family.*dream, "):
        adapter_for({"model_type": "gemma"})


def test_a_config_that_fits_two_families_asks_for_one() -> None:
    with pytest.raises(ValueError, match="llama and qwen2; pass family="):
        adapter_for({"model_type": "llama", "architectures": ["Qwen2ForCausalLM"]})


def test_others_can_register_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ADAPTERS", dict(registry._ADAPTERS))
    mine = dataclasses.replace(LLAMA, family="mine", model_types=("mine",), architectures=())
    assert register_adapter(mine) is mine
    assert adapter_for({"model_type": "mine"}) is mine
    with pytest.raises(ValueError, match="'mine' is registered already"):
        register_adapter(mine)


@pytest.mark.parametrize("key", [key for key in LLAMA_CONFIG if key != "model_type"])
def test_a_config_must_state_what_defaults_would_guess(key: str) -> None:
    with pytest.raises(ValueError, match=f"here leaves out {key};"):
        native_config(LLAMA, without(LLAMA_CONFIG, key), "here")


def test_everything_missing_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="leaves out rms_norm_eps, rope_theta, use_sliding_window;"):
        native_config(QWEN2, without(QWEN_CONFIG, "rope_theta", "rms_norm_eps", "use_sliding_window"), "here")


@pytest.mark.parametrize("theta", [{"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}])
def test_theta_is_read_from_either_place(theta: dict[str, Any]) -> None:
    config = native_config(LLAMA, without(LLAMA_CONFIG, "rope_theta") | theta, "here")
    assert config.rope_parameters["rope_theta"] == 5e5
    assert config.rms_norm_eps == 1e-5


@pytest.mark.parametrize("key", ["vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "layer_norm_epsilon", "activation_function"])
def test_gpt2_states_its_own_fields(key: str) -> None:
    assert native_config(GPT2, GPT2_CONFIG, "here").n_inner is None
    with pytest.raises(ValueError, match=f"here leaves out {key};.*pass config="):
        native_config(GPT2, without(GPT2_CONFIG, key), "here")


@pytest.mark.parametrize("flag", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}, {"add_cross_attention": True}])
def test_gpt2_flags_that_change_the_function(flag: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match=f"says {next(iter(flag))} = "):
        native_config(GPT2, GPT2_CONFIG | flag, "here")


def test_a_flag_that_nobody_knows_is_refused_while_it_is_on() -> None:
    native_config(LLAMA, LLAMA_CONFIG | {"use_mup": False, "adapters": [], "note": None}, "here")
    with pytest.raises(ValueError, match=r"here says use_mup = True, which nothing here knows for llama.*pass config=\{'use_mup': None\}"):
        native_config(LLAMA, LLAMA_CONFIG | {"use_mup": True}, "here")


def test_layers_that_attend_in_windows_are_refused() -> None:
    native_config(QWEN2, QWEN_CONFIG | {"layer_types": ["full_attention"] * 2}, "here")
    with pytest.raises(ValueError, match="layer_types = "):
        native_config(QWEN2, QWEN_CONFIG | {"layer_types": ["full_attention", "sliding_attention"]}, "here")


def test_two_thetas_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="rope_theta = 500000.0 and rope_parameters.rope_theta = 10000.0"):
        native_config(LLAMA, LLAMA_CONFIG | {"rope_parameters": {"rope_theta": 1e4}}, "here")


def test_scaled_rope_is_kept() -> None:
    config = native_config(LLAMA, LLAMA_CONFIG | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "here")
    assert config.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}


def test_what_the_native_class_cannot_compute_is_refused() -> None:
    with pytest.raises(ValueError, match="use_sliding_window = True"):
        native_config(QWEN2, QWEN_CONFIG | {"use_sliding_window": True}, "here")
    with pytest.raises(ValueError, match="quantised"):
        native_config(LLAMA, LLAMA_CONFIG | {"quantization_config": {"quant_method": "gptq"}}, "here")


def test_specs_of_the_families() -> None:
    assert LLAMA.spec(LLAMA_CONFIG, 48, "here") == DiffusionSpec()
    assert DREAM.spec(DREAM_CONFIG, 48, "here") == DiffusionSpec("full", 1, 40)
    assert LLADA.spec({"mask_token_id": 2}, 48, "here") == DiffusionSpec("full", 0, 2)


def test_a_stated_spec_wins() -> None:
    spec = DiffusionSpec("full", 0, 7, tail=(1,))
    assert LLAMA.spec(LLAMA_CONFIG | {"diffusion_spec": spec.to_dict(), "is_causal": False}, 48, "here") == spec


def test_specs_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="leaves out mask_token_id"):
        DREAM.spec(without(DREAM_CONFIG, "mask_token_id"), 48, "here")
    with pytest.raises(ValueError, match="mask_token_id 40 lies outside the vocabulary of 40"):
        DREAM.spec(DREAM_CONFIG, 40, "here")
    with pytest.raises(ValueError, match="is_causal = False, but the spec says causal"):
        LLAMA.spec(LLAMA_CONFIG | {"is_causal": False}, 48, "here")


def test_llada_keys_are_matched_whole() -> None:
    assert LLADA.native_key("model.transformer.ff_out.weight") == "lm_head.weight"
    assert LLADA.native_key("model.transformer.blocks.11.ff_out.weight") == "model.layers.11.mlp.down_proj.weight"
    assert LLADA.native_key("model.transformer.blocks.0.k_proj.weight") == "model.layers.0.self_attn.k_proj.weight"
    assert LLADA.native_key("x.model.transformer.ff_out.weight") is None
    assert LLADA.native_key("lm_head.weight") is None


def test_only_exact_buffers_are_dropped() -> None:
    assert LLAMA.drops("model.layers.3.self_attn.rotary_emb.inv_freq")
    assert not LLAMA.drops("model.layers.3.self_attn.rotary_emb.inv_freq.weight")


def test_a_broken_pattern_is_found_when_the_adapter_is_made() -> None:
    with pytest.raises(ValueError, match=r"adapter bad: 'wte\(' is no regular expression"):
        CheckpointAdapter("bad", LlamaForCausalLM, (), (), arm_spec, "none", keys=(("wte(", "x"),))
