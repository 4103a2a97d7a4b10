"""Where a result comes from: it travels with every artefact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from itertools import combinations
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from mechshift_tl.bridge.alignment import spec_of
from mechshift_tl.bridge.protocol import HookedModel, says_how_it_is_read
from mechshift_tl.bridge.weights import named_weights

#: In what results must agree before they are used together.
Origin = Literal["weights", "spec", "attention", "task"]


def provenance(model: HookedModel, readouts: Mapping[str, object]) -> dict[str, object]:
    """Where a result comes from: the model's source and spec, the attention in force, the readouts' settings, the versions.

    The source of a model that was not read from files holds the digest of its weights: two such models may have one name.
    """
    known = model if says_how_it_is_read(model) else None
    source: dict[str, object] = {"name": model.cfg.model_name} if known is None else known.source
    return {
        "model": source if "sha256" in source else source | {"digest": digest(named_weights(model))},
        "spec": spec_of(model).to_dict() if known is not None or hasattr(model, "spec") else None,
        "attention": None if known is None else known.direction,
        "readouts": dict(readouts),
        "versions": versions(),
    }


class OtherOrigin(ValueError):
    """Results that were to be used together come from different models, tasks, or ways of reading a model."""


def check_same_origin(provenances: Mapping[str, Mapping[str, object]], *, same: Iterable[Origin] = get_args(Origin)) -> None:
    """Raise `OtherOrigin` where two provenances, by what they are of ("the circuit", "the scores"), differ in what `same` names.

    - "weights": the checksum of the weight files, or the digest of the weights, where both results have it; else the model's name.
    - "spec": how the model is read; "attention": the direction that was in force.
    - "task": the task of the prompts.

    What a provenance does not say is not compared: a file of another program says nothing of these.
    """
    origins = {name: _origin(one) for name, one in provenances.items()}
    for kind in same:
        for (first, ours), (second, theirs) in combinations(origins.items(), 2):
            if _differ(kind, ours[kind], theirs[kind]):
                raise OtherOrigin(
                    f"{second} and {first} differ in {kind}: {_said(theirs, kind)} and {_said(ours, kind)}; "
                    "give results of one model and one task"
                )


def _differ(kind: str, ours: Any, theirs: Any) -> bool:
    """Whether two answers are known, comparable and different."""
    if kind == "weights":
        evidence = _evidence(ours, theirs)
        return evidence is not None and ours[evidence] != theirs[evidence]
    return ours is not None and theirs is not None and ours != theirs


def _evidence(ours: Mapping[str, object], theirs: Mapping[str, object]) -> str | None:
    """By what two models' weights are compared: the best that is known of both.

    A name is compared only where neither has a checksum: the same files may be opened under two names.
    """
    both = [evidence for evidence in ("sha256", "digest") if evidence in ours and evidence in theirs]
    if not both and "sha256" not in ours and "sha256" not in theirs and "name" in ours and "name" in theirs:
        both = ["name"]
    return both[0] if both else None


def _origin(provenance: Mapping[str, object]) -> dict[str, object]:
    """The value of each of `Origin` in a provenance, and the model's `name`; None where the provenance does not say."""
    model, readouts = (_mapping(provenance.get(name)) for name in ("model", "readouts"))
    return {
        "weights": {evidence: model[evidence] for evidence in ("sha256", "digest", "name") if model.get(evidence)},
        "spec": json.loads(json.dumps(provenance.get("spec"), default=str)),  # as a file holds it: lists for tuples
        "attention": provenance.get("attention"),
        "task": readouts.get("task"),
        "name": model.get("name"),
    }


def _mapping(value: object) -> Mapping[str, object]:
    """A part of a provenance; a file that was changed by hand may hold anything there."""
    return value if isinstance(value, Mapping) else {}


def _said(origin: Mapping[str, Any], kind: str) -> str:
    if kind != "weights":
        return str(origin[kind])
    known = {evidence: value for evidence, value in origin[kind].items() if evidence != "name"}
    return f"{origin['name']}" + "".join(f" ({evidence} {str(value)[:12]}…)" for evidence, value in known.items())


@cache
def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("mechshift-tl", "torch", "transformer-lens", "transformers")}


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return dict(_versions())


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of named tensors: names, types, shapes and bytes. Those without values, on the meta device or in a dry run, count without."""
    found = hashlib.sha256()
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if not (tensor.is_meta or isinstance(tensor, FakeTensor)):
            # As bytes: numpy has no bfloat16.
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def identity(models: Mapping[str, HookedModel]) -> dict[str, object]:
    """JSON values that identify models, by role: where the weights came from, what they are now, how each model is read.

    The digest of the weights reads all of them: they may have been changed since they were opened.
    """
    told = {}
    for role, model in models.items():
        known = provenance(model, {})
        told |= {f"{role} source": known["model"], f"{role} weights": digest(named_weights(model)), f"{role} spec": known["spec"]}
    return told
