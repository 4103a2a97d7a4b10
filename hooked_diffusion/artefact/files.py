"""The two kinds of file that hold results: safetensors (tensors, with everything else as JSON in the header) and plain JSON.

A file appears whole or not at all: it is written beside its place, and moved there once it is on the disk.
A file that is read may come from anyone: it is refused, by name, unless it is an ordinary file of the expected kind and size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, contiguous_format

#: The largest JSON file that is read. Python needs some ten times the size of the text.
MAX_JSON_BYTES = 256 * 2**20


def write(path: str | Path, kind: str, tensors: Mapping[str, Tensor], side: Mapping[str, object]) -> None:
    """Write `tensors` and the JSON values of `side` to `path`, marked as a `kind` (such as "edge scores").

    Raises OSError, naming the path, when the disk is full or the folder cannot be written.
    """
    # safetensors refuses tensors that share memory, so each one is copied
    own = {name: tensor.clone(memory_format=contiguous_format) for name, tensor in tensors.items()}
    with replacing(path) as draft:
        try:
            save_file(own, draft, metadata={kind: json.dumps(dict(side))})
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error


def write_json(path: str | Path, values: object) -> None:
    """Write JSON values to `path`, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(values, indent=1), encoding="utf-8")


def read(path: str | Path, kind: str, writer: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON values of a file that was written as `kind`.

    Raises ValueError, naming the file and the `writer` to use, on any other file; FileNotFoundError where there is none.
    """
    check_ordinary(path, writer)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if kind not in header:
                raise ValueError(f"{path} holds no {kind}; give a file written by {writer}")
            side = parse(header[kind], path, writer)
            return {name: file.get_tensor(name) for name in file.keys()}, side  # noqa: SIM118 (safe_open is no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file ({error}); give a file written by {writer}") from error


def read_json(path: str | Path, writer: str, *keys: str) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises ValueError, naming the file and the `writer` to use, where the file is damaged, too large, or lacks one of `keys`.
    """
    check_ordinary(path, writer)
    if (size := Path(path).stat().st_size) > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {size / 2**20:.0f} MiB, over {MAX_JSON_BYTES // 2**20}; give a file written by {writer}")
    try:
        values = parse(Path(path).read_text(encoding="utf-8"), path, writer)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged, or no JSON ({error}); give a file written by {writer}") from error
    if missing := [key for key in keys if key not in values]:
        raise ValueError(f"{path} holds no {missing[0]}; give a file written by {writer}")
    return values


def parse(text: str, path: str | Path, writer: str) -> dict[str, Any]:
    """The JSON object that `text` spells. Raises ValueError, naming the file and the `writer`, where it is none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no JSON ({error}); give a file written by {writer}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a JSON {type(values).__name__}, not an object; give a file written by {writer}")
    return values


def check_ordinary(path: str | Path, writer: str) -> None:
    """Raise ValueError where `path` exists but is a folder, a pipe or a device: reading a pipe would wait without end."""
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} is no ordinary file; give a file written by {writer}")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A draft to write to. It becomes `path` when the block ends well, and is deleted when the block fails."""
    path = Path(path)
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.unlink(missing_ok=True)
        draft.touch(exist_ok=False)  # never through a link that someone else has put there
        mode = draft.stat().st_mode  # as the umask says; safetensors would leave a file that its owner alone can read
        yield draft
        draft.chmod(mode)
        with draft.open("rb") as written:
            # The content must be on the disk before its name is: after a power cut the name could stand for an empty file.
            os.fsync(written.fileno())
        draft.replace(path)
    finally:
        # After the move there is no draft.
        with suppress(OSError):
            draft.unlink()
