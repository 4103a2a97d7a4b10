"""The files of a checkpoint's folder: JSON, weight files whole or in shards, and what tells one content from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePath

from hooked_diffusion.checkpoints.boundary import reading
from hooked_diffusion.checkpoints.fields import object_in, shown

#: Weight files of a folder, whole or in the shards that the index lists, in order of preference.
LAYOUTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
MIB = 2**20
#: JSON is read whole, into many times its size. Real configs have kilobytes; the index of the largest models has some 10 MiB.
MOST_JSON = 32 * MIB
MOST_CONFIG = 4 * MIB
MOST_SHARDS = 10_000


def read_json(path: Path, most: int = MOST_JSON) -> dict[str, object]:
    """The fields of a JSON file, in UTF-8, with or without a byte order mark.

    Raises ValueError naming the file when it is larger than `most` bytes, is no JSON, or holds something else than one object.
    """
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path} has {size / MIB:.0f} MiB, and such a file has at most {most / MIB:.0f}; fetch it again")
    with reading(f"{path} is not valid JSON", "fetch it again"):
        found = json.loads(path.read_text(encoding="utf-8-sig"))
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
    """The files that hold the weights, sorted.

    Raises FileNotFoundError naming what the folder lacks, ValueError on an index that lists no shards, or files outside the folder.
    """
    for whole, index in LAYOUTS:
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / index).is_file():
            shards = _shards(folder, folder / index)
            absent = [path.name for path in shards if not path.is_file()]
            if absent:
                raise FileNotFoundError(f"{folder} lacks {len(absent)} of its {len(shards)} shards: {', '.join(absent[:5])}")
            return shards
    raise FileNotFoundError(f"{folder} holds no weights: none of {', '.join(name for layout in LAYOUTS for name in layout)}")


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    """The shards that an index lists, each of them a file of the folder and of the index's kind."""
    listed = object_in(read_json(index), "weight_map", str(index)) or {}
    ending = ".safetensors" if ".safetensors" in index.name else ".bin"
    names: set[str] = set()
    for key, name in listed.items():
        if not isinstance(name, str) or not name.isprintable() or not _stays_inside(name) or not name.endswith(ending):
            raise ValueError(f"{index} says that {shown(key)} is in {shown(name)}; a shard is a {ending} file in the same folder")
        # A set: the index names a shard once for every tensor in it.
        names.add(name)
    if not 0 < len(names) <= MOST_SHARDS:
        raise ValueError(f"{index} lists {len(names)} shards under weight_map; fetch it again")
    return tuple(sorted(folder / name for name in names))


def _stays_inside(name: str) -> bool:
    """Whether a relative path stays in its folder, on any operating system."""
    return len(name) <= 255 and "\\" not in name and ":" not in name and PurePath(name).name == name
