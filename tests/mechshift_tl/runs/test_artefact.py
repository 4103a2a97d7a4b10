"""Files that are something else, or were damaged, are refused in one sentence."""

from __future__ import annotations

import pytest
import torch

from mechshift_tl.runs import artefact


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
    for name, said in {"a": "holds no other thing", "short": "short is damaged", "text": "text is damaged"}.items():
        with pytest.raises(ValueError, match=f"{said}.*give a file written by Thing.save"):
            artefact.read(tmp_path / name, "other thing", "Thing.save")
    for name, said in {"text": "text is damaged, or no JSON", "list": "list holds no n"}.items():
        with pytest.raises(ValueError, match=f"{said}.*give what Thing.save wrote"):
            artefact.read_json(tmp_path / name, "Thing.save", "n")
