"""Pairs from folders and from paths, and what makes two models no pair."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hooked_diffusion import DiffusionSpec, Pair, load_pair, pairs
from hooked_diffusion.checkpoints import loading, save_checkpoint
from hooked_diffusion.pairs import PairMismatch

MDM = DiffusionSpec("full", 1, 2)
Native = Callable[..., Any]


@pytest.fixture
def folder(native: Native, word_tokenizer: Any, tmp_path: Path) -> Path:
    """A folder laid out as the bundled pairs are."""
    for seed, (role, spec) in enumerate({"arm": DiffusionSpec(), "mdm": MDM, "control": DiffusionSpec()}.items()):
        save_checkpoint(native("llama", seed), tmp_path / "pair" / role, spec)
    word_tokenizer.save_pretrained(tmp_path / "pair" / "tokenizer")
    return tmp_path / "pair"


def test_a_folder_gives_three_models_and_one_tokenizer(folder: Path, native: Native) -> None:
    pair = load_pair(folder)
    assert list(pair.models) == ["arm", "mdm", "control"]
    assert (pair.arm.spec, pair.mdm.spec) == (DiffusionSpec(), MDM)
    assert pair.tokenizer is pair.mdm.tokenizer
    assert pair.tokenizer.get_vocab() == pair.arm.tokenizer.get_vocab()
    assert pair.tokenizer.mask_token_id == 2
    tokens = torch.tensor([[0, 5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(pair.arm(tokens), native("llama", 0)(tokens).logits)
    assert pair.mdm.source["name"] == f"{folder}/mdm"
    other = load_pair(folder, control=folder / "arm").control
    assert other is not None and other.source["name"] == str(folder / "arm")


def test_a_bundled_pair_is_found_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder.parent / "package"
    (package / "pretrained").mkdir(parents=True)
    folder.rename(package / "pretrained" / "small")
    monkeypatch.setattr(pairs.resources, "files", lambda name: package)
    assert pairs.bundled_pairs() == ["small"]
    assert load_pair("small").arm.source["name"] == "small/arm"
    with pytest.raises(ValueError, match="unknown pair 'tini'; bundled: small. Or give a folder"):
        load_pair("tini")


def test_two_paths_and_a_control(folder: Path) -> None:
    pair = load_pair(folder / "arm", folder / "mdm", tokenizer=None)
    assert (list(pair.models), pair.tokenizer) == (["arm", "mdm"], None)
    pair = load_pair(str(folder / "arm"), str(folder / "mdm"), control=folder / "control", tokenizer=None, dtype="float64")
    assert list(pair.models) == ["arm", "mdm", "control"]
    assert pair.mdm.cfg.dtype == torch.float64


def test_the_repr_is_short_and_tells_what_differs(folder: Path) -> None:
    pair = load_pair(folder, tokenizer=None)
    assert pair.spec_differences == {"attention": ("causal", "full"), "mask_token_id": (None, 2)}
    assert "arm + mdm + control, 2 layers, 4 heads, 32 wide; attention causal → full; mask_token_id None → 2" in repr(pair)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers is 2 in arm, 3 in mdm"),
        ({"num_attention_heads": 8, "head_dim": 8}, "num_attention_heads is 4 in arm, 8 in mdm"),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 2 in arm, 4 in mdm"),
        ({"hidden_size": 64, "intermediate_size": 96}, "hidden_size is 32.*head_dim is 8 in arm, 16.*intermediate_size is 64 in arm, 96"),
        ({"vocab_size": 50}, "vocab_size is 48 in arm, 50 in mdm"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-05 in arm, 1e-06 in mdm"),
    ],
)
def test_backbones_that_differ(folder: Path, native: Native, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], message: str) -> None:
    save_checkpoint(native("llama", **config), folder / "other", MDM)
    monkeypatch.setattr(loading.OpenCheckpoint, "load", lambda *args, **kwargs: pytest.fail("weights were read before the check"))
    with pytest.raises(PairMismatch, match=message):
        load_pair(folder / "arm", folder / "other", tokenizer=None)


def test_another_architecture_is_no_pair(folder: Path, native: Native) -> None:
    save_checkpoint(native("qwen2"), folder / "other", MDM)
    with pytest.raises(PairMismatch, match="model_type is llama in arm, qwen2 in mdm"):
        load_pair(folder / "arm", folder / "other", tokenizer=None)


def test_swapped_models_are_refused(folder: Path) -> None:
    with pytest.raises(PairMismatch, match="attention is full in arm, which must be causal"):
        load_pair(folder / "mdm", folder / "arm", tokenizer=None)
    with pytest.raises(PairMismatch, match="attention is causal in mdm, which must be full"):
        load_pair(folder / "arm", folder / "control", tokenizer=None)


def test_a_hand_made_pair_is_checked_too(folder: Path) -> None:
    pair = load_pair(folder, tokenizer=None)
    with pytest.raises(PairMismatch, match="attention is full in arm"):
        Pair("mine", pair.mdm, pair.arm)


def test_tokenizers_must_agree_on_what_they_share(folder: Path, native: Native, word_tokenizer: Any) -> None:
    state = word_tokenizer.backend_tokenizer.to_str().replace('"w40":40', '"w40":41').replace('"w41":41', '"w41":40')
    other = type(word_tokenizer)(tokenizer_object=type(word_tokenizer.backend_tokenizer).from_str(state), mask_token="<mask>")
    word_tokenizer.save_pretrained(folder / "arm")
    other.save_pretrained(folder / "mdm")
    with pytest.raises(PairMismatch, match="'w40' is id 40 in arm, 41 in mdm"):
        load_pair(folder / "arm", folder / "mdm")


def test_a_pair_without_its_tokenizer_says_what_to_pass(folder: Path) -> None:
    (folder / "tokenizer").rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match="holds no folder named tokenizer; pass tokenizer=None"):
        load_pair(folder)
    assert load_pair(folder, tokenizer=None).tokenizer is None
