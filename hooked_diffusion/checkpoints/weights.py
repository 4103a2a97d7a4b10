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
from safetensors import safe_open
from torch import Tensor

from hooked_diffusion.checkpoints.boundary import reading
from hooked_diffusion.checkpoints.fields import shown
from hooked_diffusion.checkpoints.files import MIB

#: Dtypes of plain weights.
READ = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
#: A pickle says which tensors there are, and holds none itself: that takes kilobytes.
MOST_PICKLE = 64 * MIB


class SafetensorsFiles:
    """The tensors of some safetensors files. Raises ValueError on a file that is cut short or damaged, and on a tensor in two files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.where: dict[str, Path] = {}
        self._handles = {path: _open_safetensors(path) for path in files}
        for path, handle in self._handles.items():
            with reading(f"{path} is not a whole safetensors file", "fetch it again"):
                shapes = {key: tuple(handle.get_slice(key).get_shape()) for key in handle.keys()}  # noqa: SIM118  (a handle is no dict)
            for key, shape in shapes.items():
                _check_single(key, path, self.where)
                self.shapes[key], self.where[key] = shape, path

    def get(self, key: str, fresh: bool = False) -> Tensor:
        """One tensor as stored. Raises ValueError where its bytes cannot be read."""
        path = self.where[key]
        handle = _open_safetensors(path) if fresh else self._handles[path]
        with reading(f"{path}: {shown(key)} cannot be read", "fetch the file again"):
            return handle.get_tensor(key)


class TorchFiles:
    """The tensors of some `.bin` files, read with `weights_only=True`. Raises ValueError on a file that holds anything else."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._tensors: dict[str, Tensor] = {}
        self.where: dict[str, Path] = {}
        for path in files:
            for key, tensor in _open_torch(path).items():
                _check_single(key, path, self.where)
                self._tensors[key], self.where[key] = tensor, path
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def get(self, key: str, fresh: bool = False) -> Tensor:
        """One tensor as stored."""
        return _open_torch(self.where[key])[key] if fresh else self._tensors[key]


def _check_single(key: str, path: Path, where: dict[str, Path]) -> None:
    if key in where:
        raise ValueError(f"{path} and {where[key].name} both hold {shown(key)}; keep the one that the checkpoint's index names")


def _open_safetensors(path: Path) -> safe_open:
    with reading(f"{path} is not a whole safetensors file", "fetch it again"):
        return safe_open(path, "pt")


def _open_torch(path: Path) -> dict[str, Tensor]:
    _check_archive(path)
    with reading(f"{path} is not a whole torch file", "fetch it again"):
        try:
            # Only the zip format can be mapped; torch's older format cannot.
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError:
            # Raised below, outside `reading`: this is a refusal, not a damaged file.
            found = None
    if found is None:
        raise ValueError(f"{path} holds more than tensors, which is not read: it could run code. Ask its author for safetensors")
    if not isinstance(found, dict) or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()):
        raise ValueError(f"{path} is no dictionary of tensors; give the weights of the model alone")
    for key, tensor in found.items():
        if not _is_stored(tensor):
            raise ValueError(f"{path}: {shown(key)} is no plain tensor whose numbers the file holds; fetch it again")
    return found


def _is_stored(tensor: Tensor) -> bool:
    """Whether the file holds all numbers of a tensor. A file can describe a huge tensor that repeats one number, or that has no data."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    # A tensor of stride 0 repeats one number: its storage is smaller than its shape says.
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is. torch writes its entries uncompressed."""
    with reading(f"{path} is not a whole torch file", "fetch it again"):
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(f"{path} holds compressed entries, which torch does not write: what they unpack to is not known; fetch it again")
    if any(entry.file_size > MOST_PICKLE for entry in entries if entry.filename.endswith(".pkl")):
        raise ValueError(f"{path} holds a pickle of more than {MOST_PICKLE // MIB} MiB, which is not read; fetch it again")
