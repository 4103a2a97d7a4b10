"""A checkpoint on disk, as the loader sees it: a config, named tensors that are read one at a time, and the files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.files import weight_files
from hooked_diffusion.checkpoints.hub import no_config
from hooked_diffusion.checkpoints.tokenizer_files import config_of, has_tokenizer
from hooked_diffusion.checkpoints.weights import READ, SafetensorsFiles, TorchFiles


class CheckpointReader(Protocol):
    """An opened checkpoint.

    - `config`: its `config.json`, or what stands for it; `shapes`: stored key → shape.
    - `files`: they hold the weights; `notes`: what was done to the weights on reading.
    - `tokenizer_at`: the folder of its tokenizer, with the name of the GGUF file that holds it or None; None where there is no tokenizer.
    """

    config: dict[str, object]
    shapes: dict[str, tuple[int, ...]]
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    tokenizer_at: tuple[Path, str | None] | None

    def dtype(self, key: str) -> torch.dtype:
        """The dtype of what `load` gives. Raises ValueError on packed weights, which are not read."""
        ...

    def load(self, key: str, fresh: bool = False) -> Float[Tensor, "*shape"]:
        """One stored tensor. With `fresh` its file is opened again, and the tensor's memory is given back together with it."""
        ...

    def file_of(self, key: str) -> Path | None:
        """The safetensors file that holds a stored tensor exactly as it is used; None where there is none."""
        ...

    def adapt(self, adapter: CheckpointAdapter) -> CheckpointAdapter:
        """The family's adapter, changed to how this kind of file names its keys."""
        ...


class FolderReader:
    """A folder with `config.json` and weights: `model.safetensors` or `pytorch_model.bin`, whole or in the shards that an index lists.

    Raises FileNotFoundError naming what the folder lacks, ValueError on a file that is cut short.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(no_config(folder))
        self.config = config_of(folder / "config.json")
        self.files = weight_files(folder)
        self.notes: tuple[str, ...] = ()
        self.tokenizer_at: tuple[Path, str | None] | None = (folder, None) if has_tokenizer(folder) else None
        self._weights = (TorchFiles if self.files[0].suffix == ".bin" else SafetensorsFiles)(self.files)
        self.shapes = self._weights.shapes

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
