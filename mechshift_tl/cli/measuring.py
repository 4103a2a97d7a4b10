"""The work of `mechshift evaluate`: prompts, means, the evaluation and the curve, each a stage that a stopped run need not repeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

import pandas as pd

from mechshift_tl.attribution import EdgeScores
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits import Circuit
from mechshift_tl.cli.console import console, print_frame, print_notes
from mechshift_tl.cli.prompts import draw, means_over, print_prompts
from mechshift_tl.cli.results import claim
from mechshift_tl.evaluation import evaluate_circuit, faithfulness_curve, run_circuit
from mechshift_tl.evaluation.curve import FaithfulnessCurve
from mechshift_tl.evaluation.evaluate import CircuitEvaluation, Parts
from mechshift_tl.evaluation.faithfulness import Faithfulness, NoGap
from mechshift_tl.evaluation.run import CircuitRun, RunSettings
from mechshift_tl.readouts import Readouts, readouts
from mechshift_tl.report.page import write_page
from mechshift_tl.runs.provenance import check_same_origin
from mechshift_tl.runs.stages import Stages
from mechshift_tl.tasks import Task
from mechshift_tl.tasks.examples import Examples

CURVE_COLUMNS = ["rank", "requested", "kept", "faithfulness", "low", "high", "random", "accuracy"]
#: The most random circuits beside each of the curve's: there are twenty of these.
CURVE_RANDOM = 5
#: What is said with every table where nothing tells the prompts that the circuit was found on.
UNTOLD = "on which prompts the circuit was found: where some of these are among them, they flatter it"


class Asked(TypedDict):
    """What `evaluate_circuit` is asked beside circuit, scores and prompts."""

    parts: Parts
    n_random: int
    n_resamples: int


@dataclass(frozen=True)
class Work:
    """The measurements that were asked for, and their prompts.

    - `others`: the task under other corruptions; `n`: prompts, None for all of a file; `means_n`: further ones for means, 0 for none.
    - `settings`: of `run_circuit`, means excepted; `asked`: of `evaluate_circuit`; `curve`: whether to measure it, too.
    - `note`: the sentence to print with every table.
    """

    circuit: Circuit
    scores: EdgeScores | None
    task: Task
    others: Mapping[str, Task]
    n: int | None
    means_n: int
    settings: RunSettings
    asked: Asked
    curve: bool
    seed: int
    note: str = ""

    def run(self, model: HookedModel, stages: Stages) -> Found:
        """Measure it in `model`."""
        examples, apart = draw(self.task, model.tokenizer, self.n, self.means_n, self.seed)
        print_prompts(examples, self.task)
        check_same_origin({"--task": {"readouts": {"task": examples.task}}, "--circuit": self.circuit.provenance}, same=("task",))
        claim(stages, {"model": model}, examples)
        means = means_over(model, apart, self.settings.get("intervention", "counterfactual"), self.seed, stages)
        settings: RunSettings = {**self.settings, "means": means}
        made = stages.draft("readouts.safetensors", Readouts.load, lambda: readouts(model, examples, seed=self.seed))
        others = self._elsewhere(model, len(examples), settings, stages)
        evaluating = partial(evaluate_circuit, model, made, self.circuit, scores=self.scores, others=others, seed=self.seed, **self.asked)
        evaluation = stages.result("evaluation.safetensors", CircuitEvaluation.load, partial(evaluating, **settings))
        curve = None
        if self.curve and self.scores is not None:
            n_random = min(CURVE_RANDOM, self.asked["n_random"])
            drawing = partial(faithfulness_curve, model, made, self.scores, n_random=n_random, seed=self.seed, **settings)
            curve = stages.result("curve.safetensors", FaithfulnessCurve.load, drawing)
        return Found(evaluation, curve, examples, self.note)

    def _elsewhere(self, model: HookedModel, n: int, settings: RunSettings, stages: Stages) -> dict[str, Readouts]:
        """Readouts under the other corruptions. Where faithfulness has no meaning they are left out, and a note says so."""
        made = {
            f"corruption {name}": readouts(model, task.examples(model.tokenizer, n, self.seed), seed=self.seed)
            for name, task in self.others.items()
        }
        # Checked beforehand: inside the evaluation, one such corruption would end all of it.
        run = partial(run_circuit, model, circuit=self.circuit, **settings)
        reasons = stages.value("others.json", lambda: {name: _meaningless(run(readouts=rows)) for name, rows in made.items()})
        print_notes(f"{name} is left out: {reason}" for name, reason in reasons.items() if reason)
        return {name: rows for name, rows in made.items() if not reasons[name]}


@dataclass(frozen=True)
class Found:
    """The measurements, their prompts, and the note to print with every table."""

    evaluation: CircuitEvaluation
    curve: FaithfulnessCurve | None
    examples: Examples
    note: str

    def save(self, folder: Path) -> None:
        """Write tables and figures beside the artefacts."""
        title = f"A circuit of {self.evaluation.kept} edges on {len(self.examples)} prompts of {self.examples.task}{self._noted}"
        self._noting(self.evaluation.to_dataframe()).to_csv(folder / "evaluation.csv", index=False)
        self._noting(self.evaluation.parts).to_csv(folder / "parts.csv", index=False)
        write_page(self.evaluation.figure(), folder / "evaluation.html", title)
        self.examples.write_csv(folder / "prompts.csv")
        if self.curve is not None:
            self._noting(self.curve.to_dataframe()).to_csv(folder / "curve.csv", index=False)
            write_page(self.curve.figure(), folder / "curve.html", title.replace("A circuit of", "Faithfulness over size, beside"))

    @property
    def _noted(self) -> str:
        return f" (it is not known {self.note})" if self.note else ""

    def _noting(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table, with the note in a column of its own where there is one."""
        return table.assign(note=f"it is not known {self.note}") if self.note else table

    def sentence(self) -> str:
        """What the circuit recovers alone, beside random ones, in a line."""
        one = next(check for check in self.evaluation.checks if check.check == "sufficiency")
        return f"Sufficiency {one.value:.3f} [{one.low:.3f}, {one.high:.3f}], random circuits {one.floor:.3f}, n = {len(self.examples)}"

    def print(self) -> None:
        """Print the table, and the curve's areas."""
        one = self.evaluation
        print_frame(
            f"Circuit of {one.kept} of {one.n_edges} edges, {one.metric}, {one.intervention}: 95 % over prompts, floor of random circuits"
            + self._noted,
            one.to_dataframe(),
            "checks",
        )
        if self.curve is None:
            return
        areas = {"CPR": self.curve.cpr, "CMD": self.curve.cmd}
        said = [f"{name} {a.value:.3f} [{a.low:.3f}, {a.high:.3f}], random {a.random:.3f}" for name, a in areas.items()]
        print_frame(f"Faithfulness over circuit size{self._noted}", pd.DataFrame(self.curve.table, columns=CURVE_COLUMNS), "curve")
        console.print("; ".join(said))


def _meaningless(run: CircuitRun) -> str:
    """Why a run's faithfulness has no meaning; empty where it has one."""
    try:
        Faithfulness.of(run)
    except NoGap as error:
        return str(error)
    return ""
