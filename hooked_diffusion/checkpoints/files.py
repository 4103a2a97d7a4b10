"""The files of a checkpoint's folder: JSON, weight files whole or in shards, and what tells one content from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from hooked_diffusion.checkpoints.fields import object_in

#: Weight files of a folder, whole or in the shards that the index lists, in order of preference.
LAYOUTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


def read_json(path: Path) -> dict[str, object]:
    """The fields of a JSON file. Raises ValueError naming the file when it is no JSON, or holds something else than one object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; it must hold one JSON object: {{…}}")
    return found


def sha256_of(files: Iterable[Path]) -> str:
    """SHA-256 over the bytes of `files`, one after another, in hex."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights, sorted. Raises FileNotFoundError naming what the folder lacks."""
    for whole, index in LAYOUTS:
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / index).is_file():
            shards = _shards(folder, folder / index)
            absent = [path.name for path in shards if not path.is_file()]
            if absent:
                raise FileNotFoundError(f"{folder} lacks {len(absent)} of its {len(shards)} shards: {', '.join(absent)}")
            return shards
    raise FileNotFoundError(f"{folder} holds no weights: none of {', '.join(name for layout in LAYOUTS for name in layout)}")


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    """The shards that an index lists."""
    listed = object_in(read_json(index), "weight_map", str(index))
    names = {name for name in (listed or {}).values() if isinstance(name, str)}
    if not names:
        raise ValueError(f"{index} lists no shards under weight_map; fetch it again")
    return tuple(sorted(folder / name for name in names))
