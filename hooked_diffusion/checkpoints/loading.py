"""Opening a checkpoint: a local folder, a GGUF file, or a hub id, as a native Hugging Face model.

1. find the files (a hub id is fetched first: configs, safetensors and tokenizer files alone);
2. read the config, pick the family's adapter, translate to a native config and a `DiffusionSpec`;
3. build the native model without memory for its weights, and check that the stored keys are exactly its own;
4. read the tensors one by one, in the wanted dtype and on the wanted device, straight into their places.

Everything that can be wrong is found before step 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, adapter_for
from hooked_diffusion.checkpoints.gguf import GgufReader
from hooked_diffusion.checkpoints.hub import locate
from hooked_diffusion.checkpoints.matching import check, is_tied, rename
from hooked_diffusion.checkpoints.readers import CheckpointReader, FolderReader, weight_hash
from hooked_diffusion.spec import DiffusionSpec


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A native model in evaluation mode, its tokenizer (or None), how it is read, and where it came from.

    `source` has `name`, `revision`, `family`, `sha256` (of the weight files, in name order), `dtype` and `notes`.
    """

    hf_model: PreTrainedModel
    tokenizer: Any
    spec: DiffusionSpec
    source: dict[str, Any]


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint whose config has been read and whose weights have not."""

    name: str
    revision: str | None
    adapter: CheckpointAdapter
    config: PretrainedConfig
    spec: DiffusionSpec
    reader: CheckpointReader

    def load(
        self, *, tokenizer: Any = "auto", dtype: torch.dtype | str | None = None, device: str | torch.device | None = None
    ) -> LoadedCheckpoint:
        """Read tokenizer and weights; parameters as in `load_checkpoint`."""
        target, kept = torch.device(device or "cpu"), floating_dtype(dtype)
        tokenizer = self._tokenizer() if isinstance(tokenizer, str) and tokenizer == "auto" else tokenizer
        model, names = self._skeleton()
        kept = kept or self.reader.load(names[self.adapter.embedding]).dtype
        tensors = {name: self.reader.load(key).to(target, kept) for name, key in names.items()}
        if self.config.tie_word_embeddings:
            tensors[self.adapter.head] = tensors[self.adapter.embedding]
        model.load_state_dict(tensors, assign=True)
        model.tie_weights()
        model.config.dtype = kept
        cast(nn.Module, model).to(target)  # the buffers of RoPE, which keep their own dtype
        return LoadedCheckpoint(model.eval(), tokenizer, self.spec, self._source(kept))

    def _skeleton(self) -> tuple[PreTrainedModel, dict[str, str]]:
        """The native model, parameters on the meta device and buffers computed, and native name → stored key for every tensor it wants."""
        names, extra = rename(self.reader.shapes, self.adapter)
        flag = self.reader.config.get(self.adapter.tie_flag)
        self.config.tie_word_embeddings = is_tied(flag, names, self.adapter, self.reader, self.name)
        with init_empty_weights(include_buffers=False):
            model = self.adapter.model_class(self.config)
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if self.config.tie_word_embeddings:
            wanted.pop(self.adapter.head)
            names.pop(self.adapter.head, None)
        check(self.name, type(model).__name__, wanted, names, self.reader.shapes, extra)
        return model, names

    def _tokenizer(self) -> Any:
        if self.reader.tokenizer_args is None:
            raise FileNotFoundError(
                f"{self.name} holds no tokenizer files; pass tokenizer=None to work on token ids, or a tokenizer of your own"
            )
        tokenizer_class = self.adapter.tokenizer_class or AutoTokenizer
        return tokenizer_class.from_pretrained(**self.reader.tokenizer_args, local_files_only=True, trust_remote_code=False)

    def _source(self, dtype: torch.dtype) -> dict[str, Any]:
        return {
            "name": self.name,
            "revision": self.revision,
            "family": self.adapter.family,
            "sha256": weight_hash(self.reader.files),
            "dtype": str(dtype).removeprefix("torch."),
            "notes": list(self.reader.notes),
        }


def open_checkpoint(name_or_path: str | Path, *, family: str | None = None, revision: str | None = None) -> OpenCheckpoint:
    """Read and translate a checkpoint's config; errors as in `load_checkpoint`, but for those of the weights themselves."""
    path, revision = locate(name_or_path, revision)
    reader: CheckpointReader = GgufReader(path) if path.suffix == ".gguf" else FolderReader(path)
    where = str(path if path.suffix == ".gguf" else path / "config.json")
    adapter = reader.adapt(adapter_for(reader.config, family, where))
    config = adapter.native_config(reader.config, where)
    spec = adapter.spec(reader.config, config.vocab_size, where)
    config.is_causal = spec.attention == "causal"
    return OpenCheckpoint(str(name_or_path), revision, adapter, config, spec, reader)


def load_checkpoint(
    name_or_path: str | Path,
    *,
    family: str | None = None,
    tokenizer: Any = "auto",
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
) -> LoadedCheckpoint:
    """Open a checkpoint as a native model whose attention already points as its spec says.

    - `name_or_path`: a folder with config.json and safetensors (whole or in shards), a `.gguf` file, or a hub id `org/name@revision`.
    - `family`: a registered family, instead of the one that the config matches.
    - `tokenizer`: "auto" loads the checkpoint's own, None leaves it out, an object is passed through.
    - `dtype`: of every parameter; None keeps the one that the embedding is stored in (float32 for GGUF). RoPE's buffers stay float32.
    - `device`: None is the CPU.

    Raises FileNotFoundError for a path without a config, weights or (under "auto") tokenizer files; ValueError for an unknown family, a
    config that leaves out what must be stated, a tied flag with an untied head, a mask token outside the vocabulary, or a file cut short;
    `CheckpointMismatch` (a ValueError) naming missing, extra and misshaped keys; OSError when the hub does not give the checkpoint.
    """
    opened = open_checkpoint(name_or_path, family=family, revision=revision)
    return opened.load(tokenizer=tokenizer, dtype=dtype, device=device)


def floating_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A floating torch dtype, by itself or by name; None stays None. Raises ValueError on anything else."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype {dtype!r} is no floating torch dtype; try 'float32' or 'bfloat16'")
    return found
