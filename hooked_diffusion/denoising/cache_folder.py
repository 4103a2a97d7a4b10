"""Activations on disk: one safetensors file per canvas, one index, tensors read when asked for.

Everything is written beside the folder and moved into place at the end: a run that dies leaves no folder behind.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens import ActivationCache

INDEX = "index.json"
KIND = "denoising cache"


class LazyTensors(Mapping[str, Tensor]):
    """The tensors of one safetensors file, by name; each is read from disk when it is asked for."""

    def __init__(self, path: Path, device: str = "cpu"):
        self.path, self.device = path, device
        with safe_open(path, "pt") as file:
            names, same = list(file.keys()), json.loads((file.metadata() or {})["same"])
        self.stored: dict[str, str] = dict(zip(names, names, strict=True)) | same

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.path, "pt", device=self.device) as file:
            return file.get_tensor(self.stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


class CacheFolder:
    """A folder being written: `keep` steps, then `close`; left by an error, it leaves nothing. Raises FileExistsError when it exists."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if self.folder.exists():
            raise FileExistsError(f"{self.folder} exists; give a new folder for the denoising cache")
        self.partial = self.folder.with_name(self.folder.name + ".partial")
        self.partial.mkdir(parents=True)
        self.files: dict[int, str] = {}

    def keep(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the activations of `step`; hooks that pass the same tensor on share one."""
        self.files[step] = f"step-{step:05d}.safetensors"
        stored: dict[tuple, str] = {}
        same: dict[str, str] = {}
        for name, tensor in tensors.items():
            first = stored.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype), name)
            same |= {} if first == name else {name: first}
        kept = {name: tensors[name].contiguous().clone() for name in stored.values()}
        save_file(kept, self.partial / self.files[step], {"same": json.dumps(same)})

    def again(self, step: int, of: int) -> None:
        """`step` has the activations of the step `of`: they share a canvas."""
        self.files[step] = self.files[of]

    def close(self, provenance: Mapping[str, Any]) -> None:
        """Write the index and move the folder to its place."""
        side = {"kind": KIND, "steps": self.files, "provenance": dict(provenance)}
        (self.partial / INDEX).write_text(json.dumps(side, indent=2) + "\n")
        os.replace(self.partial, self.folder)

    def __enter__(self) -> CacheFolder:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


def read_folder(folder: str | Path, model: Any = None, device: str | torch.device = "cpu") -> dict[int, ActivationCache]:
    """One `ActivationCache` per step, nothing read yet but the headers. Raises ValueError when the folder is something else."""
    folder = Path(folder)
    index = folder / INDEX
    side = json.loads(index.read_text()) if index.is_file() else {}
    if side.get("kind") != KIND:
        raise ValueError(f"{folder} is no denoising cache; run_with_denoising_cache(folder=…) writes one")
    opened = {name: ActivationCache(_lazy(folder / name, device), model) for name in set(side["steps"].values())}
    return {int(step): opened[name] for step, name in side["steps"].items()}


def _lazy(path: Path, device: str | torch.device) -> Any:
    """TransformerLens asks for a dict and only ever looks names up in it."""
    return LazyTensors(path, str(device))
