"""Opening a checkpoint: a local folder, a LoRA adapter over one, a GGUF file, or a hub id, as a native Hugging Face model.

1. Find the files. A hub id is fetched first: configs, safetensors and tokenizer files alone.
2. Read the config, pick the family's adapter, translate to a native config and a `DiffusionSpec` (`open_checkpoint`).
3. Build the native model without memory for its weights, and check that the stored keys are exactly its own.
4. Read the tensors one by one, the largest first, in the wanted dtype and on the wanted device, straight into their places.

Everything that can be wrong is found before step 4. Memory holds the weights themselves and one stored tensor, never more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.boundary import reading
from hooked_diffusion.checkpoints.fields import Config, shown
from hooked_diffusion.checkpoints.files import sha256_of
from hooked_diffusion.checkpoints.hub import locate
from hooked_diffusion.checkpoints.lora import ADAPTER, is_adapter, open_reader
from hooked_diffusion.checkpoints.matching import check, is_tied, rename
from hooked_diffusion.checkpoints.names import repository_name
from hooked_diffusion.checkpoints.placement import DeviceMap, Placement
from hooked_diffusion.checkpoints.readers import CheckpointReader
from hooked_diffusion.checkpoints.reading import ConfigReading, read_config
from hooked_diffusion.checkpoints.tokenizer_files import load_tokenizer
from hooked_diffusion.checkpoints.weights import READ
from hooked_diffusion.spec import DiffusionSpec

if TYPE_CHECKING:
    from typing_extensions import Unpack


class WeightSettings(TypedDict, total=False):
    """How weights are read.

    - `dtype`: of every parameter; None keeps the one that the embedding is stored in (float32 for GGUF). RoPE's buffers stay float32.
    - `device`: None is the CPU. `device_map` places modules one by one instead, "cpu" and "disk" included: see `placement.py`.
    """

    dtype: torch.dtype | str | None
    device: str | torch.device | None
    device_map: DeviceMap | None


class LoadSettings(WeightSettings, total=False):
    """`WeightSettings`, and `tokenizer`: "auto" loads the checkpoint's own, None leaves it out, an object is passed through."""

    tokenizer: PreTrainedTokenizerBase | Literal["auto"] | None


