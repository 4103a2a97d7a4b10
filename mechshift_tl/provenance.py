"""Where a result comes from: it travels with every artefact."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from mechshift_tl.readouts import Readouts


def provenance(model: Any, readouts: Readouts) -> dict[str, Any]:
    """Where a result comes from: the model's source and spec, the readouts' settings, the versions."""
    spec = getattr(model, "spec", None)
    return {
        "model": getattr(model, "source", {"name": getattr(model.cfg, "model_name", "model")}),
        "spec": spec.to_dict() if spec is not None else None,
        "readouts": readouts.info,
        "versions": {package: version(package) for package in ("mechshift-tl", "torch", "transformer-lens", "transformers")},
    }
