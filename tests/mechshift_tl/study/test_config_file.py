"""Settings in a TOML file: what is written is read back; what is no setting is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mechshift_tl.study import StudyConfig
from mechshift_tl.study.config_file import read_config_file, write_config_file


@pytest.mark.parametrize(
    "config", [StudyConfig(), StudyConfig.quick(), StudyConfig(n=7, rule="left", edges=12, measurements=("depth", "steps"))]
)
def test_what_is_written_is_read_back(config: StudyConfig, tmp_path: Path) -> None:
    write_config_file(config, ["ioi", "countdown"], tmp_path / "study.toml")
    read: dict[str, Any] = read_config_file(tmp_path / "study.toml")
    assert read.pop("tasks") == ["ioi", "countdown"]
    assert StudyConfig(**read) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n = ", "is no TOML"),
        ("ig_step = 5", "'ig_step' is no setting; did you mean 'ig_steps'?"),
        ("zebra = 5", "'zebra' is no setting; there are n, seed,"),
        ("[n]\na = 1", "'n' is a table; give a value"),
    ],
)
def test_what_is_no_setting_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        read_config_file(tmp_path / "study.toml")


def test_a_list_of_measurements_and_a_wrong_type(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('measurements = ["depth"]\n')
    settings: dict[str, Any] = read_config_file(tmp_path / "study.toml")
    assert StudyConfig(**settings).measurements == ("depth",)
    with pytest.raises(ValueError, match="StudyConfig.n is 'many'; give a whole number"):
        StudyConfig(n="many")  # type: ignore[arg-type]


def test_a_quick_study_asks_for_less() -> None:
    quick, whole = StudyConfig.quick(), StudyConfig()
    assert quick.n < whole.n and quick.held_out <= whole.held_out and quick.measurements == "quick"
    assert StudyConfig.quick(n=500).n == 500
