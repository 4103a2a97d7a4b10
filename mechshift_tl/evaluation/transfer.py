"""Transfer: every circuit runs in one model, on prompts that no circuit was found on, beside random circuits of the same layer profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import nan
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.random import random_circuits
from mechshift_tl.evaluation.faithfulness import Faithfulness, NoGap, recovered
from mechshift_tl.evaluation.run import CircuitRun, run_circuits
from mechshift_tl.intervals import interval
from mechshift_tl.plotting import COLOURS, QUIET, ROLE_NAMES, SYMBOLS, plain, style
from mechshift_tl.readouts import Readouts

#: Random circuits beside each circuit.
N_RANDOM = 2


@dataclass(frozen=True)
class Transfer:
    """One circuit in one model.

    - `circuit`, `model`: the roles of the model that the circuit was found in and of the model that it ran in ("arm", "mdm", "control").
    - `value`: faithfulness, 1 = as the model, 0 = as no circuit; `low`, `high`: its 95 % interval over prompts.
    - `random`: mean faithfulness of random circuits with the circuit's layer profile.
    - `kept`: edges of the circuit; `n`: prompts.
    - `accuracy`, `clean_accuracy`: shares in [0, 1] of the prompts whose answer ranks first, under the circuit and in the whole model.
    - `note`: why faithfulness has no meaning here; then every number but `kept` and `n` is NaN. Empty where it has one.
    """

    circuit: str
    model: str
    value: float
    low: float
    high: float
    random: float
    kept: int
    accuracy: float
    clean_accuracy: float
    n: int
    note: str = ""


@dataclass(frozen=True)
class Transfers(JsonArtefact):
    """Circuits in models: one row each."""

    KIND: ClassVar[str] = "transfers"

    rows: tuple[Transfer, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per circuit and model, a column per field of `Transfer`."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def figure(self) -> go.Figure:
        """Faithfulness of every circuit in every model, with its interval; ticks: random circuits, mean; 0 and 1 are marked."""
        figure, table = go.Figure(), self.to_dataframe()
        for role, rows in table.groupby("circuit", sort=False):
            models = [ROLE_NAMES.get(one, plain(one)) for one in rows["model"]]
            bars = {"array": (rows["high"] - rows["value"]).tolist(), "arrayminus": (rows["value"] - rows["low"]).tolist()}
            marker = {"color": COLOURS.get(str(role), QUIET), "symbol": SYMBOLS.get(str(role), "circle"), "size": 10}
            name = f"circuit of the {ROLE_NAMES.get(str(role), plain(str(role)))}"
            figure.add_scatter(
                x=models, y=rows["value"].tolist(), error_y={**bars, "symmetric": False}, mode="markers", marker=marker, name=name
            )
            tick = {"symbol": "line-ew-open", "size": 14, "color": marker["color"]}
            figure.add_scatter(x=models, y=rows["random"].tolist(), mode="markers", marker=tick, showlegend=False, hoverinfo="skip")
        for height in (0, 1):
            figure.add_hline(y=height, line={"color": QUIET, "width": 1, "dash": "dot"})
        figure.update_xaxes(title_text="runs in", type="category")
        figure.update_yaxes(title_text="faithfulness")
        return style(figure, 340, scattermode="group")

    def _repr_html_(self) -> str:
        return card("Transfers", f"{len(self.rows)} circuits in models", self.to_dataframe())


def circuits_in_model(role: str, model: HookedModel, circuits: Mapping[str, Circuit], readouts: Readouts, seed: int) -> Transfers:
    """Every one of `circuits` (by role) in `model`, whose own role is `role`, on `readouts`. `seed`: of random circuits and intervals.

    Raises ValueError where `run_circuits` does. Cost: 1 + N_RANDOM runs of each circuit.
    """
    chance = {name: list(random_circuits(circuit, N_RANDOM, seed)) for name, circuit in circuits.items()}
    # One call, so that all circuits share each batch's clean and base runs.
    runs = iter(run_circuits(model, readouts, [*circuits.values(), *(one for draws in chance.values() for one in draws)]))
    own = {name: next(runs) for name in circuits}
    beside = {name: [next(runs) for _ in draws] for name, draws in chance.items()}
    return Transfers(tuple(_transfer(name, role, run, beside[name], readouts.n_examples, seed) for name, run in own.items()))


def _transfer(circuit: str, role: str, run: CircuitRun, chance: list[CircuitRun], n_examples: int, seed: int) -> Transfer:
    try:
        found = Faithfulness.of(run, seed=seed)
    # A model that does not do the task is a finding, not an error.
    except NoGap as error:
        return Transfer(circuit, role, nan, nan, nan, nan, run.kept, nan, nan, n_examples, str(error))
    random = interval(recovered(one)[0].item() for one in chance).mean
    return Transfer(
        circuit, role, found.value, found.low, found.high, random, run.kept, found.accuracy, found.clean_accuracy, found.n_examples
    )
