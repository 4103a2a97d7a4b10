"""What an overlap has to be read beside: are the circuits faithful, in their own model and in the other, and is the method valid on both?

1. Every model's circuit runs in every model, on prompts that it was not found on, beside random circuits of its layer profile.
2. Of ARM and MDM: faithfulness over circuit size, with CPR and CMD;
3. and, on a few prompts, edges patched exactly, held against the scores that found the circuits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.evaluation.curve import FaithfulnessCurve, faithfulness_curve
from mechshift_tl.evaluation.transfer import N_RANDOM, Transfers, circuits_in_model
from mechshift_tl.evaluation.validity import Validity, validity, validity_note
from mechshift_tl.readouts import Readouts
from mechshift_tl.runs.stages import Stages
from mechshift_tl.study.config import StudyConfig

#: Shares of the possible edges at which faithfulness is measured, and random circuits beside each circuit.
SIZES = (0.01, 0.05, 0.15, 0.4, 1.0)
#: The models whose overlap is the question: only these are measured at every size and patched exactly.
QUESTIONED = ("arm", "mdm")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What stands beside a task's overlaps.

    - `faithfulness`: one row per circuit and model it ran in (by role): value with low, high over prompts, `random` (mean of random
      circuits with its layer profile), kept, accuracy under the circuit and `clean_accuracy` without; NaN and a `note` where it has no
      meaning.
    - `curves`, `validity`: by role; empty where they were not asked for or have no meaning.
    """

    faithfulness: pd.DataFrame = field(repr=False)
    curves: dict[str, FaithfulnessCurve] = field(repr=False)
    validity: dict[str, Validity] = field(repr=False)

    def validity_note(self, role: str, method: str | None = None) -> str | None:
        """What an overlap of the ARM's circuit with `role`'s must say about the method; None where it is no less valid there."""
        if not {"arm", role} <= self.validity.keys():
            return None
        return validity_note(self.validity["arm"], self.validity[role], method)

    def grid(self) -> pd.DataFrame:
        """Faithfulness as text: a row per circuit, a column per model it ran in, cells "value [95 % over prompts], random value"."""

        def cell(row: dict[Any, Any]) -> str:
            if row["note"]:
                return "no meaning here"
            return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]\nrandom {row['random']:.2f}"

        cells = {(row["circuit"], f"in {row['model']}"): cell(row) for row in self.faithfulness.to_dict("records")}
        return pd.Series(cells).unstack(sort=False).rename_axis("circuit of").reset_index()

    def save(self, folder: Path) -> None:
        """Write `faithfulness.csv` and one file per curve and validity under `folder`."""
        self.faithfulness.to_csv(folder / "faithfulness.csv", index=False)
        for role, curve in self.curves.items():
            curve.save(folder / f"{role}.curve.safetensors")
        for role, one in self.validity.items():
            one.save(folder / f"{role}.validity.safetensors")

    @classmethod
    def load(cls, folder: Path, roles: Iterable[str]) -> Evidence | None:
        """Read what `save` wrote of `roles`, in their order; None where nothing was saved."""
        table = folder / "faithfulness.csv"
        if not table.is_file():
            return None
        faithfulness = pd.read_csv(table, dtype=str, keep_default_na=False)
        for name, kind in _NUMBERS.items():  # by Python, whose floats come back as they were
            faithfulness[name] = [kind(text or "nan") for text in faithfulness[name]]
        files = {kind: {role: folder / f"{role}.{kind}.safetensors" for role in roles} for kind in ("curve", "validity")}
        there = {kind: {role: path for role, path in paths.items() if path.is_file()} for kind, paths in files.items()}
        curves = {role: FaithfulnessCurve.load(path) for role, path in there["curve"].items()}
        return cls(faithfulness, curves, {role: Validity.load(path) for role, path in there["validity"].items()})


_NUMBERS = dict.fromkeys(("value", "low", "high", "random", "accuracy", "clean_accuracy"), float) | {"kept": int, "n": int}


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
    table = pd.concat([one.to_dataframe() for one in found], ignore_index=True)
    meant = set(table.loc[table["note"] == "", "model"])
    curves = {
        role: stages.result(
            f"{role}.curve.safetensors", FaithfulnessCurve.load,
            partial(faithfulness_curve, model, held_out[role], scores[role], sizes=SIZES, n_random=N_RANDOM, seed=config.seed),
        )
        for role, model in models.items()
        if role in meant and role in QUESTIONED
    }  # fmt: skip
    few = range(min(config.validity_n, next(iter(held_out.values())).n_examples))
    measured = {}
    if config.validity_n:
        for role in QUESTIONED:
            measure = partial(
                validity, models[role], held_out[role].select(few), methods=_method(config), n_top=config.validity_edges,
                n_random=config.validity_edges, rank_by=METHOD, ig_steps=config.ig_steps, seed=config.seed, kv=config.kv,
            )  # fmt: skip
            measured[role] = stages.result(f"{role}.validity.safetensors", Validity.load, measure)
    return Evidence(table, curves, measured)


METHOD = "EAP-IG"


def _method(config: StudyConfig) -> dict[str, dict[str, Any]]:
    """What found the circuits, and what it would have cost less: one gradient."""
    return {METHOD: {"method": "EAP-IG-inputs", "rule": config.rule}, "EAP": {"method": "EAP"}}
