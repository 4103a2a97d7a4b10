"""What a config says before weights are read: names, families, refusals, and the notes on all that was not stated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.checkpoints import CheckpointAdapter, arm_spec, inspect_checkpoint, register_adapter, registry
from hooked_diffusion.checkpoints.llama import LLAMA
from hooked_diffusion.checkpoints.names import repository_name
from hooked_diffusion.checkpoints.reading import ConfigReading, read_config
from hooked_diffusion.checkpoints.registry import UNSUPPORTED

QWEN3 = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 48, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "use_sliding_window": False,
}  # fmt: skip
SDAR = QWEN3 | {"model_type": "sdar", "architectures": ["SDARForCausalLM"], "mask_token_id": 40}


def read(config: dict[str, Any], name: str = "", **settings: Any) -> ConfigReading:
    return read_config(config, where="here", name=name, **settings)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("JetLM/SDAR-4B-Chat-b64", "SDAR-4B-Chat-b64"),
        ("JetLM/SDAR-4B-Chat-b64@feature/x", "SDAR-4B-Chat-b64"),
        ("models/diffullama/", "diffullama"),
        ("diffullama/config.json", "diffullama"),
        ("configs/openai-community__gpt2-medium@0a83037.json", "gpt2-medium"),
        ("elsewhere/dllm-hub__Qwen3-0.6B-diffusion-mdlm-v0.1", "Qwen3-0.6B-diffusion-mdlm-v0.1"),
        ("hub/models--Dream-org--Dream-v0-Base-7B/snapshots/0c5a", "Dream-v0-Base-7B"),
        ("a@b/model", "model"),
        ("weights/model.Q4_0.gguf", "model.Q4_0.gguf"),
        ("runs/my_model", "my_model"),
    ],
)
def test_the_name_of_a_repository(path: str, name: str, tmp_path: Path) -> None:
    assert repository_name(path if path.startswith("JetLM") else tmp_path / path) == name


@pytest.mark.parametrize(
    ("name", "block", "note"),
    [
        ("SDAR-8B-Chat-b16", 16, "block_size = 16, which the config leaves out: told by the name SDAR-8B-Chat-b16"),
        ("SDAR-8B-Chat-b32-sft", 32, "told by the name"),
        ("SDAR-8B-Chat", 4, "block_size = 4, as is usual for sdar: neither config, tokenizer nor name states it"),
        ("SDAR-8B-Chat-b4x", 4, "as is usual for sdar"),
    ],
)
def test_the_block_of_sdar_is_in_its_name(name: str, block: int, note: str) -> None:
    reading = read(SDAR, name)
    assert reading.spec == DiffusionSpec("block", 0, 40, bos="none", block_length=block)
    assert len(reading.notes) == 1 and note in reading.notes[0]


def test_a_stated_block_counts_and_a_name_that_denies_it_is_noted() -> None:
    assert read(SDAR | {"block_size": 8}, "SDAR-8B-Chat").notes == ()
    assert read(SDAR | {"block_size": 8}, "SDAR-8B-Chat-b8").notes == ()
    reading = read(SDAR | {"block_size": 8}, "SDAR-8B-Chat-b16")
    assert reading.spec.block_length == 8
    assert reading.notes == ("block_size = 8 by the config, though the name SDAR-8B-Chat-b16 tells 16: the config counts",)
    with pytest.raises(ValueError, match="block_size = 0; give a whole number, at least 1"):
        _ = read(SDAR | {"block_size": 0}).spec


def test_a_usual_mask_is_of_one_vocabulary() -> None:
    config = {key: value for key, value in SDAR.items() if key != "mask_token_id"}
    with pytest.raises(ValueError, match="leaves out mask_token_id"):
        _ = read(config, "SDAR-8B-Chat-b8").spec
    assert read(config | {"vocab_size": 151936}, "SDAR-8B-Chat-b8").spec.mask_token_id == 151669


@pytest.mark.parametrize("stated", [{"mask_token_id": 40}, {}])
def test_a_stock_class_with_a_mask_token_is_noted(stated: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3 | stated))
    if not stated:
        assert inspect_checkpoint(tmp_path).notes == ()
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": {"content": "<M>"}}))
        (tmp_path / "added_tokens.json").write_text(json.dumps({"<M>": 40}))
    reading = inspect_checkpoint(tmp_path)
    assert reading.spec == DiffusionSpec()
    (note,) = reading.notes
    assert "read as a causal ARM, though its config or tokenizer names a mask token, 40" in note and "family=" in note
    native = inspect_checkpoint(tmp_path, config={"diffusion_spec": DiffusionSpec("full", 1, 40).to_dict()})
    assert native.spec == DiffusionSpec("full", 1, 40) and len(native.notes) == 1


@pytest.mark.parametrize("kind", ["qwen3", "sdar", "mine"])
def test_a_class_that_nobody_knows_is_an_unknown_family(kind: str) -> None:
    """Whatever model_type says: another class computes something else, and deleting its fields would leave a causal Qwen3."""
    config = QWEN3 | {"model_type": kind, "architectures": ["MysteryLM"], "mystery_depth": 3}
    with pytest.raises(
        ValueError, match=f"unknown family: here .model_type '{kind}', architectures .'MysteryLM'.* fits no known"
    ) as caught:
        read(config, "SDAR-8B-Chat-b8")
    assert "mystery_depth" not in str(caught.value) and ("knows the class MysteryLM" in str(caught.value)) == (kind != "mine")
    with pytest.raises(ValueError, match="mystery_depth = 3, which nothing here knows for qwen3"):
        read(config, family="qwen3")


def test_a_family_told_by_its_type_alone_needs_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ADAPTERS", dict(registry._ADAPTERS))
    register_adapter(CheckpointAdapter("mine", LLAMA.model_class, ("mine",), (), arm_spec, "none"))
    config = {key: value for key, value in QWEN3.items() if key != "use_sliding_window"}
    assert read(config | {"model_type": "mine", "architectures": ["MysteryLM"]}).adapter.family == "mine"


@pytest.mark.parametrize(
    ("model", "stated", "name"),
    [
        ("LLaDA2", {"model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"]}, "LLaDA2.0-mini"),
        ("LLaDA-MoE", {"model_type": "llada", "architectures": ["LLaDAMoEModelLM"]}, "LLaDA-MoE-7B-A1B-Base"),
        ("RND1", {"model_type": "rnd1", "architectures": ["RND1LM"]}, "RND1-Base-0910"),
        ("SDAR-MoE", {"model_type": "sdar_moe", "architectures": ["SDARMoeForCausalLM"]}, "SDAR-30B-A3B-Chat"),
        ("DiffusionGemma", {"architectures": ["DiffusionGemmaForBlockDiffusion"]}, "diffusiongemma-26B-A4B-it"),
        ("Nemotron-Labs-Diffusion", {"architectures": ["NemotronLabsDiffusionModel"]}, "Nemotron-Labs-Diffusion-8B"),
        ("dQwen3.5", {"model_type": "dqwen3_5"}, "dQwen3.5-2B-Base"),
        ("SDLM", {"model_type": "qwen2", "architectures": ["SDLMForCausalLM"]}, "SDLM-3B-D4"),
    ],
)
def test_known_models_that_cannot_be_opened_say_what_is_missing(model: str, stated: dict[str, Any], name: str) -> None:
    (row,) = (row for row in UNSUPPORTED if row.model == model)
    for config, called in ((stated, "plain"), (QWEN3, name)):
        with pytest.raises(ValueError, match=f"here: {model} is an unknown family here and cannot be opened: ") as caught:
            read(config, called)
        assert row.why in str(caught.value)
    assert read(QWEN3 | {"diffusion_spec": DiffusionSpec().to_dict()}, name).adapter.family == "qwen3"


def test_every_unsupported_model_is_tested() -> None:
    assert len(UNSUPPORTED) == 8


def test_flags_that_are_inert_are_passed_over() -> None:
    assert read(QWEN3 | {"unsloth_fixed": True, "unsloth_version": "2025.1"}).notes == ()
    for flag in ("conplemenrary_mask", "complementary_mask"):
        config = QWEN3 | {"model_type": "Fast_dLLM_Qwen", "architectures": ["Fast_dLLM_QwenForCausalLM"], "mask_token_id": 40}
        assert read(config | {flag: True, "bd_size": 8}).spec.block_length == 8


def test_wedlm_is_qwen2_or_qwen3_by_its_norm() -> None:
    config = QWEN3 | {"model_type": "wedlm", "architectures": ["WeDLMForCausalLM"], "mask_token_id": 40, "attention_bias": False}
    assert read(config | {"qk_norm": True}).adapter.family == "wedlm-qwen3"
    with pytest.raises(ValueError, match="attention_bias = False; wedlm-qwen2 checkpoints are read with True alone"):
        read(config | {"qk_norm": False})
    with pytest.raises(ValueError, match="fits no known family"):
        read(config)
