"""What a checkpoint on disk is to the loader: a config, named tensors that are read one at a time, and the files they lie in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")


class CheckpointReader(Protocol):
    """An opened checkpoint.

    `config` is its `config.json` or the like; `shapes` stored key → shape; `files` hold the weights; `notes` say what was done to them;
    `tokenizer_args` are what a tokenizer's `from_pretrained` needs to load its tokenizer, None if it has none.
    """

    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    tokenizer_args: dict[str, Any] | None

    def load(self, key: str) -> Float[Tensor, "*shape"]:
        """One stored tensor."""
        ...

    def adapt(self, adapter: CheckpointAdapter) -> CheckpointAdapter:
        """The family's adapter, told how this kind of file names its keys."""
        ...


class FolderReader:
    """A folder with `config.json` and safetensors weights: `model.safetensors`, or shards listed in `model.safetensors.index.json`.

    Raises FileNotFoundError naming what the folder lacks, ValueError on a file that is cut short.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} holds no config.json; give the folder of a checkpoint, a .gguf file, or a hub id org/name")
        self.config: dict[str, Any] = read_json(folder / "config.json")
        self.files = _weight_files(folder)
        self.notes: tuple[str, ...] = ()
        has_tokenizer = any((folder / name).is_file() for name in TOKENIZER_FILES)
        self.tokenizer_args = {"pretrained_model_name_or_path": str(folder)} if has_tokenizer else None
        self._handles: dict[str, Any] = {}
        for path in self.files:
            handle = _open_weights(path)
            self._handles |= dict.fromkeys(handle.keys(), handle)
        self.shapes = {key: tuple(handle.get_slice(key).get_shape()) for key, handle in self._handles.items()}

    def load(self, key: str) -> Float[Tensor, "*shape"]:
        """One stored tensor, in its stored dtype. Raises ValueError when it holds integers: packed weights are not read."""
        tensor: Tensor = self._handles[key].get_tensor(key)
        if not tensor.is_floating_point():
            raise ValueError(
                f"{self.files[0].parent}: {key} holds {tensor.dtype}; packed weights are not read, give unquantised ones or a GGUF"
            )
        return tensor

    def adapt(self, adapter: CheckpointAdapter) -> CheckpointAdapter:
        """The adapter as it is: its patterns name the keys of safetensors files."""
        return adapter


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file. Raises ValueError naming the file when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def weight_hash(files: Sequence[Path]) -> str:
    """sha256 over the bytes of `files`, one after another, in hex."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _weight_files(folder: Path) -> tuple[Path, ...]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise FileNotFoundError(f"{folder} holds no model.safetensors (nor an index of shards); pickled weights are not read: convert them")
    shards = tuple(sorted({folder / name for name in read_json(index)["weight_map"].values()}))
    absent = [path.name for path in shards if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"{folder} lacks {len(absent)} of its {len(shards)} shards: {', '.join(absent)}")
    return shards


def _open_weights(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error
