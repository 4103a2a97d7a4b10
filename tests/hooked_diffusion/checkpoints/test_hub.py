"""Names to local files, with the hub replaced by a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from hooked_diffusion.checkpoints import hub


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, Any, list[str]]]:
    calls: list[tuple[str, Any, list[str]]] = []

    def snapshot(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repo, revision, allow_patterns))
        (tmp_path / "0c5a").mkdir(exist_ok=True)
        (tmp_path / "0c5a" / "model.safetensors").touch()
        return str(tmp_path / "0c5a")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    return calls


def test_a_hub_id_may_carry_its_revision(asked: list[Any], tmp_path: Path) -> None:
    assert hub.locate("org/name@v1.0") == (tmp_path / "0c5a", "0c5a")
    hub.locate("org/name", "main")
    hub.locate("org/name@main", "main")
    assert [call[:2] for call in asked] == [("org/name", "v1.0"), ("org/name", "main"), ("org/name", "main")]


def test_only_data_is_fetched(asked: list[Any]) -> None:
    hub.locate("org/name")
    patterns = asked[0][2]
    assert "*.safetensors" in patterns and "*.json" in patterns
    assert not any(pattern.endswith((".py", ".bin", ".pt")) or pattern == "*" for pattern in patterns)


def test_pickles_are_fetched_only_where_there_is_nothing_better(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, revision, allow_patterns: asked.append(allow_patterns) or str(tmp_path))
    hub.locate("org/name")
    assert [any(pattern.endswith(".bin") for pattern in patterns) for patterns in asked] == [False, True]
    assert not any(pattern.endswith((".py", ".pt")) or pattern == "*" for pattern in asked[1])


def test_two_revisions_are_refused(asked: list[Any]) -> None:
    with pytest.raises(ValueError, match="names revision v1, but revision='v2'"):
        hub.locate("org/name@v1", "v2")
    assert not asked


def test_a_local_path_is_never_asked_of_the_hub(asked: list[Any], tmp_path: Path) -> None:
    for name in (str(tmp_path / "a" / "b"), tmp_path / "b", "./org/name", "name", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="does not exist; give"):
            hub.locate(name)
    assert hub.locate(tmp_path) == (tmp_path, None)
    assert not asked


def test_without_a_network_there_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(
        OSError, match="org/name is no folder here, and the hub did not give it at revision v1 .*check the name and the network"
    ):
        hub.locate("org/name@v1")
