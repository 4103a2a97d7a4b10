"""Shapes by name: what each kind of name gives, and one clear error where it gives none."""

from __future__ import annotations

import json

import pytest

from hooked_diffusion.pairs.known import KNOWN_PAIRS
from mechshift_tl.planning import shapes
from mechshift_tl.planning.shapes import find_shape


def test_a_bundled_pair_has_its_arm_s_shape_and_a_tokenizer() -> None:
    shape = find_shape("tiny")
    assert (shape.config.num_hidden_layers, shape.config.num_attention_heads) == (6, 4) and not shape.notes
    assert shape.tokenizer() is not None


def test_a_folder_needs_no_weights(native, tmp_path) -> None:
    config = native("qwen2", tie_word_embeddings=True).config.to_dict() | {"use_sliding_window": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = find_shape(str(tmp_path))
    assert shape.config.hidden_size == 32 and shape.config.tie_word_embeddings
    assert shape.tokenizer() is None


def test_the_hub_is_asked_for_the_config_alone(native, tmp_path, monkeypatch) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(native("llama").config.to_dict()))
    asked: list[tuple] = []

    def fetch(repo: str, name: str, revision: str | None) -> str:
        asked.append((repo, name, revision))
        return str(file)

    monkeypatch.setattr(shapes, "hf_hub_download", fetch)
    assert find_shape("some/model@main").config.num_hidden_layers == 2
    assert asked == [("some/model", "config.json", "main")]


def test_what_is_not_there_is_said(tmp_path, monkeypatch) -> None:
    def offline(*_, **__) -> str:
        raise OSError("no network")

    monkeypatch.setattr(shapes, "hf_hub_download", offline)
    with pytest.raises(OSError, match="some/model is no folder here"):
        find_shape("some/model")
    with pytest.raises(ValueError, match="holds no config.json"):
        find_shape(str(tmp_path))
    with pytest.raises(ValueError, match="no pair or model known here.*tiny.*dream-7b"):
        find_shape("nosuch")


def test_known_shapes_say_what_is_not_confirmed() -> None:
    for name, row in KNOWN_PAIRS.items():
        shape = find_shape(name)
        assert bool(shape.notes) != row.confirmed and all("not confirmed" in note for note in shape.notes)
