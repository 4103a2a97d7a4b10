"""Checkpoints into native models: parity of logits, provenance, and one clear error for a folder that holds none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.checkpoints import CheckpointMismatch, convert, load_checkpoint, save_checkpoint

TOKENS = torch.tensor([[3, 17, 5, 40, 8, 8, 1], [0, 9, 30, 2, 22, 47, 11]])
Native = Callable[..., Any]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=TOKENS).logits


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object] = lambda tensors: None, **config: Any) -> None:
    """Change a saved folder's tensors in place, and its config; a config value of None is taken out."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.fixture
def folder(native: Native, tmp_path: Path) -> Path:
    native("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_native_folder_gives_the_same_logits(native: Native, tmp_path: Path, family: str, tied: bool) -> None:
    model = native(family, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path, tokenizer=None)
    assert torch.equal(logits(loaded.hf_model), logits(model))
    assert (loaded.hf_model.lm_head.weight is loaded.hf_model.get_input_embeddings().weight) == tied
    assert not loaded.hf_model.training
    assert loaded.spec == DiffusionSpec()


def test_shards_are_read_as_one(native: Native, tmp_path: Path) -> None:
    model = native("qwen2")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = load_checkpoint(tmp_path, tokenizer=None)
    assert torch.equal(logits(loaded.hf_model), logits(model))
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks 1 of its .* shards: {lost.name}"):
        load_checkpoint(tmp_path, tokenizer=None)


def test_dtype_and_rope_buffers(folder: Path, native: Native) -> None:
    loaded = load_checkpoint(folder, tokenizer=None, dtype="bfloat16")
    assert {p.dtype for p in loaded.hf_model.parameters()} == {torch.bfloat16}
    plain = native("llama")
    for name, buffer in plain.named_buffers():
        assert torch.equal(loaded.hf_model.get_buffer(name), buffer), name
    assert loaded.source["dtype"] == "bfloat16"
    assert load_checkpoint(folder, tokenizer=None).hf_model.dtype == torch.float32
    with pytest.raises(ValueError, match="'flot32' is no floating torch dtype"):
        load_checkpoint(folder, tokenizer=None, dtype="flot32")


def test_loaded_weights_train_without_touching_the_file(folder: Path) -> None:
    before = load_checkpoint(folder, tokenizer=None)
    with torch.no_grad():
        for parameter in before.hf_model.parameters():
            parameter.zero_()
    after = load_checkpoint(folder, tokenizer=None)
    assert after.source["sha256"] == before.source["sha256"]
    assert after.hf_model.model.embed_tokens.weight.abs().sum() > 0
    assert all(parameter.requires_grad for parameter in after.hf_model.parameters())


def test_source_tells_where_weights_came_from(folder: Path) -> None:
    source = load_checkpoint(folder, tokenizer=None).source
    assert source["name"] == str(folder)
    assert (source["family"], source["revision"], source["dtype"], source["notes"]) == ("llama", None, "float32", [])
    assert re.fullmatch("[0-9a-f]{64}", source["sha256"])


def test_missing_extra_and_misshaped_keys_are_all_named(folder: Path) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if "mlp" in key]:
            del tensors[key]
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:5]
        tensors["denoise_model.ln_f.weight"] = torch.ones(3)

    edit(folder, damage)
    with pytest.raises(CheckpointMismatch) as caught:
        load_checkpoint(folder, tokenizer=None)
    error, message = caught.value, str(caught.value)
    assert len(error.missing) == 6 and "6 missing keys (model.layers.0.mlp." in message and "and 1 more" in message
    assert error.extra == ["denoise_model.ln_f.weight"] and "1 extra key (denoise_model.ln_f.weight)" in message
    assert error.misshaped == ["model.norm.weight: stored (5,), native (32,)"] and "1 misshaped key" in message


def test_a_checkpoint_of_other_keys_is_never_random(folder: Path) -> None:
    edit(folder, lambda tensors: [tensors.update({f"base.{key}": tensors.pop(key)}) for key in list(tensors)])
    with pytest.raises(CheckpointMismatch, match="21 missing keys.*21 extra keys"):
        load_checkpoint(folder, tokenizer=None)


