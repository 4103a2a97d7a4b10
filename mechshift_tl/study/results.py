"""The results of a study: for each task its pool, scores, circuits, comparisons and views; saved as one folder."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion import artefact
from hooked_diffusion.html import card
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.compare.lens_sets import component_sets
from mechshift_tl.compare.result import CircuitComparison, Statistic
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.readouts.pool import Pool
from mechshift_tl.study import files
from mechshift_tl.study.answers import Verdicts
from mechshift_tl.study.conditions import Conditions, TaskFindings, conditions
from mechshift_tl.study.config import StudyConfig
from mechshift_tl.study.evidence import Evidence
from mechshift_tl.study.measurement import Finding
from mechshift_tl.study.measurements import load_measured, save_measured
from mechshift_tl.study.overlap_figure import draw_overlaps
from mechshift_tl.study.verdict_evidence import VerdictEvidence
from mechshift_tl.study.verdicts import judge
from mechshift_tl.views.lens_table import ComponentLens
from mechshift_tl.views.neurons import NeuronActivations


@dataclass(frozen=True, eq=False)
class TaskStudy:
    """One task: everything is keyed by role ("arm", "mdm", "control"); `comparisons[role]` holds the ARM against that role.

    `neurons` is empty where too few prompts share a group to compare groups; `evidence` is None where no prompts were kept apart for it.
    `judged` is the evidence behind the verdicts, one per model. `measured` holds the results of `study.measurements` by name.
    """

    task: str
    pool: Pool = field(repr=False)
    scores: dict[str, EdgeScores] = field(repr=False)
    circuits: dict[str, Circuit] = field(repr=False)
    comparisons: dict[str, CircuitComparison] = field(repr=False)
    lenses: dict[str, ComponentLens] = field(repr=False)
    neurons: dict[str, NeuronActivations] = field(repr=False)
    evidence: Evidence | None = field(default=None, repr=False)
    measured: dict[str, Finding] = field(default_factory=dict, repr=False)
    judged: tuple[VerdictEvidence, ...] = field(default=(), repr=False)

    def notes(self, role: str) -> list[str]:
        """Sentences to print beside the overlap of the ARM's circuit with that of `role`."""
        valid = self.evidence.validity_note(role) if self.evidence else None
        return [*self.comparisons[role].notes, *([valid] if valid else [])]

    @property
    def component_sets(self) -> dict[str, list[str]]:
        """The top components of the ARM's and the MDM's circuit, as many as their comparison looked at: `compare.lens_sets`."""
        return component_sets(self.circuits["arm"], self.circuits["mdm"], self.comparisons["mdm"].settings.k)

    def save(self, folder: str | Path) -> None:
        """Write scores, circuits, comparisons, lenses, neurons and the pool to `folder`, one file each, and the prompts as a table."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files.SCORES.save(folder, self.scores)
        files.CIRCUITS.save(folder, self.circuits)
        files.COMPARISONS.save(folder, self.comparisons)
        files.LENSES.save(folder, self.lenses)
        files.NEURONS.save(folder, self.neurons)
        if self.evidence is not None:
            self.evidence.save(folder)
        for one in self.judged:
            one.save(folder)
        save_measured(folder, self.measured)
        self.pool.save(folder)
        self.save_prompts(folder)

    def save_prompts(self, folder: Path) -> None:
        """Write the prompts as a table."""
        self.pool.examples.write_csv(folder / files.PROMPTS)

    @classmethod
    def load(cls, folder: str | Path) -> TaskStudy:
        """Read what `save` wrote. Raises ValueError, OSError on another folder."""
        folder, pool = Path(folder), Pool.load(folder)
        roles = list(pool.readouts)
        return cls(
            task=pool.task,
            pool=pool,
            scores=files.SCORES.read(folder, roles),
            circuits=files.CIRCUITS.read(folder, roles),
            comparisons=files.COMPARISONS.read_present(folder, roles),
            lenses=files.LENSES.read(folder, roles),
            neurons=files.NEURONS.read_present(folder, roles),
            evidence=Evidence.load(folder, roles),
            measured=load_measured(folder),
            judged=VerdictEvidence.load(folder, pool.task, roles),
        )


@dataclass(frozen=True, eq=False)
class Study:
    """A pair of models compared on several tasks."""

    pair: str
    config: StudyConfig
    tasks: dict[str, TaskStudy]
    provenance: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def conditions(self) -> Conditions:
        """Where the paper's reading would break, and what this study says of it."""
        known = self.provenance.get("dependency", {})
        tasks = [TaskFindings(name, known.get(name), one.comparisons, one.measured) for name, one in self.tasks.items()]
        return conditions(tasks, self.verdicts)

    @cached_property
    def verdicts(self) -> Verdicts:
        """What became of every task's circuit, for each model beside the ARM; corrected for how many answers the study gives."""
        return judge([one for task in self.tasks.values() for one in task.judged], self.config.rules)

    def table(self) -> pd.DataFrame:
        """One row per task and comparison, with the columns of `OverlapRow`."""
        return pd.DataFrame([asdict(row) for row in self.overlaps()])

    def overlaps(self) -> list[OverlapRow]:
        """One row per task and comparison, as the paper's Table 1, with floor, ceiling and 95 % interval over prompts."""
        return [OverlapRow.of(task, role, c) for task, one in self.tasks.items() for role, c in one.comparisons.items()]

    def overlap_table(self) -> pd.DataFrame:
        """The paper's Table 1 as text: a row per task, a column per comparison; cells hold overlap [95 % over prompts], floor, ceiling."""
        rows = []
        for task, one in self.tasks.items():
            cells = {f"ARM → {ROLE_NAMES[role]}": _cell(c.statistics["edge_jaccard"]) for role, c in one.comparisons.items()}
            rows.append({"task": task, "n": len(one.pool), **cells})
        return pd.DataFrame(rows)

    def accuracy(self) -> pd.DataFrame:
        """One row per task and model: shares in [0, 1] of the prompts tried that are decoded freely, and read, correctly."""
        return pd.DataFrame(
            [
                {
                    "task": task,
                    "model": ROLE_NAMES[role],
                    "decoded": one.pool.decoded_correctly[role],
                    "read": one.pool.read_correctly[role],
                    "tried": one.pool.tried,
                    "kept": len(one.pool),
                    "effect": one.scores[role].effect,
                    "completeness_gap": one.scores[role].completeness_gap,
                }
                for task, one in self.tasks.items()
                for role in one.scores
            ]
        )

    def save(self, folder: str | Path) -> None:
        """Write a folder per task (`TaskStudy.save`), with `study.json`, `table.csv` and `verdicts.json`."""
        for task, one in self.tasks.items():
            one.save(Path(folder) / files.folder_name(task))
        self.save_tables(Path(folder))

    def save_tables(self, folder: Path) -> None:
        """Write `study.json`, `table.csv` and `verdicts.json` alone."""
        self.table().to_csv(folder / files.TABLE, index=False)
        self.verdicts.write_by_task(folder / files.VERDICTS)
        side = {"pair": self.pair, "config": self.config.to_dict(), "tasks": list(self.tasks), "provenance": self.provenance}
        artefact.write_json(folder / files.STUDY, side)

    @classmethod
    def load(cls, folder: str | Path) -> Study:
        """Read what `save` wrote: the same tables, the same report. The prompts' tokenizer is not kept (None).

        Raises ValueError, OSError on a folder that is not that of a study.
        """
        folder = Path(folder)
        if not (folder / files.STUDY).is_file():
            raise ValueError(f"{folder} holds no {files.STUDY}; give a folder written by Study.save, or by mechshift run")
        side = artefact.read_json(folder / files.STUDY, "Study.save", "pair", "config", "tasks", "provenance")
        tasks = {task: _named(TaskStudy.load(folder / files.folder_name(task)), task) for task in side["tasks"]}
        return cls(side["pair"], StudyConfig(**side["config"]), tasks, side["provenance"])

    def figure(self) -> go.Figure:
        """Edge and component overlap of the ARM's circuits with each other model's, between floor and ceiling, one row per comparison."""
        return draw_overlaps({task: one.comparisons for task, one in self.tasks.items()})

    def _repr_html_(self) -> str:
        return card("Study", self.pair, self.table())


