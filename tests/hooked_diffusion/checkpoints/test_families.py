"""Every family: its own keys and config in, the native logits out, read as its authors do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.checkpoints import load_checkpoint
from hooked_diffusion.checkpoints.diffugpt import DIFFUGPT
from hooked_diffusion.checkpoints.gpt2 import GPT2
from hooked_diffusion.checkpoints.llada import LLADA

TOKENS = torch.tensor([[3, 17, 5, 40, 8, 8, 1], [0, 9, 30, 2, 22, 47, 11]])
Native = Callable[..., Any]
ROPE = {"rope_theta": 5e5, "rope_parameters": None}
#: What the family's own config says where it differs from the native one's.
CONFIGS: dict[str, dict[str, Any]] = {
    "dream": {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 40, "use_mrope": False, **ROPE},
    "a2d-qwen2": {"model_type": "a2d-qwen2", "architectures": ["A2DQwen2LMHeadModel"], "mask_token_id": 40},
    "a2d-qwen3": {"model_type": "a2d-qwen3", "architectures": ["A2DQwen3LMHeadModel"], "mask_token_id": 40},
    "fast-dllm-v2": {"model_type": "Fast_dLLM_Qwen", "architectures": ["Fast_dLLM_QwenForCausalLM"], "mask_token_id": 40, "bd_size": 32},
    "sdar": {
        "model_type": "sdar", "architectures": ["SDARForCausalLM"], "mask_token_id": 40, "attn_implementation": "flex_attention",
        "fuse_cross_entropy": True, "ep_size": 1, "debug": False, "skip_checkpoint": False, "sliding_window": None, **ROPE,
    },
    "coda": {"model_type": "CoDA", "architectures": ["CoDALanguageModel"], "mask_token_id": 40, "sampling_eps": 0.001, **ROPE},
    "efficient-dlm": {
        "model_type": "qwen3", "architectures": ["EfficientDLM"], "mask_token_id": 40, "block_size": 3, "dlm_arch": "encoder",
        "dlm_paradigm": "bidirectional", "dlm_type": "llada", "prefix_ratio": 0.8, "disable_qk_norm": False, "num_ar_layers": 0,
    },
    "illada": {
        "model_type": "illada", "architectures": ["ILLaDAForCausalLM"], "mask_token_id": 5, "layer_norm_eps": None, "resid_pdrop": 0.0,
        "embd_pdrop": 0.0, **ROPE,
    },
    "wedlm-qwen2": {
        "model_type": "wedlm", "architectures": ["WeDLMForCausalLM"], "mask_token_id": 40, "qk_norm": False, "attention_bias": True, **ROPE,
    },
    "wedlm-qwen3": {
        "model_type": "wedlm", "architectures": ["WeDLMForCausalLM"], "mask_token_id": 40, "qk_norm": True, "attention_bias": False, **ROPE,
    },
}  # fmt: skip
SPECS = {
    "dream": ("qwen2", DiffusionSpec("full", 1, 40)),
    "a2d-qwen2": ("qwen2", DiffusionSpec("full", 0, 40, bos="none")),
    "a2d-qwen3": ("qwen3", DiffusionSpec("full", 0, 40, bos="none")),
    "fast-dllm-v2": ("qwen2", DiffusionSpec("block", 1, 40, bos="none", block_length=32)),
    "sdar": ("qwen3", DiffusionSpec("block", 0, 40, bos="none", block_length=4)),
    "coda": ("qwen3", DiffusionSpec("full", 1, 40, bos="none")),
    "efficient-dlm": ("qwen3", DiffusionSpec("block", 0, 40, mask_is_reused=True, bos="none", block_length=3)),
    "illada": ("llama", DiffusionSpec("full", 0, 5)),
    "wedlm-qwen2": ("qwen2", DiffusionSpec("causal", 0, 40, bos="none")),
    "wedlm-qwen3": ("qwen3", DiffusionSpec("causal", 0, 40, bos="none")),
}


def sees(spec: DiffusionSpec, length: int = TOKENS.shape[1]) -> torch.Tensor:
    """Who sees whom, `(2, 1, length, length)`."""
    place = torch.arange(length) // (spec.block_length or 1)
    mask = place[None, :] <= place[:, None] if spec.attention != "full" else torch.ones(length, length, dtype=torch.bool)
    return mask[None, None].expand(2, 1, -1, -1)


@torch.no_grad()
def logits(model: Any, spec: DiffusionSpec) -> torch.Tensor:
    return model(input_ids=TOKENS, attention_mask=sees(spec), use_cache=False).logits


def write(folder: Path, model: Any, keys: Callable[[str], str] = str, **config: Any) -> Path:
    """A native model saved under a family's own keys and config; a value of None is taken out."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({keys(key): tensor for key, tensor in tensors.items()}, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


