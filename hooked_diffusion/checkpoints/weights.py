"""Named tensors in files: safetensors, or the zip of a pickle that torch writes (`.bin`), of which only the tensors are read.

Both kinds of file are mapped into memory, so that opening one is free and a tensor is read when it is asked for. The operating system
counts a page that has been read as memory until its mapping ends. Weights that are copied elsewhere (another dtype, another device) are
therefore read with `fresh`: through a mapping of their own, which ends with the tensor.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

#: Dtypes of plain weights.
READ = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class SafetensorsFiles:
    """The tensors of some safetensors files. Raises ValueError on a file that is cut short or damaged."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.where: dict[str, Path] = {}
        self._handles = {path: _open_safetensors(path) for path in files}
        for path, handle in self._handles.items():
            for key in handle.keys():  # noqa: SIM118  (a handle is no dict)
                self.shapes[key], self.where[key] = tuple(handle.get_slice(key).get_shape()), path

    def get(self, key: str, fresh: bool = False) -> Tensor:
        """One tensor as stored."""
        path = self.where[key]
        return (_open_safetensors(path) if fresh else self._handles[path]).get_tensor(key)


class TorchFiles:
    """The tensors of some `.bin` files, read with `weights_only=True`. Raises ValueError on a file that holds anything else."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._tensors = {key: (path, tensor) for path in files for key, tensor in _open_torch(path).items()}
        self.where = {key: path for key, (path, _) in self._tensors.items()}
        self.shapes = {key: tuple(tensor.shape) for key, (_, tensor) in self._tensors.items()}

    def get(self, key: str, fresh: bool = False) -> Tensor:
        """One tensor as stored."""
        path, tensor = self._tensors[key]
        return _open_torch(path)[key] if fresh else tensor


def _open_safetensors(path: Path) -> safe_open:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error


def _open_torch(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors, which is not read: it could run code. Ask its author for safetensors") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a whole torch file ({error}); fetch it again") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} is no dictionary of tensors; give the weights of the model alone")
    return found
