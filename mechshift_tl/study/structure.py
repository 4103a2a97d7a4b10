"""Measurements of where circuits lie: in which layers, at which components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from mechshift_tl.compare.depth_result import DepthShares
from mechshift_tl.compare.depth_shares import depth_shares
from mechshift_tl.compare.masses import ComponentMasses, component_masses
from mechshift_tl.evaluation.faithfulness import NoGap
from mechshift_tl.evaluation.layer_losses import layer_losses
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.study.measurement import Measurement
from mechshift_tl.study.parts import TaskParts


def measure_depth(parts: TaskParts, best_layers: Mapping[str, Sequence[int | None]] | None = None) -> DepthShares:
    """Depth by scores and, where prompts were held out, by function. `best_layers` as `depth_shares` takes it.

    Cost: the held-out prompts once per layer and model, and a circuit per model and draw.
    """
    config = parts.config
    losses, notes = _losses(parts)
    return depth_shares(
        parts.scores, parts.circuits, losses, task=parts.name, cut=config.cut, best_layers=best_layers, n_boot=config.n_boot,
        seed=config.seed, n_held_out=len(parts.held_out) if parts.held_out else 0, notes=notes,
    )  # fmt: skip


def _losses(parts: TaskParts) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What each model loses without each layer, by role, and a note on every model of which that has no meaning."""
    losses: dict[str, Tensor] = {}
    notes: list[str] = []
    for role, rows in parts.held_out.readouts.items() if parts.held_out else ():
        parts.progress(f"layers of the {ROLE_NAMES[role]}")
        try:
            losses[role] = layer_losses(parts.models[role], rows, n_boot=parts.config.n_boot, seed=parts.config.seed)
        except NoGap as error:
            notes.append(f"{ROLE_NAMES[role]}: {error}")
    return losses, tuple(notes)


def measure_masses(parts: TaskParts) -> ComponentMasses:
    """Source and sink masses of every component."""
    return component_masses(parts.scores, task=parts.name, n_boot=parts.config.n_boot, seed=parts.config.seed)


DEPTH = Measurement(
    name="depth",
    title="Depth",
    question="Does the MDM do more of the task in early layers than the ARM, and more than further training alone explains?",
    file="depth.safetensors",
    load=DepthShares.load,
    make=measure_depth,
    quick=True,
)
MASSES = Measurement(
    name="masses",
    title="Sources and sinks",
    question="Which components send, and which receive, and are they the same in each model?",
    file="masses.safetensors",
    load=ComponentMasses.load,
    make=measure_masses,
    quick=True,
)