def _named(study: TaskStudy, task: str) -> TaskStudy:
    return replace(study, task=task, judged=tuple(replace(one, task=task) for one in study.judged))


def _cell(edges: Statistic) -> str:
    lines = [f"{edges.value:.3f}" + (f" [{edges.interval.low:.3f}, {edges.interval.high:.3f}]" if edges.interval else "")]
    if edges.floor:
        lines.append(f"floor {edges.floor.mean:.3f} (97.5 %: {edges.floor.high:.3f})")
    if edges.ceiling is not None:
        lines.append(f"ceiling {edges.ceiling:.3f}")
    return "\n".join(lines)


@dataclass(frozen=True)
class OverlapRow:
    """One comparison of a study, as the paper's Table 1: NaN where a bound was not computed.

    - `edge_jaccard`, `component_jaccard`: overlaps in [0, 1]; `low`, `high`: 95 % over prompts of the first.
    - `floor`, `floor_high`: mean and upper 95 % of the edge overlap of random circuits; `component_floor`: mean of the component overlap.
    - `ceiling`: edge overlap of one model with itself, the lower of the two models'.
    - `early_arm`, `early_other`: shares in [0, 1] of the circuits' |score| in early layers.
    - `kept_arm`, `kept_other`: edges; `n`: prompts; `above_floor`: whether more overlap than chance is supported.
    """

    task: str
    comparison: str
    edge_jaccard: float
    low: float
    high: float
    floor: float
    floor_high: float
    ceiling: float
    component_jaccard: float
    component_floor: float
    early_arm: float
    early_other: float
    kept_arm: int
    kept_other: int
    n: int
    above_floor: bool

    @classmethod
    def of(cls, task: str, role: str, comparison: CircuitComparison) -> OverlapRow:
        """The row of a task's comparison of the ARM with `role`."""
        edges, components = comparison.statistics["edge_jaccard"], comparison.statistics["component_jaccard"]
        return cls(
            task=task,
            comparison=f"ARM → {ROLE_NAMES[role]}",
            edge_jaccard=edges.value,
            low=edges.interval.low if edges.interval else math.nan,
            high=edges.interval.high if edges.interval else math.nan,
            floor=edges.floor.mean if edges.floor else math.nan,
            floor_high=edges.floor.high if edges.floor else math.nan,
            ceiling=math.nan if edges.ceiling is None else edges.ceiling,
            component_jaccard=components.value,
            component_floor=components.floor.mean if components.floor else math.nan,
            early_arm=comparison.early_share[0],
            early_other=comparison.early_share[1],
            kept_arm=comparison.kept[0],
            kept_other=comparison.kept[1],
            n=min(count for count in comparison.n_examples if count is not None),
            above_floor=comparison.supported,
        )
