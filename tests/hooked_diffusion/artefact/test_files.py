"""Files that are something else, or were damaged, are refused in one sentence."""

from __future__ import annotations

import os

import pytest
import torch

from hooked_diffusion import artefact
from hooked_diffusion.artefact import files


def test_tensors_and_values_come_back(tmp_path) -> None:
    artefact.write(tmp_path / "a", "thing", {"x": torch.arange(6).view(2, 3).T}, {"n": 1, "of": [None, 0.1]})
    tensors, side = artefact.read(tmp_path / "a", "thing", "Thing.save")
    assert torch.equal(tensors["x"], torch.arange(6).view(2, 3).T) and side == {"n": 1, "of": [None, 0.1]}
    artefact.write_json(tmp_path / "b.json", {"n": 1})
    assert artefact.read_json(tmp_path / "b.json", "Thing.save", "n") == {"n": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.json"]


def test_another_file_is_refused(tmp_path) -> None:
    artefact.write(tmp_path / "a", "thing", {"x": torch.ones(400)}, {})
    (tmp_path / "short").write_bytes((tmp_path / "a").read_bytes()[:-100])
    (tmp_path / "text").write_text("{not json")
    (tmp_path / "list").write_text("[1]")
    (tmp_path / "other").write_text("{}")
    for name, said in {"a": "holds no other thing", "short": "short is damaged", "text": "text is damaged"}.items():
        with pytest.raises(ValueError, match=f"{said}.*give a file written by Thing.save"):
            artefact.read(tmp_path / name, "other thing", "Thing.save")
    refused = {"text": "text is damaged, or no JSON", "list": "list holds a JSON list, not an object", "other": "other holds no n"}
    for name, said in refused.items():
        with pytest.raises(ValueError, match=f"{said}.*give a file written by Thing.save"):
            artefact.read_json(tmp_path / name, "Thing.save", "n")


def test_what_is_no_ordinary_file_is_refused_without_waiting(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="no ordinary file; give a file written by Thing.save"):
            artefact.read(path, "thing", "Thing.save")
        with pytest.raises(ValueError, match="no ordinary file; give a file written by Thing.save"):
            artefact.read_json(path, "Thing.save")


def test_deep_or_large_json_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "deep").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="deep is damaged, or no JSON"):
        artefact.read_json(tmp_path / "deep", "Thing.save")
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 2**20)
    (tmp_path / "large").write_text(" " * (2**20 + 1))
    with pytest.raises(ValueError, match="large has 1 MiB, over 1"):
        artefact.read_json(tmp_path / "large", "Thing.save")


def test_a_file_has_the_rights_that_the_umask_leaves(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        artefact.write(tmp_path / "a", "thing", {"x": torch.ones(1)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_draft_is_not_written_through_a_link(tmp_path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".a.draft").symlink_to(tmp_path / "mine")
    artefact.write_json(tmp_path / "a", {"n": 1})
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "a").is_symlink()
