"""Every measurement of a study, in the order in which a report shows them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mechshift_tl.runs.stages import Stages
from mechshift_tl.study.ablations import ABLATIONS
from mechshift_tl.study.components import ATTENTION, LENSES, NEURONS, PLAYBACK, SPECIALISATION
from mechshift_tl.study.config import StudyConfig
from mechshift_tl.study.measurement import Finding, Measurement
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.study.robustness import ROBUSTNESS
from mechshift_tl.study.structure import DEPTH, MASKS, MASSES, STEPS
from mechshift_tl.study.unscreened import UNSCREENED

#: Each has a result of its own kind, hence Any.
MEASUREMENTS: tuple[Measurement[Any], ...] = (
    DEPTH,
    MASSES,
    STEPS,
    PLAYBACK,
    MASKS,
    ABLATIONS,
    SPECIALISATION,
    LENSES,
    ATTENTION,
    NEURONS,
    UNSCREENED,
    ROBUSTNESS,
)


def chosen(config: StudyConfig, of: Iterable[Measurement[Any]] = MEASUREMENTS) -> list[Measurement[Any]]:
    """The measurements that a study asks for, in their order. Raises ValueError on a name that none has."""
    wanted, every = config.measurements, list(of)
    if isinstance(wanted, str):
        return [one for one in every if wanted == "all" or (wanted == "quick" and one.quick)]
    names = [one.name for one in every]
    if unknown := sorted(set(wanted) - set(names)):
        raise ValueError(f"StudyConfig.measurements names {unknown[0]!r}; there are: {', '.join(names)}")
    return [one for one in every if one.name in wanted]


def measure(parts: TaskParts, stages: Stages, of: Iterable[Measurement[Any]] | None = None) -> dict[str, Finding]:
    """What a study asks for of one task, by name; what does not apply to the task is left out."""
    asked = chosen(parts.config) if of is None else of
    return {one.name: one.stage(parts, stages) for one in asked if one.applies(parts)}


def load_measured(folder: Path, of: Iterable[Measurement[Any]] = MEASUREMENTS) -> dict[str, Finding]:
    """The results that a task's folder holds, by name."""
    return {one.name: one.load(folder / one.file) for one in of if (folder / one.file).is_file()}


def save_measured(folder: Path, found: dict[str, Finding], of: Iterable[Measurement[Any]] = MEASUREMENTS) -> None:
    """Write the results to a task's folder."""
    for one in of:
        if one.name in found:
            found[one.name].save(folder / one.file)
