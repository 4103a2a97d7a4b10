"""Reads a config: what the config says about its checkpoint, before any weights are read.

1. The caller's own fields complete or override the config.
2. The family is found: by `family=`, by the config, by the name.
3. Fields that the config leaves out are taken from the name, where it tells them (`names.py`).
4. The rest is translated, strictly: to a native config (`config.py`) and to a `DiffusionSpec`.

`inspect_checkpoint` does this with the files of config and tokenizer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PretrainedConfig

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.config import native_config
from hooked_diffusion.checkpoints.fields import Config, flag_in, shown
from hooked_diffusion.checkpoints.hub import locate_config
from hooked_diffusion.checkpoints.lora import is_adapter, open_reader
from hooked_diffusion.checkpoints.matching import rename
from hooked_diffusion.checkpoints.names import ROWS, is_known, repository_name, told_by_name
from hooked_diffusion.checkpoints.registry import adapter_for, lookalikes, saved_from_family
from hooked_diffusion.checkpoints.tokenizer_files import config_of
from hooked_diffusion.spec import DiffusionSpec

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ConfigReading:
    """A config that has been read: the family's `adapter`, the `config` with all that completes it, the `native` config, and `notes`.

    `where` is how messages name the config.
    """

    where: str
    adapter: CheckpointAdapter
    config: Config
    native: PretrainedConfig
    notes: tuple[str, ...]

    @cached_property
    def spec(self) -> DiffusionSpec:
        """How the checkpoint is read. Raises ValueError when the config contradicts itself, or leaves out a mask token."""
        return self.adapter.spec(self.config, self.native.vocab_size, self.where)

    @property
    def tied(self) -> bool | None:
        """Whether the config says that head and embedding are one tensor; None where it leaves that to the weights."""
        return flag_in(self.config, self.adapter.tie_flag, self.where)


def read_config(
    config: Config,
    *,
    where: str,
    name: str,
    family: str | None = None,
    given: Config | None = None,
    shapes: Shapes | None = None,
    adapt: Callable[[CheckpointAdapter], CheckpointAdapter] = lambda adapter: adapter,
) -> ConfigReading:
    """Read a config; see the module docstring.

    - `where` names it in messages; `name` is its repository's; `given` has the caller's own fields (None takes one out).
    - `shapes`: stored key → shape, once the weight files have been seen; `adapt` changes the adapter to how they name their keys.

    Raises ValueError for an unknown family, and for a config that leaves out a required field or has an unknown one.
    """
    # None takes a field out: every reader of a field treats null as absent.
    whole = {**config, **(given or {})}
    chosen = adapter_for(whole, family, where, name)
    notes = [*_given(given)]
    if family is None and (original := saved_from_family(whole, chosen)):
        notes.append(f"read as {original.family}, not {chosen.family}: its config was saved from {whole['_name_or_path']}")
        chosen = original
    # Once the family is known: GGUF files have names of their own for the same keys.
    adapter = adapt(chosen)
    told, told_notes = told_by_name(whole, adapter, name)
    whole |= told
    rows, rows_notes = _rows(whole, adapter, name, shapes)
    whole |= rows
    notes = [*adapter.notes, *notes, *(() if is_known(name) else lookalikes(whole, adapter)), *told_notes, *rows_notes]
    native = native_config(adapter, whole, where)
    return ConfigReading(where, adapter, whole, native, (*notes, *_unread_mask(whole, adapter)))


def inspect_checkpoint(
    name_or_path: str | Path, *, family: str | None = None, revision: str | None = None, config: Config | None = None
) -> ConfigReading:
    """Read a checkpoint without its weights: a folder, a GGUF file, a hub id, or a `config.json` under any file name.

    The settings are those of `load_checkpoint`. Raises ValueError, FileNotFoundError and OSError as that does before it reads weights, and
    where no mask token is known.
    """
    name, adapter = repository_name(name_or_path), Path(name_or_path).expanduser()
    path = adapter if is_adapter(adapter) else locate_config(name_or_path, revision)
    if path.suffix == ".gguf" or path is adapter:
        # Their headers say what their tensors are called.
        whole = open_reader(path)
        reading = read_config(whole.config, where=str(path), name=name, family=family, given=config, shapes=whole.shapes, adapt=whole.adapt)
    else:
        reading = read_config(config_of(path), where=str(path), name=name, family=family, given=config)
    _ = reading.spec  # read once here, so that an error in it is raised now
    return reading


def _given(config: Config | None) -> tuple[str, ...]:
    """The note of what the caller changed."""
    if not config:
        return ()
    return (f"config overridden by the caller: {', '.join(f'{key} = {shown(value)}' for key, value in config.items())}",)


def _rows(config: Config, adapter: CheckpointAdapter, name: str, shapes: Shapes | None) -> tuple[dict[str, object], tuple[str, ...]]:
    """The size of the vocabulary, where the stored embedding decides it and not the config; and a note where the two differ."""
    if not adapter.rows_from_embedding:
        return {}, ()
    field = adapter.fields.get("vocab_size", "vocab_size")
    stated = config.get(field)
    if shapes is None:
        rows = ROWS.get(name.lower(), stated)
        return {field: rows}, (f"vocabulary of {rows} without a look at the stored embedding, which decides, and with it the mask token",)
    names, _ = rename(shapes, adapter)
    rows = shapes.get(names.get(adapter.embedding, ""), (None,))[0]
    if rows is None or rows == stated:
        return {}, ()
    return {field: rows}, (f"vocabulary of {rows}, the rows of the embedding; the config says {stated}",)


def _unread_mask(config: Config, adapter: CheckpointAdapter) -> tuple[str, ...]:
    """The note on an ARM's class that comes with a mask token: it may be an MDM whose config does not say so."""
    mask = config.get("mask_token_id")
    if mask is None or "diffusion_spec" in config or adapter.read_spec(config).mask_token_id is not None:
        return ()
    return (
        f"read as a causal ARM, though its config or tokenizer names a mask token, {shown(mask)}: if it is a masked-diffusion model, pass "
        "family=, or state diffusion_spec (attention, logit_shift, mask_token_id)",
    )
