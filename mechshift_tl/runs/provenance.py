"""Where a result comes from: it travels with every artefact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from mechshift_tl.bridge.protocol import HookedModel, says_how_it_is_read


def provenance(model: HookedModel, readouts: Mapping[str, Any]) -> dict[str, Any]:
    """Where a result comes from: the model's source and spec, the attention in force, the readouts' settings, the versions."""
    known = model if says_how_it_is_read(model) else None
    return {
        "model": {"name": model.cfg.model_name} if known is None else known.source,
        "spec": None if known is None else known.spec.to_dict(),
        "attention": None if known is None else known.direction,
        "readouts": dict(readouts),
        "versions": versions(),
    }


@cache
def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("mechshift-tl", "torch", "transformer-lens", "transformers")}


def versions() -> dict[str, str]:
    """Of the packages that numbers depend on."""
    return dict(_versions())


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of named tensors: names, types, shapes and bytes. Those on the meta device count without their bytes."""
    found = hashlib.sha256()
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if not tensor.is_meta:
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