@pytest.mark.parametrize("family", CONFIGS)
def test_native_keys_under_a_name_of_their_own(native: Native, tmp_path: Path, family: str) -> None:
    kin, spec = SPECS[family]
    model = native(kin)
    folder = write(tmp_path, model, **CONFIGS[family])
    loaded = load_checkpoint(folder, tokenizer=None)
    assert (loaded.source["family"], loaded.spec) == (family, spec)
    assert torch.equal(logits(loaded.hf_model, spec), logits(model, spec))
    assert HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None).direction == spec.attention


@pytest.mark.parametrize(
    ("name", "kin", "family", "config", "spec"),
    [
        ("open-dcoder-0.5B", "qwen2", "open-dcoder", {"mask_token_id": 40}, DiffusionSpec("full", 1, 40, bos="none")),
        ("SDAR-4B-Chat-b8", "qwen3", "sdar", CONFIGS["sdar"], DiffusionSpec("block", 0, 40, bos="none", block_length=8)),
        ("OPDLM-0.6B", "qwen3", "opdlm", CONFIGS["sdar"], DiffusionSpec("block", 0, 40, bos="none", block_length=4)),
        ("OPDLM-0.6B-bs16", "qwen3", "opdlm", CONFIGS["a2d-qwen3"], DiffusionSpec("block", 0, 40, bos="none", block_length=16)),
        ("Qwen3-0.6B-a2d-init", "qwen3", "a2d-init", CONFIGS["a2d-qwen3"], DiffusionSpec("full", 1, 40, bos="none")),
        ("CoDA-v0-Instruct", "qwen3", "coda", CONFIGS["coda"], DiffusionSpec("full", 1, 40, bos="none")),
        ("I-DLM-8B", "qwen3", "i-dlm", CONFIGS["sdar"] | {"use_regular_causal": True}, DiffusionSpec("causal", 1, 40, bos="none")),
    ],
)
def test_a_name_tells_family_and_block(
    native: Native, tmp_path: Path, name: str, kin: str, family: str, config: dict[str, Any], spec: DiffusionSpec
) -> None:
    model = native(kin)
    folder = write(tmp_path / name, model, **config)
    loaded = load_checkpoint(folder, tokenizer=None)
    assert (loaded.source["family"], loaded.spec) == (family, spec)
    assert torch.equal(logits(loaded.hf_model, spec), logits(model, spec))
    plain = folder.rename(tmp_path / "plain")
    if family == "i-dlm":
        with pytest.raises(ValueError, match="use_regular_causal = True, which nothing here knows for sdar"):
            load_checkpoint(plain, tokenizer=None)
    else:
        assert (load_checkpoint(plain, tokenizer=None).source["family"] == family) == (family in ("sdar", "coda"))
    block = None if spec.block_length is None else {"block_size": spec.block_length}
    assert load_checkpoint(plain, family=family, tokenizer=None, config=block).spec == spec


@pytest.mark.parametrize(
    ("kin", "family", "block"), [("qwen2", "a2d-qwen2-bd3lm", 32), ("qwen3", "a2d-qwen3-bd3lm", 32), ("qwen3", "sdar", 8)]
)
def test_blocks_by_name_by_family_and_by_config(native: Native, tmp_path: Path, kin: str, family: str, block: int) -> None:
    own: dict[str, Any] = CONFIGS["sdar" if family == "sdar" else f"a2d-{kin}"] | ({"block_size": 8} if family == "sdar" else {})
    name = "SDAR-1.7B-Chat" if family == "sdar" else f"{kin.title()}-0.6B-diffusion-bd3lm-v0.1"
    folder = write(tmp_path / name, native(kin), **own)
    by_name = load_checkpoint(folder, tokenizer=None)
    assert (by_name.source["family"], by_name.spec.attention, by_name.spec.block_length) == (family, "block", block)
    plain = folder.rename(tmp_path / "plain")
    if family != "sdar":
        loaded = load_checkpoint(plain, tokenizer=None)
        assert loaded.spec.attention == "full"
        assert loaded.source["notes"] == [f"read as a2d-{kin}; the config of {family} looks the same: pass family={family!r} for one"]
    assert load_checkpoint(plain, family=family, tokenizer=None).spec == by_name.spec


