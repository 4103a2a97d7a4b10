"""The files of a study's folder: the name of each is spelled here, and nowhere else.

OUT/study.json, table.csv             pair, settings, provenance; the overlaps
OUT/verdicts.json                     what became of every task's circuit, for other programs
OUT/TASK/…                            one folder per task: the files of `TaskStudy`, of its evidence and of `Pool`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.permuted import OverlapNull
from mechshift_tl.compare.result import CircuitComparison
from mechshift_tl.evaluation.carried import Carried
from mechshift_tl.evaluation.curve import FaithfulnessCurve
from mechshift_tl.evaluation.size import FaithfulSize
from mechshift_tl.evaluation.validity import Validity
from mechshift_tl.runs.stages import Savable, Stages
from mechshift_tl.study.gains import Gain
from mechshift_tl.study.likeness import Likeness
from mechshift_tl.views.lens_table import ComponentLens
from mechshift_tl.views.neurons import NeuronActivations

STUDY, TABLE, VERDICTS = "study.json", "table.csv", "verdicts.json"
PROMPTS, FAITHFULNESS = "prompts.csv", "faithfulness.csv"

T = TypeVar("T", bound=Savable)


@dataclass(frozen=True)
class PerRole(Generic[T]):
    """A kind of artefact with a file per model: `pattern` with the model's role in it, read back by `load`."""

    pattern: str
    load: Callable[[Path], T]

    def name(self, role: str) -> str:
        """The file of a role's artefact."""
        return self.pattern.format(role)

    def stage(self, stages: Stages, role: str, make: Callable[[], T]) -> T:
        """What `make` returns, kept under its name: made once, whatever happens to the job."""
        return stages.result(self.name(role), self.load, make)

    def save(self, folder: Path, found: Mapping[str, T]) -> None:
        """Write the artefacts of all roles."""
        for role, one in found.items():
            one.save(folder / self.name(role))

    def read(self, folder: Path, roles: Iterable[str]) -> dict[str, T]:
        """Every role's artefact. Raises FileNotFoundError where one is not there."""
        return {role: self.load(folder / self.name(role)) for role in roles}

    def read_present(self, folder: Path, roles: Iterable[str]) -> dict[str, T]:
        """The artefacts that are there, in the order of `roles`."""
        return self.read(folder, [role for role in roles if (folder / self.name(role)).is_file()])


SCORES = PerRole("{}.scores.safetensors", EdgeScores.load)
CIRCUITS = PerRole("{}.circuit.safetensors", Circuit.load)
#: The ARM against the role.
COMPARISONS = PerRole("arm-{}.comparison.json", CircuitComparison.load)
LENSES = PerRole("{}.lens.safetensors", ComponentLens.load)
NEURONS = PerRole("{}.neurons.safetensors", NeuronActivations.load)
CURVES = PerRole("{}.curve.safetensors", FaithfulnessCurve.load)
VALIDITY = PerRole("{}.validity.safetensors", Validity.load)
#: What verdicts rest on; the first four are of the ARM and the role.
LIKENESS = PerRole("arm-{}.likeness.json", Likeness.load)
SIZES = PerRole("arm-{}.size.json", FaithfulSize.load)
CARRIED = PerRole("arm-{}.carried.safetensors", Carried.load)
OVERLAPS = PerRole("arm-{}.overlap.json", OverlapNull.load)
EARLY = PerRole("{}.early.safetensors", Gain.load)
SPREAD = PerRole("{}.spread.safetensors", Gain.load)


def folder_name(task: str) -> str:
    """The folder of a task: its name, with what could lead out of the study's folder spelled as %XX."""
    return quote(task, safe=" ") if task.strip(".") else task.replace(".", "%2E")