def test_a_dropped_buffer_is_no_extra_key(folder: Path, native: Native) -> None:
    edit(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert torch.equal(logits(load_checkpoint(folder, tokenizer=None).hf_model), logits(native("llama")))


def test_a_tied_flag_with_a_bit_equal_head_ties(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]}), tie_word_embeddings=True)
    model = load_checkpoint(folder, tokenizer=None).hf_model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_untied_flag_without_a_head_is_a_missing_key(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(CheckpointMismatch, match="1 missing key \\(lm_head.weight\\)"):
        load_checkpoint(folder, tokenizer=None)


def test_without_a_flag_the_weights_decide(folder: Path, native: Native) -> None:
    edit(folder, tie_word_embeddings=None)
    assert torch.equal(logits(load_checkpoint(folder, tokenizer=None).hf_model), logits(native("llama")))
    edit(folder, lambda tensors: tensors.pop("lm_head.weight"))
    model = load_checkpoint(folder, tokenizer=None).hf_model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_paths_that_hold_no_checkpoint(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        load_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="/nowhere does not exist; give the folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="gpt2 does not exist; give.*a hub id org/name"):
        load_checkpoint("gpt2")
    with pytest.raises(FileNotFoundError, match="is a file, but not a .gguf one"):
        load_checkpoint(folder / "config.json")
    with pytest.raises(ValueError, match="is local and has no revisions"):
        load_checkpoint(folder, revision="main")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match="holds no weights: none of model.safetensors, model.safetensors.index.json, pytorch_model"):
        load_checkpoint(folder, tokenizer=None)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        load_checkpoint(folder, tokenizer=None)


def test_a_folder_without_tokenizer_files_says_what_to_pass(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no tokenizer files; pass tokenizer=None"):
        load_checkpoint(folder)
    mine: Any = object()
    assert load_checkpoint(folder, tokenizer=mine).tokenizer is mine


def test_remote_code_is_never_run(native: Native, tmp_path: Path, word_tokenizer: Any) -> None:
    save_checkpoint(native("qwen2"), tmp_path, DiffusionSpec("full", 1, 2), word_tokenizer)
    edit(tmp_path, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    (tmp_path / "evil.py").write_text("raise RuntimeError('remote code ran')")
    tokenizer = load_checkpoint(tmp_path).tokenizer
    assert tokenizer is not None and tokenizer.get_vocab() == word_tokenizer.get_vocab()


def test_dream_folders_open_with_qwens_tokenizer(native: Native, tmp_path: Path) -> None:
    native("qwen2").save_pretrained(tmp_path)
    edit(tmp_path, model_type="Dream", architectures=["DreamModel"], mask_token_id=2, rope_theta=5e5)
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    remote = {"tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(remote))
    loaded = load_checkpoint(tmp_path)
    assert loaded.tokenizer is not None and loaded.tokenizer("aba")["input_ids"] == [2, 0]
    assert loaded.spec == DiffusionSpec("full", 1, 2)


@pytest.mark.parametrize("spec", [DiffusionSpec(), DiffusionSpec("full", 1, 3, tail=(1,)), DiffusionSpec("full", 0, 3)])
def test_saving_and_loading_keep_every_bit(native: Native, tmp_path: Path, spec: DiffusionSpec) -> None:
    model = native("llama")
    save_checkpoint(model, tmp_path / "model", spec)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "model", "model.safetensors"]
    loaded = load_checkpoint(tmp_path / "model", tokenizer=None)
    model.config.is_causal = spec.attention == "causal"
    assert loaded.spec == spec
    assert torch.equal(logits(loaded.hf_model), logits(model))
    assert torch.equal(logits(type(model).from_pretrained(tmp_path / "model")), logits(model))
    assert HookedDiffusionTransformer.from_pretrained(tmp_path / "model", tokenizer=None).spec == spec


def test_a_checkpoint_is_replaced_only_where_asked(folder: Path, native: Native, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for other in (folder, tmp_path / "shards"):
        if other != folder:
            native("llama").save_pretrained(other, max_shard_size="20KB")
            (other / "config.json").unlink()
        with pytest.raises(ValueError, match="holds a checkpoint already .*; name another folder, or pass overwrite=True to replace it"):
            save_checkpoint(native("llama", 1), other, DiffusionSpec())
        with pytest.raises(ValueError, match="holds a checkpoint already"):
            convert(tmp_path / "none", other)
    with pytest.raises(ValueError, match="config.json is a file; name a new folder"):
        save_checkpoint(native("llama", 1), folder / "config.json", DiffusionSpec())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_shards_of_a_checkpoint_that_is_replaced_go_with_it(native: Native, tmp_path: Path) -> None:
    native("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "notes.txt").write_text("mine")
    save_checkpoint(native("llama", 1), tmp_path, DiffusionSpec(), overwrite=True)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"] and (tmp_path / "notes.txt").is_file()
    assert torch.equal(logits(load_checkpoint(tmp_path, tokenizer=None).hf_model), logits(native("llama", 1)))


def test_a_checkpoint_can_be_saved_over_itself(folder: Path, native: Native) -> None:
    loaded = load_checkpoint(folder, tokenizer=None)
    save_checkpoint(loaded.hf_model, folder, loaded.spec, overwrite=True)
    assert torch.equal(logits(loaded.hf_model), logits(native("llama")))
    assert torch.equal(logits(load_checkpoint(folder, tokenizer=None).hf_model), logits(native("llama")))


def test_a_wrapped_model_is_not_saved(native: Native, tmp_path: Path) -> None:
    model = native("llama")
    HookedDiffusionTransformer.from_hf(model)
    with pytest.raises(ValueError, match="before HookedDiffusionTransformer wrapped it"):
        save_checkpoint(model, tmp_path, DiffusionSpec())