class OpenSettings(LoadSettings, total=False):
    """Everything that `load_checkpoint` and `from_pretrained` take beside the name: `LoadSettings`, and how the config is read.

    - `family`: a registered family, instead of the one that the config matches.
    - `revision`: of a hub id, where the name does not carry it.
    - `config`: fields that `config.json` leaves out or has wrong; None takes one out. Recorded in `source["notes"]`.
    """

    family: str | None
    revision: str | None
    config: Config | None


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A native model in evaluation mode, its tokenizer (or None), how it is read, and where it came from.

    `source` holds JSON values: `name`, `revision`, `family`, `sha256` (of the weight files, in name order), `dtype` and `notes`.
    """

    hf_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    spec: DiffusionSpec
    source: dict[str, Any]


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint whose config has been read and whose weights have not."""

    name: str
    revision: str | None
    read: ConfigReading
    reader: CheckpointReader

    @property
    def adapter(self) -> CheckpointAdapter:
        """The family's."""
        return self.read.adapter

    @property
    def config(self) -> PretrainedConfig:
        """The native one."""
        return self.read.native

    @property
    def spec(self) -> DiffusionSpec:
        """How it is read."""
        return self.read.spec

    def load(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase | Literal["auto"] | None = "auto",
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        device_map: DeviceMap | None = None,
    ) -> LoadedCheckpoint:
        """Read tokenizer and weights, as `LoadSettings` says."""
        if device is not None and device_map is not None:
            raise ValueError(f"both device={device!r} and device_map were given; a device map says where everything goes, leave device out")
        # Settings and tokenizer first: a mistake in them is found before the weights are read.
        kept = floating_dtype(dtype)
        own = self._tokenizer() if isinstance(tokenizer, str) else tokenizer
        model, names = self._skeleton()
        stored = Counter(self.reader.dtype(key) for key in names.values())
        # Where the caller asks for a dtype, casts need no note. Otherwise a note says which tensors are cast to the embedding's.
        cast_to = Counter() if kept else stored
        kept = kept or self.reader.dtype(names[self.adapter.embedding])
        place = Placement.of(device) if device_map is None else Placement.from_map(device_map, model, kept)
        if self.config.tie_word_embeddings:
            place = place.tied(self.adapter.embedding, self.adapter.head)
        on_disk = self._on_disk(names, place)
        # Weights that stay on disk: on the meta device, with a shape and no memory.
        tensors = {name: torch.empty(self.reader.shapes[key], dtype=kept, device="meta") for name, (_, key) in on_disk.items()}
        tensors |= self._read({name: key for name, key in names.items() if name not in on_disk}, place, kept)
        if self.config.tie_word_embeddings:
            tensors[self.adapter.head] = tensors[self.adapter.embedding]
            if self.adapter.embedding in on_disk:
                on_disk[self.adapter.head] = on_disk[self.adapter.embedding]
        # `assign` puts the tensors in place of the meta parameters, which have no memory to copy into.
        model.load_state_dict(tensors, assign=True)
        model.tie_weights()
        model.config.dtype = kept
        if place.whole is not None:
            cast(nn.Module, model).to(place.whole)  # the buffers of RoPE, which keep their own dtype
        else:
            place.dispatch(model, on_disk, kept)
        return LoadedCheckpoint(model.eval(), own, self.spec, self._source(kept, cast_to))

    def _read(self, names: Mapping[str, str], place: Placement, dtype: torch.dtype) -> dict[str, Tensor]:
        """Native name → tensor. What is copied anyway (another dtype or device) is read so that the file's pages are given back."""
        shapes, tensors = self.reader.shapes, {}
        # The largest first: while a tensor and its cast copy are both in memory, little else is.
        for name, key in sorted(names.items(), key=lambda item: -prod(shapes[item[1]])):
            target = torch.device(place[name])
            copied = (self.reader.dtype(key), "cpu") != (dtype, target.type)
            tensors[name] = self.reader.load(key, fresh=copied).to(target, dtype)
        return tensors

    def _on_disk(self, names: Mapping[str, str], place: Placement) -> dict[str, tuple[Path, str]]:
        """Native name → file and key of the weights that a device map leaves on disk."""
        staying = {name: (self.reader.file_of(key), key) for name, key in names.items() if place[name] == "disk"}
        found = {name: (path, key) for name, (path, key) in staying.items() if path is not None}
        if len(found) < len(staying):
            raise ValueError(f"{self.name}: device_map leaves weights on disk, which needs safetensors; `mechshift convert` writes them")
        return found

    def _skeleton(self) -> tuple[PreTrainedModel, dict[str, str]]:
        """The native model, parameters on the meta device and buffers computed, and native name → stored key for every tensor it wants."""
        names, extra = rename(self.reader.shapes, self.adapter)
        self.config.tie_word_embeddings = is_tied(self.read.tied, names, self.adapter, self.reader, self.name)
        with (
            reading(f"no {self.adapter.model_class.__name__} can be built as {self.read.where} says", "mend the field that it names"),
            # Buffers are computed, not stored: they must be real.
            init_empty_weights(include_buffers=False),
        ):
            model = self.adapter.model_class(self.config)
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if self.config.tie_word_embeddings:
            wanted.pop(self.adapter.head)
            names.pop(self.adapter.head, None)
        check(self.name, type(model).__name__, wanted, names, self.reader.shapes, extra)
        return model, names

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if self.reader.tokenizer_at is None:
            raise FileNotFoundError(
                f"{self.name} holds no tokenizer files; pass tokenizer=None to work on token ids, or a tokenizer of your own"
            )
        return load_tokenizer(*self.reader.tokenizer_at, self.adapter.tokenizer_class)

    def _source(self, dtype: torch.dtype, stored: Counter[torch.dtype]) -> dict[str, Any]:
        cast_to = [f"stored in {_name(other)} and cast: {n} of {stored.total()}" for other, n in stored.items() if other != dtype]
        return {
            "name": self.name,
            "revision": self.revision,
            "family": self.adapter.family,
            "sha256": sha256_of(self.reader.files),
            "dtype": _name(dtype),
            "notes": [*self.reader.notes, *self.read.notes, *cast_to],
        }


def open_checkpoint(
    name_or_path: str | Path, *, family: str | None = None, revision: str | None = None, config: Config | None = None
) -> OpenCheckpoint:
    """Read and translate a checkpoint's config, as `OpenSettings` says. Raises what `load_checkpoint` does before it reads weights."""
    path, revision = locate(name_or_path, revision)
    reader = open_reader(path)
    found = read_config(
        reader.config,
        where=str(path if path.suffix == ".gguf" else path / (ADAPTER if is_adapter(path) else "config.json")),
        name=repository_name(name_or_path),
        family=family,
        given=config,
        shapes=reader.shapes,
        adapt=reader.adapt,
    )
    found.native.is_causal = found.spec.attention == "causal"
    reader.config = dict(found.config)  # what a GGUF file's tensors are put in order by
    return OpenCheckpoint(str(name_or_path), revision, found, reader)


def load_checkpoint(
    name_or_path: str | Path,
    *,
    family: str | None = None,
    revision: str | None = None,
    config: Config | None = None,
    **loading: Unpack[LoadSettings],
) -> LoadedCheckpoint:
    """Open a checkpoint as a native model whose attention already points as its spec says.

    `name_or_path` is a folder with config.json and weights (safetensors or `.bin`, whole or in shards), a folder with a LoRA adapter that
    names its base, a `.gguf` file, or a hub id `org/name@revision`. The settings are those of `OpenSettings`.

    Raises FileNotFoundError for a path without a config, weights or (under "auto") tokenizer files; ValueError for an unknown family, a
    config that leaves out a required field or has an unknown one, a tied flag with an untied head, a mask token outside the
    vocabulary, or a file cut short; `CheckpointMismatch` (a ValueError) naming missing, extra and misshaped keys; OSError when the hub does
    not give the checkpoint.
    """
    return open_checkpoint(name_or_path, family=family, revision=revision, config=config).load(**loading)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def floating_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A floating torch dtype, by itself or by name; None stays None. Raises ValueError on anything else."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in READ:
        raise ValueError(f"dtype {shown(dtype)} is no floating torch dtype of weights; choose float32, bfloat16, float16 or float64")
    return found
