"""Stored keys against native keys: every native tensor present once, none left over, all of the right shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.fields import shown_name
from hooked_diffusion.checkpoints.readers import CheckpointReader

Shape = tuple[int, ...]
SHOWN = 5


class CheckpointMismatch(ValueError):
    """A checkpoint's keys are not those of the native model.

    `missing` holds native names, `extra` stored names, `misshaped` lines that give both shapes; the message shows five of each.
    """

    def __init__(self, where: str, native: str, missing: Sequence[str], extra: Sequence[str], misshaped: Sequence[str]) -> None:
        self.missing, self.extra, self.misshaped = list(missing), list(extra), list(misshaped)
        parts = [_listed(kind, keys) for kind, keys in (("missing", missing), ("extra", extra), ("misshaped", misshaped)) if keys]
        super().__init__(f"{where} does not fit {native}: {'; '.join(parts)}. Is it whole, and is its family right?")


def _listed(kind: str, keys: Sequence[str]) -> str:
    more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {kind} key{'s' if len(keys) > 1 else ''} ({', '.join(shown_name(key, 200) for key in keys[:SHOWN])}{more})"


def rename(stored: Iterable[str], adapter: CheckpointAdapter) -> tuple[dict[str, str], list[str]]:
    """Native name → stored key, and the stored keys that have no native name or one that is taken."""
    names: dict[str, str] = {}
    extra: list[str] = []
    for key in stored:
        if adapter.drops(key):
            continue
        native = adapter.native_key(key)
        if native is None or native in names:
            extra.append(key)
        else:
            names[native] = key
    return names, extra


def is_tied(flag: bool | None, names: Mapping[str, str], adapter: CheckpointAdapter, reader: CheckpointReader, where: str) -> bool:
    """Whether head and embedding are one tensor. They are not if the flag says so, nor if a stored head differs in any bit.

    `flag` None leaves it to the weights. Raises ValueError when the flag says tied and the head differs: loading such a checkpoint as tied
    would overwrite the embedding.
    """
    if flag is False or adapter.embedding not in names:
        return False
    if adapter.head not in names:
        return True
    # Bit for bit: a head that was trained on its own differs, if only a little.
    head, embedding = reader.load(names[adapter.head]), reader.load(names[adapter.embedding])
    equal = head.dtype == embedding.dtype and torch.equal(head, embedding)
    if flag and not equal:
        raise ValueError(
            f"{where} says {adapter.tie_flag} = true, but its {names[adapter.head]} differs from {names[adapter.embedding]}; "
            f"set {adapter.tie_flag} to false in its config if that head is the trained one"
        )
    return equal


def check(
    where: str, native: str, wanted: Mapping[str, Shape], names: Mapping[str, str], stored: Mapping[str, Shape], extra: Sequence[str]
) -> None:
    """Raise `CheckpointMismatch` unless `names` gives every wanted native tensor, nothing else, in the wanted shape."""
    missing = [key for key in wanted if key not in names]
    extra = [*extra, *(key for name, key in names.items() if name not in wanted)]
    misshaped = [
        f"{key}: stored {stored[key]}, native {wanted[name]}"
        for name, key in names.items()
        if name in wanted and stored[key] != wanted[name]
    ]
    if missing or extra or misshaped:
        raise CheckpointMismatch(where, native, missing, extra, misshaped)
