"""A study's settings as a TOML file: `study.toml`.

Its keys are the names of `StudyConfig`, and `tasks`, a list. A setting that is left out keeps its default. A study writes the file of what
it was made with: `mechshift run --config OUT/study.toml` makes the same study again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from mechshift_tl.study.config import StudyConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports] (there on 3.10 alone)

TASKS = "tasks"


def read_config_file(path: str | Path) -> dict[str, object]:
    """The settings of a file, as they stand there; `StudyConfig` checks their values.

    Raises ValueError on a file that is no TOML, on tables, and on a key that is no setting; OSError where it cannot be read.
    """
    path = Path(path)
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}; write lines such as n = 200") from error
    known = [*StudyConfig.__dataclass_fields__, TASKS]
    for key, value in settings.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise ValueError(
                f"{path}: {key!r} is no setting; " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}")
            )
        if isinstance(value, dict):
            raise ValueError(f"{path}: {key!r} is a table; give a value")
    return settings


def write_config_file(config: StudyConfig, tasks: Sequence[str], path: str | Path) -> None:
    """Write every setting that has a value. Raises OSError where the file cannot be written."""
    settings: Mapping[str, object] = {TASKS: list(tasks)} | config.to_dict()
    lines = [f"{name} = {_written(value)}" for name, value in settings.items() if value is not None]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _written(value: object) -> str:
    """A value as TOML writes it: strings, numbers, booleans and lists of them are as in JSON."""
    return json.dumps(value)
