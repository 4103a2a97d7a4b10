"""`convert`: any checkpoint as a native folder, which plain transformers opens with the same logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.attention import attention_mask_4d
from hooked_diffusion.checkpoints import convert, load_checkpoint, save_checkpoint

TOKENS = torch.tensor([[3, 17, 5, 40, 8, 8, 1], [0, 9, 30, 2, 22, 47, 11]])
Native = Callable[..., Any]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "architecture"), [("dream", "Qwen2"), ("llada", "Llama"), ("diffugpt", "GPT2")])
@torch.no_grad()
def test_the_goldens_as_native_folders(shared: Path, tmp_path: Path, name: str, architecture: str) -> None:
    golden = shared / "goldens" / f"{name}-tiny"
    reference = load_file(golden / "reference.safetensors")
    written = convert(golden, tmp_path / "native")
    plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "native")
    assert type(plain).__name__.startswith(architecture)
    torch.testing.assert_close(plain(reference["input_ids"], use_cache=False).logits, reference["logits"], atol=1e-5, rtol=0)
    hooked = HookedDiffusionTransformer.from_pretrained(tmp_path / "native", tokenizer=None)
    assert hooked.spec == written.spec and hooked.spec.attention == "full"
    torch.testing.assert_close(hooked(reference["input_ids"]), plain(reference["input_ids"], use_cache=False).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2"])
@torch.no_grad()
def test_every_native_class_goes_round(native: Native, word_tokenizer: Any, tmp_path: Path, family: str) -> None:
    model = native(family)
    source = save_checkpoint(model, tmp_path / "source", DiffusionSpec("full", 1, 2), word_tokenizer)
    model.config.is_causal = False
    expected = model(input_ids=TOKENS, use_cache=False).logits
    (source / "model.safetensors").rename(source / "old.safetensors")
    torch.save(load_file(source / "old.safetensors"), source / "pytorch_model.bin")
    convert(source, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(plain(input_ids=TOKENS, use_cache=False).logits, expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == word_tokenizer.get_vocab()


@torch.no_grad()
def test_a_block_causal_folder_needs_its_mask_outside(native: Native, tmp_path: Path) -> None:
    spec = DiffusionSpec("block", 0, 2, block_length=4)
    convert(save_checkpoint(native("qwen3"), tmp_path / "source", spec), tmp_path / "out")
    hooked = HookedDiffusionTransformer.from_pretrained(tmp_path / "out", tokenizer=None)
    plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    mask = attention_mask_4d(torch.ones_like(TOKENS).bool(), "block", 4)
    assert hooked.spec == spec
    torch.testing.assert_close(hooked(TOKENS), plain(TOKENS, attention_mask=mask, use_cache=False).logits, atol=1e-5, rtol=0)
    assert (hooked(TOKENS) - plain(TOKENS, use_cache=False).logits).abs().max() > 0.01


def test_what_cannot_be_opened_is_not_written(native: Native, tmp_path: Path) -> None:
    source = save_checkpoint(native("llama"), tmp_path / "source", DiffusionSpec("full", 1, 2))
    tensors = load_file(source / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match="1 missing key"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dtype_and_family_are_taken(native: Native, tmp_path: Path) -> None:
    shape = {"vocab_size": 32000, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    native("llama", **shape).save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", family="diffullama", dtype="bfloat16")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.is_causal, config.dtype) == (False, torch.bfloat16)
    assert load_checkpoint(tmp_path / "out", tokenizer=None).spec == DiffusionSpec("full", 1, 811, mask_is_reused=True)
