"""Everything that can be wrong with a checkpoint: one clear error that names the file, or no harm at all; never random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.checkpoints import load_checkpoint, save_checkpoint

MDM = DiffusionSpec("full", 1, 2)
Native = Callable[..., Any]
Change = Callable[[dict[str, torch.Tensor]], object]


@pytest.fixture
def folder(native: Native, tmp_path: Path) -> Path:
    return save_checkpoint(native("llama"), tmp_path / "model", MDM)


@pytest.fixture(scope="module")
def whole(native: Native, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(native("llama"), tmp_path_factory.mktemp("whole"), MDM)


def opened(folder: Path) -> Any:
    return HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None)


def edit(folder: Path, change: Change = lambda tensors: None, **config: Any) -> None:
    """Change tensors and config of a folder in place; a config value of None is taken out."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_a_truncated_shard(native: Native, tmp_path: Path) -> None:
    native("qwen3").save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    for kept in (0, 4, 100, -1):
        content = shard.read_bytes()
        shard.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=f"{shard.name} is not a whole safetensors file .*; fetch it again"):
            opened(tmp_path)
        shard.write_bytes(content)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks 1 of its .* shards: {shard.name}"):
        opened(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flipped=st.integers(1, 255))
def test_flipped_bytes_in_a_header_are_named_or_change_no_weight(whole: Path, tmp_path: Path, place: float, flipped: int) -> None:
    """A ValueError that names where, or the same weights: a byte of the metadata, or of a space, tells nothing."""
    content = bytearray((whole / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[int(place * header)] ^= flipped
    (tmp_path / "config.json").write_bytes((whole / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(content)
    try:
        loaded = load_checkpoint(tmp_path, tokenizer=None)
    except ValueError as error:
        assert str(tmp_path) in str(error)
    else:
        expected = load_checkpoint(whole, tokenizer=None).hf_model.state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.hf_model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_of_a_dtype_that_is_none(folder: Path, dtype: torch.dtype) -> None:
    edit(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(32).to(dtype)}))
    with pytest.raises(ValueError, match=f"model.norm.weight holds {dtype}; packed weights are not read"):
        opened(folder)


def test_weights_of_two_dtypes_are_cast_and_said_to_be(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"].bfloat16()}))
    model = opened(folder)
    assert model.source["notes"] == ["stored in bfloat16 and cast: 1 of 21"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


NORM = "model.norm.weight"
CASES: dict[str, tuple[Change, dict[str, Any], str]] = {
    "a missing key": (lambda t: t.pop(NORM), {}, r"1 missing key \(model.norm.weight\)"),
    "an extra key": (lambda t: t.update({"base.x": torch.ones(1)}), {}, r"1 extra key \(base.x\)"),
    "a misshaped key": (lambda t: t.update({NORM: torch.ones(31)}), {}, r"model.norm.weight: stored \(31,\), native \(32,\)"),
    "no theta": (lambda t: None, {"rope_parameters": None, "rope_theta": None}, r"leaves out rope_theta; .* config=\{'rope_theta': …\}"),
    "an unknown flag": (lambda t: None, {"use_mup": True}, "says use_mup = True, which nothing here knows for llama"),
    "a flag of the wrong kind": (lambda t: None, {"layer_types": ["sliding_attention"] * 2}, "says layer_types = "),
    "a tied flag with an untied head": (
        lambda t: None,
        {"tie_word_embeddings": True},
        "tie_word_embeddings = true, but its lm_head",
    ),
    "quantised weights": (lambda t: None, {"quantization_config": {"bits": 4}}, "says the weights are quantised"),
    "a mask beyond the rows": (lambda t: None, {"diffusion_spec": {"attention": "full", "mask_token_id": 48}}, "48 lies outside the voc"),
    "a spec of other fields": (lambda t: None, {"diffusion_spec": {"attention": "full", "mask": 2}}, "DiffusionSpec has no field mask"),
    "a spec that denies the config": (lambda t: None, {"is_causal": True}, "says is_causal = True, but the spec says full attention"),
    "blocks without a length": (lambda t: None, {"diffusion_spec": {"attention": "block"}}, "block_length is None with block attention"),
    "another family": (lambda t: None, {"model_type": "gemma", "architectures": None}, "model_type 'gemma'.*fits no known family"),
}


@pytest.mark.parametrize("case", CASES)
def test_keys_and_configs_that_cannot_be(folder: Path, case: str) -> None:
    change, config, message = CASES[case]
    edit(folder, change, **config)
    with pytest.raises(ValueError, match=message):
        opened(folder)


def test_a_tied_flag_can_be_overruled_by_who_knows_better(folder: Path, native: Native) -> None:
    edit(folder, tie_word_embeddings=True)
    loaded = load_checkpoint(folder, tokenizer=None, config={"tie_word_embeddings": False})
    assert torch.equal(loaded.hf_model.lm_head.weight, native("llama").lm_head.weight)


def test_a_tokenizer_of_another_model(folder: Path, native: Native, word_tokenizer: Any) -> None:
    small = save_checkpoint(native("llama", vocab_size=40), folder.parent / "small", MDM, word_tokenizer)
    with pytest.raises(ValueError, match="small: the tokenizer does not belong to it: 'w47' is id 47, and the model has 40 rows"):
        HookedDiffusionTransformer.from_pretrained(small)
