"""GGUF files written as llama.cpp writes them, read back as native models."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM

from hooked_diffusion.checkpoints import CheckpointMismatch, load_checkpoint

TOKENS = torch.tensor([[3, 17, 5, 40, 8, 8, 1]])
Native = Callable[..., Any]


def llama_cpp_rows(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """llama.cpp's order of q and k rows: rotary pairs side by side."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model: Any, path: Path, kind: Kind = Kind.F32, leave_out: str = "", extra: str = "", scaling: str = "") -> Path:
    """A GGUF file of a native model; matrices in `kind`, the header without `leave_out`."""
    config, architecture = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    header = {
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size, "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "context_length": config.max_position_embeddings, "vocab_size": config.vocab_size,
    }  # fmt: skip
    for key, value in header.items():
        if key != leave_out:
            writer.add_uint32(f"{architecture}.{key}", value)
    for key, value in {"attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.freq_base": 5e5}.items():
        if key != leave_out:
            writer.add_float32(f"{architecture}.{key}", value)
    if scaling:
        writer.add_string(f"{architecture}.rope.scaling.type", scaling)
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}.get(architecture, gguf.MODEL_ARCH.LLAMA)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name, values = names.get_name(key, try_suffixes=(".weight", ".bias")), tensor.numpy()
        if architecture == "llama" and ("q_proj" in key or "k_proj" in key):
            values = llama_cpp_rows(values, config.num_attention_heads if "q_proj" in key else config.num_key_value_heads)
        assert name is not None
        stored = kind if values.ndim == 2 else Kind.F32
        writer.add_tensor(name, gguf.quantize(values, stored) if stored != Kind.F32 else values.copy(), raw_dtype=stored)
    if extra:
        writer.add_tensor(extra, np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
def test_an_unquantised_file_gives_the_native_logits(native: Native, tmp_path: Path, family: str, tied: bool) -> None:
    model = native(family, tie_word_embeddings=tied)
    loaded = load_checkpoint(write_gguf(model, tmp_path / "model.gguf"), tokenizer=None)
    assert torch.equal(logits(loaded.hf_model), logits(model))
    assert loaded.hf_model.config.rms_norm_eps == 1e-5
    assert (loaded.source["family"], loaded.source["notes"]) == (family, [])


@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q8_0])
def test_quantised_weights_are_dequantised_and_said_to_be(native: Native, tmp_path: Path, kind: Kind) -> None:
    model = native("llama")
    loaded = load_checkpoint(write_gguf(model, tmp_path / "model.gguf", kind), tokenizer=None)
    assert loaded.source["notes"] == [f"weights dequantised from {kind.name} (16 of 21 tensors)"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(parameter.numpy(), kind), kind)))
            assert torch.equal(loaded.hf_model.get_parameter(name), parameter), name
    assert torch.equal(logits(loaded.hf_model), logits(model))


def test_transformers_reads_the_same_weights(native: Native, tmp_path: Path) -> None:
    path = write_gguf(native("llama"), tmp_path / "model.gguf", Kind.Q8_0)
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    torch.testing.assert_close(logits(load_checkpoint(path, tokenizer=None).hf_model), logits(theirs))


def test_headers_that_leave_out_or_scale(native: Native, tmp_path: Path) -> None:
    path = write_gguf(native("llama"), tmp_path / "a.gguf", leave_out="rope.freq_base")
    with pytest.raises(ValueError, match="a.gguf leaves out rope_theta;"):
        load_checkpoint(path, tokenizer=None)
    path = write_gguf(native("llama"), tmp_path / "b.gguf", scaling="yarn")
    with pytest.raises(ValueError, match="b.gguf scales its RoPE \\(yarn\\)"):
        load_checkpoint(path, tokenizer=None)


def test_tensors_that_the_native_model_lacks_are_extra(native: Native, tmp_path: Path) -> None:
    path = write_gguf(native("llama"), tmp_path / "model.gguf", extra="rope_freqs.weight")
    with pytest.raises(CheckpointMismatch, match="1 extra key \\(rope_freqs.weight\\)"):
        load_checkpoint(path, tokenizer=None)


def test_other_architectures_are_refused(native: Native, tmp_path: Path) -> None:
    model = native("llama")
    model.config.model_type = "gemma"
    with pytest.raises(ValueError, match="GGUF architecture 'gemma'; llama and qwen2 are read"):
        load_checkpoint(write_gguf(model, tmp_path / "model.gguf"), tokenizer=None)


def test_a_file_cut_short_is_named(native: Native, tmp_path: Path) -> None:
    path = write_gguf(native("llama"), tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="model.gguf is not a whole GGUF file"):
        load_checkpoint(path, tokenizer=None)
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="model.gguf is not a whole GGUF file"):
        load_checkpoint(path, tokenizer=None)


def test_without_a_tokenizer_inside_the_error_says_so(native: Native, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="model.gguf holds no tokenizer files; pass tokenizer=None"):
        load_checkpoint(write_gguf(native("llama"), tmp_path / "model.gguf"))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, native: Native, tmp_path: Path) -> None:
    path = write_gguf(native("llama"), tmp_path / "model.gguf")
    real = builtins.__import__

    def lacking(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ImportError, match=r"pip install 'mechshift-tl\[gguf\]'"):
        load_checkpoint(path, tokenizer=None)
