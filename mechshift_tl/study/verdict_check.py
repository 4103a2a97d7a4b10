"""The verdict on known truths: does it say what is so, and does it ever say with confidence what is not?

Every truth makes two models whose relation is known (`study.truths`). Both are studied as a pair would be, on prompts that the given model
reads correctly, with the first model as ARM and control. An answer is *right* where it is one that the truth allows. It is *wrong* where
it is another one; "cannot tell" is never wrong, and right only where there is nothing to tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from hooked_diffusion.model import HookedDiffusionTransformer
from mechshift_tl.attribution import attribute
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.evaluation.run_once import CircuitRuns
from mechshift_tl.evaluation.size import SizeSearch
from mechshift_tl.plotting import COLOURS, RULE, plain, style
from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts.pool import common_correct
from mechshift_tl.study import truths
from mechshift_tl.study.answers import CANNOT_TELL
from mechshift_tl.study.gathering import ToJudge, gather_verdict_evidence
from mechshift_tl.study.trained_anew import trained_anew
from mechshift_tl.study.verdict_evidence import VerdictSettings
from mechshift_tl.study.verdicts import judge
from mechshift_tl.tasks.task import Task
from mechshift_tl.views.lens import component_lens
from mechshift_tl.views.lens_table import ComponentLens

Models = tuple[HookedDiffusionTransformer, HookedDiffusionTransformer]
Make = Callable[[HookedDiffusionTransformer, Task, int], Models]


@dataclass(frozen=True)
class Truth:
    """A relation of two models: how they are made of one model, a task and a seed, and what a verdict may say of their circuits.

    `same_function`: both compute the same, so neither may be called front-loaded or distributed.
    """

    name: str
    make: Make
    circuit: frozenset[str]
    same_function: bool = True


def _changed(change: Callable[..., HookedDiffusionTransformer], *values: float) -> Make:
    return lambda model, task, seed: (model, change(model, *values, seed=seed))


TRUTHS = (
    Truth("identical", lambda model, task, seed: (model, truths.copied(model)), frozenset({"kept"})),
    Truth("weight noise 0.5 %", _changed(truths.noisy, 0.005), frozenset({"kept"})),
    Truth("weight noise 1 %", _changed(truths.noisy, 0.01), frozenset({"kept"})),
    Truth("weight noise 2 %", _changed(truths.noisy, 0.02), frozenset({"kept"})),
    Truth("heads permuted", _changed(truths.heads_permuted), frozenset({"moved"})),
    Truth("neurons permuted", _changed(truths.neurons_permuted), frozenset({"moved"})),
    Truth("entries shuffled", _changed(truths.shuffled), frozenset({CANNOT_TELL}), same_function=False),
    Truth("re-initialised", _changed(truths.reinitialised), frozenset({CANNOT_TELL}), same_function=False),
    Truth(
        "silent layer in front, behind",
        lambda model, task, seed: (truths.silent_layer(model, "front", seed), truths.silent_layer(model, "behind", seed)),
        frozenset({"moved", "kept"}),
    ),
)
#: Not among `TRUTHS`, since it trains a model: a minute on IOI for the bundled pair's size.
TRAINED_ANEW = Truth(
    "trained from another seed",
    lambda model, task, seed: (model, trained_anew(model, task, seed + 1000)),
    frozenset({"replaced"}),
    same_function=False,
)


#: Fewer sizes, permutations and draws than a study takes: enough for one task and models that are alike or plainly not.
QUICK = VerdictSettings(
    SizeSearch(smallest=0.02, largest=0.2, halvings=2, n_null=4), n_boot=500, n_permutations=500, overlap_draws=20
)  # fmt: skip


@dataclass(frozen=True)
class TruthChecked:
    """What the verdict said of one truth: `circuit`, `front_loaded`, `distributed`; whether it was `right`, or `wrong` with confidence.

    `p`: of the circuit's answer, corrected. `figures`: what it rests on. `seconds`: wall time.
    """

    truth: str
    task: str
    seed: int
    circuit: str
    front_loaded: str
    distributed: str
    right: bool
    wrong: bool
    p: float
    why: str
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Of the verdict itself: right, wrong (with confidence), or unsure."""
        return "right" if self.right else "wrong" if self.wrong else "unsure"


