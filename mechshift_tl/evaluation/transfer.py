"""Transfer: every circuit runs in one model, on prompts that no circuit was found on, beside random circuits of the same layer profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.random import random_circuits
from mechshift_tl.evaluation.faithfulness import Faithfulness, recovered
from mechshift_tl.evaluation.run import run_circuits
from mechshift_tl.intervals import interval
from mechshift_tl.readouts import Readouts

N_RANDOM = 2


def circuits_in_model(
    role: str, model: HookedModel, circuits: Mapping[str, Circuit], readouts: Readouts, seed: int
) -> list[dict[str, Any]]:
    """Every circuit in one model: a row each."""
    chance = {name: list(random_circuits(circuit, N_RANDOM, seed)) for name, circuit in circuits.items()}
    runs = iter(run_circuits(model, readouts, [*circuits.values(), *(one for draws in chance.values() for one in draws)]))
    own = {name: next(runs) for name in circuits}
    rows = []
    for name, run in own.items():
        random = interval(recovered(next(runs))[0].item() for _ in chance[name]).mean
        row: dict[str, Any] = {"circuit": name, "model": role, "value": float("nan"), "low": float("nan"), "high": float("nan")}
        row |= {"random": float("nan"), "kept": run.kept, "accuracy": float("nan"), "clean_accuracy": float("nan")}
        row |= {"n": readouts.n_examples, "note": ""}
        try:
            found = Faithfulness.of(run, seed=seed)
        except ValueError as error:
            rows.append(row | {"note": str(error)})
            continue
        ends = {"value": found.value, "low": found.low, "high": found.high, "random": random}
        rows.append(row | ends | {"accuracy": found.accuracy, "clean_accuracy": found.clean_accuracy, "n": found.n_examples})
    return rows
