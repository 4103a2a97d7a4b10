"""What a checkpoint on disk is to the loader: a config, named tensors that are read one at a time, and the files they lie in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.weights import LAYOUTS, READ, SafetensorsFiles, TorchFiles

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

    def dtype(self, key: str) -> torch.dtype:
        """What `load` gives; ValueError when it cannot: packed weights are not read."""
        ...

    def load(self, key: str, fresh: bool = False) -> Float[Tensor, "*shape"]:
        """One stored tensor; `fresh` gives its memory back with it, at the cost of opening its file again."""
        ...

    def file_of(self, key: str) -> Path | None:
        """The safetensors file that a stored tensor lies in as it is used, None where there is none."""
        ...

    def adapt(self, adapter: CheckpointAdapter) -> CheckpointAdapter:
        """The family's adapter, told how this kind of file names its keys."""
        ...


class FolderReader:
    """A folder with `config.json` and weights: `model.safetensors` or `pytorch_model.bin`, whole or in the shards that an index lists.

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
        self._weights = (TorchFiles if self.files[0].suffix == ".bin" else SafetensorsFiles)(self.files)
        self.shapes = self._weights.shapes
        if self.config.get("mask_token_id") is None and (mask := _mask_of_tokenizer(folder)) is not None:
            self.config["mask_token_id"] = mask

    def dtype(self, key: str) -> torch.dtype:
        """The dtype that a tensor is stored in. Raises ValueError unless it is a plain floating one: packed weights are not read."""
        dtype = self._weights.get(key).dtype
        if dtype not in READ:
            raise ValueError(f"{self.files[0].parent}: {key} holds {dtype}; packed weights are not read, give unquantised ones or a GGUF")
        return dtype

    def load(self, key: str, fresh: bool = False) -> Float[Tensor, "*shape"]:
        """One stored tensor, in its stored dtype."""
        return self._weights.get(key, fresh)

    def file_of(self, key: str) -> Path | None:
        """The safetensors file that holds a stored tensor; None for `.bin`."""
        return self._weights.where[key] if isinstance(self._weights, SafetensorsFiles) else None

    def adapt(self, adapter: CheckpointAdapter) -> CheckpointAdapter:
        """The adapter as it is: its patterns name the keys of these files."""
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
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _weight_files(folder: Path) -> tuple[Path, ...]:
    for whole, index in LAYOUTS:
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / index).is_file():
            shards = tuple(sorted({folder / name for name in read_json(folder / index)["weight_map"].values()}))
            absent = [path.name for path in shards if not path.is_file()]
            if absent:
                raise FileNotFoundError(f"{folder} lacks {len(absent)} of its {len(shards)} shards: {', '.join(absent)}")
            return shards
    raise FileNotFoundError(f"{folder} holds no weights: none of {', '.join(name for layout in LAYOUTS for name in layout)}")


def _mask_of_tokenizer(folder: Path) -> int | None:
    """The id of the mask token that the checkpoint's own tokenizer files name."""
    settings, added, words, whole = (
        read_json(path) if (path := folder / name).is_file() else {}
        for name in ("tokenizer_config.json", "added_tokens.json", "vocab.json", "tokenizer.json")
    )
    mask = settings.get("mask_token")
    mask = mask.get("content") if isinstance(mask, dict) else mask
    listed = {token["content"]: token["id"] for token in whole.get("added_tokens", ())}
    stated = {token["content"]: int(number) for number, token in settings.get("added_tokens_decoder", {}).items()}
    return {**words, **listed, **added, **stated}.get(mask) if mask else None
