"""Evidence for reading an overlap: is each circuit faithful in its own model and in the others, and is the method valid on both models?

1. Every model's circuit runs in every model, on prompts that it was not found on, beside random circuits of its layer profile.
2. Of ARM and MDM: faithfulness over circuit size, with CPR and CMD;
3. and, on a few prompts, edges patched exactly, held against the scores that found the circuits.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.attribution.settings import PathSettings
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.evaluation.curve import FaithfulnessCurve, faithfulness_curve
from mechshift_tl.evaluation.transfer import N_RANDOM, Transfer, Transfers, circuits_in_model
from mechshift_tl.evaluation.validity import Validity, validity, validity_note
from mechshift_tl.readouts import Readouts
from mechshift_tl.runs.stages import Stages
from mechshift_tl.study import files
from mechshift_tl.study.config import StudyConfig

#: Shares of the possible edges at which faithfulness is measured, and random circuits beside each circuit.
SIZES = (0.01, 0.05, 0.15, 0.4, 1.0)
#: The models whose overlap is the question: only these are measured at every size and patched exactly.
QUESTIONED = ("arm", "mdm")


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence that a report shows beside a task's overlaps.

    - `runs`: every circuit in every model, on prompts that no circuit was found on.
    - `curves`, `validity`: by role; empty where they were not asked for or have no meaning.
    """

    runs: tuple[Transfer, ...] = field(repr=False)
    curves: dict[str, FaithfulnessCurve] = field(repr=False)
    validity: dict[str, Validity] = field(repr=False)

    @property
    def faithfulness(self) -> pd.DataFrame:
        """`runs` as a table: a row per circuit and model it ran in, with the columns of `Transfer`."""
        return Transfers(self.runs).to_dataframe()

    def validity_note(self, role: str, method: str | None = None) -> str | None:
        """A sentence to print beside the overlap of the ARM and `role`; None where the method is as valid for `role` as for the ARM."""
        if not {"arm", role} <= self.validity.keys():
            return None
        return validity_note(self.validity["arm"], self.validity[role], method)

    def grid(self) -> pd.DataFrame:
        """Faithfulness as text: a row per circuit, a column per model it ran in, cells "value [95 % over prompts], random value"."""
        cells = {(row.circuit, f"in {row.model}"): _cell(row) for row in self.runs}
        return pd.Series(cells).unstack(sort=False).rename_axis("circuit of").reset_index()

    def save(self, folder: Path) -> None:
        """Write `faithfulness.csv` and one file per curve and validity under `folder`."""
        self.save_table(folder)
        files.CURVES.save(folder, self.curves)
        files.VALIDITY.save(folder, self.validity)

    def save_table(self, folder: Path) -> None:
        """Write `faithfulness.csv` alone."""
        self.faithfulness.to_csv(folder / files.FAITHFULNESS, index=False)

    @classmethod
    def load(cls, folder: Path, roles: Iterable[str]) -> Evidence | None:
        """Read what `save` wrote of `roles`, in their order; None where nothing was saved.

        Raises ValueError on a table whose columns or numbers are others.
        """
        table = folder / files.FAITHFULNESS
        if not table.is_file():
            return None
        roles = list(roles)
        return cls(_read_runs(table), files.CURVES.read_present(folder, roles), files.VALIDITY.read_present(folder, roles))


def _cell(row: Transfer) -> str:
    if row.note:
        return "no meaning here"
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]\nrandom {row.random:.2f}"


def _read_runs(path: Path) -> tuple[Transfer, ...]:
    """The rows of `faithfulness.csv`. Python reads the numbers: its floats come back as they were, pandas' need not."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return tuple(Transfer(**{name: _CASTS[kind](row[name]) for name, kind in get_type_hints(Transfer).items()}) for row in rows)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); give what Study.save wrote") from error


#: How the text of a cell becomes a value; an empty cell is NaN.
_CASTS: dict[type, Callable[[str], Any]] = {str: str, int: int, float: lambda text: float(text or "nan")}


def gather_evidence(
    models: Mapping[str, HookedModel],
    scores: Mapping[str, EdgeScores],
    circuits: Mapping[str, Circuit],
    held_out: Mapping[str, Readouts],
    config: StudyConfig,
    stages: Stages,
) -> Evidence:
    """Evidence on `held_out` readouts by role; cost: some 40 circuit runs per model, and exact patching of the edges asked for."""
    found = [
        stages.draft(f"{role}.runs.json", Transfers.load, partial(circuits_in_model, role, model, circuits, held_out[role], config.seed))
        for role, model in models.items()
    ]
    runs = tuple(row for one in found for row in one.rows)
    meant = {row.model for row in runs if not row.note}
    curves = {
        role: files.CURVES.stage(
            stages, role, partial(faithfulness_curve, model, held_out[role], scores[role], sizes=SIZES, n_random=N_RANDOM, seed=config.seed)
        )
        for role, model in models.items()
        if role in meant and role in QUESTIONED
    }
    return Evidence(runs, curves, _measure_validity(models, held_out, config, stages) if config.validity_n else {})


def _measure_validity(
    models: Mapping[str, HookedModel], held_out: Mapping[str, Readouts], config: StudyConfig, stages: Stages
) -> dict[str, Validity]:
    """Edges patched exactly on the first held-out prompts, in the models whose overlap is the question."""
    few = range(min(config.validity_n, next(iter(held_out.values())).n_examples))
    return {
        role: files.VALIDITY.stage(stages, role, partial(
            validity, models[role], held_out[role].select(few), methods=_method(config), n_top=config.validity_edges,
            n_random=config.validity_edges, rank_by=config.attribution.label, seed=config.seed, kv=config.kv,
        ))
        for role in QUESTIONED
    }  # fmt: skip


def _method(config: StudyConfig) -> dict[str, PathSettings]:
    """The method that found the circuits, and the cheapest one (EAP), which takes a single gradient."""
    return {config.attribution.label: config.path, "EAP": {"method": "EAP"}}
