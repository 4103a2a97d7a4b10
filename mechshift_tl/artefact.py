"""How results are kept: tensors in one safetensors file, everything else as JSON in its header, under the name of what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def write(path: str | Path, kind: str, tensors: Mapping[str, Tensor], side: Mapping[str, Any]) -> None:
    """Write `tensors` and the JSON values of `side` to `path`, marked as a `kind` (such as "edge scores")."""
    own = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }  # safetensors takes no shared memory
    save_file(own, path, metadata={kind: json.dumps(dict(side))})


def read(path: str | Path, kind: str, writer: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON values of a file written as `kind`. Raises ValueError, naming the `writer` to use, on any other file."""
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        if kind not in header:
            raise ValueError(f"{path} holds no {kind}; give a file written by {writer}")
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header[kind])  # noqa: SIM118 (safe_open is no mapping)