@dataclass(frozen=True)
class VerdictCheck(JsonArtefact):
    """Verdicts on known truths, one row per truth and seed."""

    KIND: ClassVar[str] = "verdict check"

    rows: tuple[TruthChecked, ...]

    @property
    def share_right(self) -> float:
        """Share of the rows, in [0, 1], whose answer is right; NaN without rows."""
        return sum(row.right for row in self.rows) / len(self.rows) if self.rows else float("nan")

    @property
    def passed(self) -> bool:
        """Whether at least 95 % are right and none is wrong with confidence."""
        return self.share_right >= 0.95 and not any(row.wrong for row in self.rows)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per truth and seed: the fields of `TruthChecked`, its `verdict`, and τ by id and matched and J in place of `figures`."""
        names = ("tau_by_id", "tau_best", "jaccard", "share_of_edges")
        rows = [vars(row) | {"verdict": row.verdict} | {name: row.figures.get(name, float("nan")) for name in names} for row in self.rows]
        return pd.DataFrame(rows).drop(columns="figures")

    def figure(self) -> go.Figure:
        """Verdicts that are right, unsure and wrong, by truth."""
        truths = list(dict.fromkeys(row.truth for row in self.rows))
        figure = go.Figure()
        for verdict, colour in {"right": COLOURS["arm"], "unsure": RULE, "wrong": COLOURS["mdm"]}.items():
            counts = [sum(row.truth == truth and row.verdict == verdict for row in self.rows) for truth in truths]
            figure.add_bar(x=counts, y=[plain(truth) for truth in truths], orientation="h", name=verdict, marker_color=colour)
        figure.update_xaxes(title_text="seeds and tasks")
        figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
        return style(figure, 120 + 26 * max(2, len(truths)), barmode="stack")

    def _repr_html_(self) -> str:
        return card("VerdictCheck", f"{self.share_right:.0%} right, {sum(row.wrong for row in self.rows)} wrong", self.to_dataframe())


def check_verdict(
    model: HookedDiffusionTransformer,
    task: Task,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    n: int = 60,
    held_out: int = 40,
    chosen: Sequence[Truth] = TRUTHS,
    settings: VerdictSettings | None = None,
    progress: Callable[[TruthChecked], None] = lambda _: None,
) -> VerdictCheck:
    """The verdict on each of the `chosen` truths, made of `model` with each of `seeds`, on fresh prompts of `task` for each seed.

    `n`, `held_out`: prompts that circuits are found on, and others that they run on. Raises ValueError where `common_correct` does.
    """
    rows = []
    for seed in seeds:
        pool = common_correct({"arm": model}, task, n + held_out, seed=seed, required=("arm",)).readouts["arm"]
        place = _Place(task, seed, pool.select(range(n)), pool.select(range(n, n + held_out)), settings or VerdictSettings())
        given = place.study(model)
        for truth in chosen:
            rows.append(place.check(truth, given))
            progress(rows[-1])
    return VerdictCheck(tuple(rows))


@dataclass(frozen=True)
class _Studied:
    """A model with what a verdict needs of it, and its circuits' runs as those of the ARM."""

    model: HookedDiffusionTransformer
    scores: EdgeScores
    lens: ComponentLens
    runs: CircuitRuns


@dataclass(frozen=True)
class _Place:
    """The prompts of one task and seed."""

    task: Task
    seed: int
    found_on: Readouts
    held_out: Readouts
    settings: VerdictSettings

    def study(self, model: HookedDiffusionTransformer) -> _Studied:
        scores = attribute(model, self.found_on, keep_per_example=True)
        return _Studied(model, scores, component_lens(model, self.found_on), CircuitRuns({"arm": model}, {"arm": self.held_out}))

    def check(self, truth: Truth, given: _Studied) -> TruthChecked:
        start = time.perf_counter()
        a, b = truth.make(given.model, self.task, self.seed)
        first = given if a is given.model else self.study(a)
        evidence = gather_verdict_evidence(self._to_judge(first, self.study(b)), self.settings)
        circuit, front, spread = judge(evidence).answers
        false_claim = truth.same_function and "yes" in (front.answer, spread.answer)
        allowed = circuit.answer in truth.circuit
        figures = {f"{one.question}_{name}": value for one in (front, spread) for name, value in one.figures.items()}
        return TruthChecked(
            truth.name, self.task.name, self.seed, circuit.answer, front.answer, spread.answer,
            right=allowed and not false_claim,
            wrong=false_claim or not (allowed or circuit.answer == CANNOT_TELL),
            p=circuit.corrected, why=circuit.why, seconds=time.perf_counter() - start, figures=circuit.figures | figures,
        )  # fmt: skip

    def _to_judge(self, a: _Studied, b: _Studied) -> ToJudge:
        """Two models that read the same rows, "arm" and "mdm"; the ARM is its own control."""
        models = {"arm": a.model, "mdm": b.model}
        scores = {"arm": a.scores, "mdm": b.scores, "control": a.scores}
        lenses = {"arm": a.lens, "mdm": b.lens, "control": a.lens}
        runs = a.runs.beside("mdm", b.model, self.held_out)
        found_on, held_out = (dict.fromkeys(models, rows) for rows in (self.found_on, self.held_out))
        return ToJudge(self.task.name, models, found_on, scores, held_out, lenses, self.task.correct, runs)
