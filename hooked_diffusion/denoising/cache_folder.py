"""Activations on disk: one safetensors file per canvas, and one index. Tensors are read when they are asked for.

Everything is written beside the folder and moved into place at the end, so a run that dies leaves no folder that looks whole. A folder that
is read may come from anyone: its index may name files of the folder alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformer_lens import ActivationCache

from hooked_diffusion.artefact import build, read_json, write, write_json
from hooked_diffusion.denoising.protocol import DenoisingModel

INDEX = "index.json"
KIND = "denoising cache"
WRITER = "run_with_denoising_cache(folder=…)"
#: Which hooks passed on the same tensor, in the header of a step's file: hook name → the name that the tensor is kept under.
SAME = "same"


class LazyTensors(Mapping[str, Tensor]):
    """The tensors of one safetensors file, by name; each is read from disk when it is asked for.

    Raises ValueError, naming the file, where it is damaged or something else.
    """

    def __init__(self, path: Path, device: str = "cpu"):
        self.path, self.device = path, device
        try:
            with safe_open(path, "pt") as file:
                names, header = list(file.keys()), file.metadata() or {}
            same = json.loads(header[SAME])
            self.stored: dict[str, str] = {**dict(zip(names, names, strict=True)), **same}
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged, or no file of a {KIND} ({error}); write the folder again by {WRITER}") from error
        if absent := [name for name in self.stored.values() if name not in names]:
            raise ValueError(f"{path} lacks the tensor {absent[0]!r}, which its header names; write the folder again by {WRITER}")

    # `Mapping` would look for a name by `__getitem__`, which reads the tensor.
    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __getitem__(self, name: str) -> Tensor:
        # Opened for each read: no handle stays open, however many files the folder has.
        with safe_open(self.path, "pt", device=self.device) as file:
            return file.get_tensor(self.stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


@dataclass(frozen=True)
class Index:
    """The index of a folder: step → file name, and the provenance of the run. Raises ValueError on a name that leads out of the folder."""

    kind: str
    steps: dict[int, str]
    provenance: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for step, name in self.steps.items():
            if name != Path(name).name or name in ("", ".", ".."):
                raise ValueError(f"steps.{step} is {name!r}, not the name of a file in the folder")


class CacheFolder:
    """A folder that is being written: `keep` steps, then `close`. After an error nothing of it stays.

    Raises FileExistsError when the folder exists, or what a run that died has left beside it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.partial = self.folder.with_name(self.folder.name + ".partial")
        if os.path.lexists(self.folder):  # a dangling link too: the folder could not be moved there
            raise FileExistsError(f"{self.folder} exists; give a new folder for the denoising cache")
        if os.path.lexists(self.partial):
            raise FileExistsError(f"{self.partial} exists, from a run that goes on or that died; delete it, or give another folder")
        self.partial.mkdir(parents=True)
        self.files: dict[int, str] = {}

    def keep(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the activations of `step`; hooks that pass on the same tensor share one."""
        self.files[step] = f"step-{step:05d}.safetensors"
        stored: dict[tuple[object, ...], str] = {}
        same: dict[str, str] = {}
        for name, tensor in tensors.items():
            # The same address is not enough: a view can start where its tensor starts, with another shape, stride or dtype.
            first = stored.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype), name)
            same |= {} if first == name else {name: first}
        write(self.partial / self.files[step], SAME, {name: tensors[name] for name in stored.values()}, same)

    def again(self, step: int, of: int) -> None:
        """`step` has the activations of the step `of`: they share a canvas."""
        self.files[step] = self.files[of]

    def close(self, provenance: Mapping[str, object]) -> None:
        """Write the index and move the folder to its place."""
        write_json(self.partial / INDEX, {"kind": KIND, "steps": self.files, "provenance": dict(provenance)})
        os.replace(self.partial, self.folder)

    def __enter__(self) -> CacheFolder:
        return self

    def __exit__(self, *_: object) -> None:
        # After `close` the folder has moved, and there is nothing left to delete here.
        shutil.rmtree(self.partial, ignore_errors=True)


def read_folder(folder: str | Path, model: DenoisingModel | None = None, device: str | torch.device = "cpu") -> dict[int, ActivationCache]:
    """One `ActivationCache` per step, nothing read yet but the headers.

    Raises ValueError, naming file and field, when the folder is something else or was changed.
    """
    folder = Path(folder)
    path = folder / INDEX
    values = read_json(path, WRITER) if path.is_file() else {}
    if values.get("kind") != KIND:
        raise ValueError(f"{folder} is no denoising cache; {WRITER} writes one")
    try:
        index = build(Index, values)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; write the folder again by {WRITER}") from error
    # Steps that share a canvas name one file; it is opened once.
    opened = {name: ActivationCache(_lazy(folder / name, device), model) for name in set(index.steps.values())}
    return {step: opened[name] for step, name in index.steps.items()}


def _lazy(path: Path, device: str | torch.device) -> dict[str, Tensor]:
    """TransformerLens asks for a dict, but only looks names up in it."""
    return cast(dict[str, Tensor], LazyTensors(path, str(device)))
