"""`convert`: any checkpoint as a native folder, which plain transformers opens with the same logits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 5e5}, SCALED])
def test_a_folder_says_all_under_the_names_of_transformers_4_too(
    native: Native, word_tokenizer: Any, tmp_path: Path, rope: dict[str, Any]
) -> None:
    """Its RoPE, its dtype, the class of its tokenizer and its special tokens; the logits in transformers 5 stay the same."""
    tokenizer = type(word_tokenizer)(tokenizer_object=word_tokenizer.backend_tokenizer, additional_special_tokens=["w7"])
    model = native("qwen3", rope_parameters=rope)
    folder = save_checkpoint(model, tmp_path / "out", DiffusionSpec(), tokenizer)
    config = json.loads((folder / "config.json").read_text())
    assert (config["rope_theta"], config["torch_dtype"]) == (5e5, "float32")
    assert config.get("rope_scaling") == (None if rope["rope_type"] == "default" else {"rope_type": "linear", "factor": 2.0})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert (settings["tokenizer_class"], settings["additional_special_tokens"]) == ("PreTrainedTokenizerFast", ["w7"])
    assert "local_files_only" not in settings and "extra_special_tokens" not in settings
    for again in (AutoModelForCausalLM.from_pretrained(folder), load_checkpoint(folder).hf_model):
        assert torch.equal(again(input_ids=TOKENS, use_cache=False).logits, model(input_ids=TOKENS, use_cache=False).logits)
    assert AutoTokenizer.from_pretrained(folder)("w5 w7")["input_ids"] == [0, 5, 7]


def test_a_generic_tokenizer_stays_itself_beside_any_model(native: Native, word_tokenizer: Any, tmp_path: Path) -> None:
    """transformers 5 takes Qwen2's own class beside a Qwen2 model, whatever the files say, and no word is known to it."""
    loaded = load_checkpoint(save_checkpoint(native("qwen2"), tmp_path / "out", DiffusionSpec(), word_tokenizer))
    assert loaded.tokenizer is not None and loaded.tokenizer("w5 w6")["input_ids"] == [0, 5, 6]


IN_452 = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__
assert __version__ == "4.52.4"
tokens, found = torch.load(sys.argv[1]), {}
for folder in sys.argv[3:]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    everything = torch.ones(1, 1, tokens.shape[1], tokens.shape[1]).bool().expand(len(tokens), -1, -1, -1)
    with torch.no_grad():
        found[folder] = [model(input_ids=tokens, attention_mask=mask, use_cache=False).logits for mask in (None, everything)]
    assert AutoTokenizer.from_pretrained(folder)("w5 w6")["input_ids"] == [0, 5, 6]
torch.save(found, sys.argv[2])
"""


@pytest.mark.slow
def test_a_folder_is_right_in_transformers_4_52(native: Native, word_tokenizer: Any, tmp_path: Path) -> None:
    """Run there: the same logits, causal without a mask, and with attention both ways once the mask is passed, which 4.52 needs."""
    site = Path(os.environ.get("MECHSHIFT_CACHE", "~/.cache/mechshift-tl")).expanduser() / "transformers-4.52.4"
    if not site.is_dir():
        packages = ["transformers==4.52.4", "tokenizers<0.22", "huggingface-hub<1.0"]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), *packages], check=True)
    expected = {}
    for family in ("llama", "qwen2", "qwen3", "gpt2"):
        model = native(family)
        for spec in (DiffusionSpec(), DiffusionSpec("full", 1, 2)):
            folder = save_checkpoint(model, tmp_path / f"{family}-{spec.attention}", spec, word_tokenizer)
            model.config.is_causal = spec.attention == "causal"
            expected[str(folder)] = model(input_ids=TOKENS, use_cache=False).logits
    torch.save(TOKENS, tmp_path / "tokens.pt")
    command = [sys.executable, "-c", IN_452, str(tmp_path / "tokens.pt"), str(tmp_path / "found.pt"), *expected]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)})
    for folder, (alone, with_mask) in torch.load(tmp_path / "found.pt").items():
        assert torch.equal(with_mask if folder.endswith("full") else alone, expected[folder]), folder