def test_diffullama_is_an_mdm_by_name_or_by_family_and_says_so(native: Native, tmp_path: Path) -> None:
    model = native("llama", vocab_size=32000, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    folder = write(tmp_path / "diffullama", model)
    loaded = load_checkpoint(folder, tokenizer=None)
    assert loaded.spec == DiffusionSpec("full", 1, 811, mask_is_reused=True)
    assert "read as an MDM with full attention and logit shift 1" in loaded.source["notes"][0]
    plain = folder.rename(tmp_path / "plain")
    assert load_checkpoint(plain, tokenizer=None).spec == DiffusionSpec()
    assert load_checkpoint(plain, tokenizer=None, family="diffullama").spec == loaded.spec
    assert HookedDiffusionTransformer.from_pretrained(plain, tokenizer=None, family="diffullama").spec == loaded.spec


def test_llada_keys_load_into_llama(native: Native, tmp_path: Path) -> None:
    model = native("llama", num_key_value_heads=4)
    to_native = {key: LLADA.native_key(key) for key in _llada_keys(layers=2)}
    assert sorted(map(str, to_native.values())) == sorted(model.state_dict())
    weights = model.state_dict()
    save_file({key: weights[name].clone() for key, name in to_native.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(_llada_config()))
    loaded = load_checkpoint(tmp_path, tokenizer=None)
    assert loaded.spec == DiffusionSpec("full", 0, 43)
    assert torch.equal(logits(loaded.hf_model, loaded.spec), logits(model, loaded.spec))


def _llada_keys(layers: int) -> list[str]:
    parts = ["attn_norm", "ff_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"]
    blocks = [f"blocks.{i}.{part}" for i in range(layers) for part in parts]
    return [f"model.transformer.{part}.weight" for part in ["wte", "ln_f", "ff_out", *blocks]]


def _llada_config() -> dict[str, Any]:
    return {
        **LLADA.expects, "model_type": "llada", "embedding_size": 48, "vocab_size": 44, "d_model": 32, "mlp_hidden_size": 64, "n_layers": 2,
        "n_heads": 4, "n_kv_heads": 4, "max_sequence_length": 64, "activation_type": "silu", "rms_norm_eps": 1e-5, "rope_theta": 5e5,
        "weight_tying": False, "mask_token_id": 43, "rope_full_precision": True, "flash_attention": True, "precision": "amp_bf16",
        "alibi_bias_max": 8.0, "mlp_ratio": 4, "init_fn": "mitchell", "block_group_size": 1,
    }  # fmt: skip


def to_diffugpt(key: str) -> str:
    return "embed_tokens.weight" if "wte" in key else key.replace("transformer.", "denoise_model.")


@pytest.mark.parametrize(
    ("rows", "spec"),
    [
        (50257, DiffusionSpec("full", 1, 10541, mask_is_reused=True, bos="required")),
        (50258, DiffusionSpec("full", 1, 50257, mask_is_reused=False, bos="required")),
    ],
)
def test_diffugpt_small_and_medium(native: Native, tmp_path: Path, rows: int, spec: DiffusionSpec) -> None:
    """The medium one has a mask row that GPT-2's config does not count."""
    model = native("gpt2", vocab_size=rows, n_embd=8, n_layer=1, n_head=2)
    folder = write(tmp_path / "model", model, to_diffugpt, architectures=["DiscreteDiffusionModel"], vocab_size=50257)
    tensors = load_file(folder / "model.safetensors")
    tensors |= {"denoise_model.h.0.attn.bias": torch.ones(1, 1, 8, 8), "denoise_model.h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(tensors, folder / "model.safetensors")
    loaded = load_checkpoint(folder, tokenizer=None)
    assert loaded.spec == spec
    assert loaded.source["notes"] == ([] if rows == 50257 else ["vocabulary of 50258, the rows of the embedding; the config says 50257"])
    assert loaded.hf_model.lm_head.weight is loaded.hf_model.get_parameter("transformer.wte.weight")
    assert torch.equal(logits(loaded.hf_model, spec), logits(model, spec))


def test_only_gpt2s_buffers_are_dropped() -> None:
    for adapter, prefix in ((DIFFUGPT, "denoise_model."), (GPT2, "transformer."), (GPT2, "")):
        assert adapter.drops(f"{prefix}h.3.attn.bias") and adapter.drops(f"{prefix}h.3.attn.masked_bias")
        assert not adapter.drops(f"{prefix}h.3.attn.c_attn.bias")
        assert adapter.native_key(f"{prefix}h.3.attn.c_attn.bias") == "transformer.h.3.attn.c_attn.bias"


def test_gpt2_without_its_prefix_or_its_head(native: Native, tmp_path: Path) -> None:
    model = native("gpt2")
    folder = write(tmp_path, model, lambda key: key.removeprefix("transformer."), tie_word_embeddings=None)
    assert torch.equal(logits(load_checkpoint(folder, tokenizer=None).hf_model, DiffusionSpec()), logits(model, DiffusionSpec()))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("dream", DiffusionSpec("full", 1, 60)),
        ("llada", DiffusionSpec("full", 0, 2)),
        ("diffugpt", DiffusionSpec("full", 1, 40, mask_is_reused=True, bos="required")),
    ],
)
@torch.no_grad()
def test_mdm_families_reproduce_the_original_code(shared: Path, name: str, spec: DiffusionSpec) -> None:
    golden = shared / "goldens" / f"{name}-tiny"
    reference = load_file(golden / "reference.safetensors")
    loaded = load_checkpoint(golden, tokenizer=None)
    assert (loaded.spec, loaded.source["family"], loaded.source["notes"]) == (spec, name, [])
    torch.testing.assert_close(loaded.hf_model(reference["input_ids"]).logits, reference["logits"], atol=1e-5, rtol=0)
    hooked = HookedDiffusionTransformer.from_pretrained(golden, tokenizer=None)
    largest = reference["logits"].abs().max().item()
    torch.testing.assert_close(hooked(reference["input_ids"]), reference["logits"], atol=1e-5 * largest, rtol=0)


@pytest.mark.parametrize("family", ["dream", "a2d-qwen3", "sdar", "fast-dllm-v2"])
def test_a_tokenizer_that_names_remote_code_is_loaded_without_it(
    native: Native, tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither here nor when TransformerLens loads it again is anyone asked to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to run remote code"))
    auto_map = {"AutoConfig": "remote.Config", "AutoModel": "remote.Model"}
    folder = write(tmp_path, native(SPECS[family][0]), **CONFIGS[family], auto_map=auto_map)
    (folder / "remote.py").write_text("raise RuntimeError('remote code ran')")
    (folder / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, "<|begin|>": 3}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Remote", "bos_token": "<|begin|>", "auto_map": {"AutoTokenizer": ["remote.Tokenizer", None]}})
    )
    model = HookedDiffusionTransformer.from_pretrained(folder)
    assert model.to_tokens("aba", prepend_bos=False)[0].tolist() == [2, 0]
    assert "custom code" not in "".join(capsys.readouterr())


def test_the_mask_id_may_come_from_the_checkpoints_own_tokenizer(native: Native, tmp_path: Path, word_tokenizer: Any) -> None:
    folder = write(tmp_path, native("qwen3"), **{**CONFIGS["a2d-qwen3"], "mask_token_id": None})
    with pytest.raises(ValueError, match="leaves out mask_token_id; state it there, or pass config="):
        load_checkpoint(folder, tokenizer=None)
    assert load_checkpoint(folder, tokenizer=None, config={"mask_token_id": 7}).spec.mask_token_id == 7
    word_tokenizer.save_pretrained(folder)
    assert load_checkpoint(folder, tokenizer=None).spec.mask_token_id == word_tokenizer.mask_token_id


def test_a_config_may_be_completed_by_the_caller(native: Native, tmp_path: Path) -> None:
    folder = write(tmp_path, native("llama"), rope_parameters=None, fancy=True)
    with pytest.raises(ValueError, match=re.escape("leaves out rope_theta; state it there or pass config={'rope_theta': …}")):
        load_checkpoint(folder, tokenizer=None)
    with pytest.raises(ValueError, match="fancy = True"):
        load_checkpoint(folder, tokenizer=None, config={"rope_theta": 5e5})
    loaded = load_checkpoint(folder, tokenizer=None, config={"rope_theta": 5e5, "fancy": None})
    assert loaded.source["notes"] == ["config overridden by the caller: rope_theta = 500000.0, fancy = None"]
    assert torch.equal(logits(loaded.hf_model, loaded.spec), logits(native("llama"), loaded.spec))
