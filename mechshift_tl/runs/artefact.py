"""How results are kept: tensors in one safetensors file, everything else as JSON in its header, under the name of what it is.

A file appears whole or not at all: it is written beside its place and moved there once it is on the disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write(path: str | Path, kind: str, tensors: Mapping[str, Tensor], side: Mapping[str, Any]) -> None:
    """Write `tensors` and the JSON values of `side` to `path`, marked as a `kind` (such as "edge scores").

    Raises OSError, naming the path, when the disk is full or the folder cannot be written.
    """
    own = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }  # safetensors takes no shared memory
    with replacing(path) as draft:
        try:
            save_file(own, draft, metadata={kind: json.dumps(dict(side))})
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error


def write_json(path: str | Path, values: Any) -> None:
    """Write JSON values to `path`, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(values, indent=1), encoding="utf-8")


def read(path: str | Path, kind: str, writer: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON values of a file written as `kind`. Raises ValueError, naming the `writer` to use, on any other file."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if kind not in header:
                raise ValueError(f"{path} holds no {kind}; give a file written by {writer}")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header[kind])  # noqa: SIM118 (safe_open is no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file ({error}); give a file written by {writer}") from error


def read_json(path: str | Path, writer: str, *keys: str) -> dict[str, Any]:
    """The JSON object in `path`. Raises ValueError, naming the `writer` to use, on a file that is damaged or lacks one of `keys`."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or no JSON ({error}); give what {writer} wrote") from error
    missing = [key for key in keys if not isinstance(values, dict) or key not in values]
    if missing:
        raise ValueError(f"{path} holds no {missing[0]}; give what {writer} wrote")
    return values


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Where to write what becomes `path` when the block ends well, and vanishes when it does not."""
    path = Path(path)
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink()
