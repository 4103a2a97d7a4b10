"""What moves a study's conclusion: its headline (J, early shift, and τ where it can be measured) with one choice changed at a time.

| factor | set to | costs |
|---|---|---|
| prompts | the next prompts of the pool | nothing |
| edges | half as many, twice as many | nothing |
| selection | by signed score, greedily | nothing |
| IG points | 1 | an attribution of every model |
| seed | prompts of the next seed, not screened | an attribution of every model |
| tail | no tokens behind the row, so fewer masks | the same, of the models that have a tail |
| commit order | left to right | the same, of the MDM |
| revealed | the clean run's tokens in both runs | the same, of the MDM; ARM and control too |
| corruption, foil | each other choice of the task | the same, of every model |

Every attribution is of `N_PROMPTS` prompts, so a change is read beside the interval of a baseline on as few. A task with one answer token
has neither an order nor revealed tokens; what cannot vary is skipped, and said.

J is of circuits of the study's size. τ is of circuits of the size at which both own circuits are faithful: smaller ones explain too little
for what they carry to mean something. They run on `N_TRANSFER` prompts kept apart, the same ones in every line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from math import nan
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.attribution.bootstrap import bootstrap
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.bridge.alignment import spec_of
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.select import Selection, default_n
from mechshift_tl.compare.headline import headline
from mechshift_tl.evaluation.carried import BY_ID, carry
from mechshift_tl.evaluation.faithfulness import NoGap
from mechshift_tl.evaluation.run_once import CircuitRuns
from mechshift_tl.intervals import interval
from mechshift_tl.readouts import readouts
from mechshift_tl.study.measurement import Measurement
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.study.robustness_result import Baseline, Change, Robustness
from mechshift_tl.tasks import countdown, infilling, ioi
from mechshift_tl.tasks.examples import Examples
from mechshift_tl.tasks.task import Task

N_PROMPTS = 16
#: Prompts kept apart that carried circuits run on, circuits on permuted heads beside each own one, and draws behind τ's interval.
N_TRANSFER, N_NULL, N_DRAWS = 16, 2, 400
#: τ of two circuits, by role (the ARM's and one other model's): on all prompts, then on draws of them.
Transfer = Callable[[Mapping[str, Circuit]], Float[Tensor, " draws"]]
Scores = Mapping[str, EdgeScores]
#: What a task may be asked for under each name: a task has one of the lists, or no such choice.
CHOICES = {"corruption": (get_args(ioi.Corruption), get_args(infilling.Corruption)), "foil": (get_args(countdown.Foil),)}


@dataclass(frozen=True)
class _Varied:
    """One change: the scores by role and the selection that it leads to, of `scale` times the study's size."""

    factor: str
    setting: str
    scores: Scores
    chosen: Selection
    scale: float = 1.0


def robustness(parts: TaskParts) -> Robustness:
    """The table of a task. τ is NaN where no prompts are kept apart, or where no size of a model's circuits is faithful.

    Cost: about five attributions of `N_PROMPTS` prompts per model, and 2 · (2 + N_NULL) runs of a circuit per line and model.
    """
    n = min(N_PROMPTS, len(parts.pool))
    base = {role: one.select(range(n)) for role, one in parts.scores.items()}
    chosen = Selection(parts.config.edges or default_n(base["arm"].graph))
    roles = [role for role in base if role != "arm"]
    skipped: dict[str, str] = {}
    lines = _Lines(parts, _transfer(parts))
    own = _Varied("as it is", "", base, chosen)
    changes = [
        lines.change(varied, role)
        for varied in (*_free(parts, base, chosen, n, skipped), *_scored(parts, base, chosen, n, skipped))
        for role in roles
    ]
    return Robustness(tuple(lines.baseline(own, role) for role in roles), tuple(changes), skipped, n)


def _transfer(parts: TaskParts) -> Transfer | None:
    """τ of circuits carried by id, on the first prompts kept apart. Runs are shared by all lines."""
    if parts.held_out is None or not parts.shares:
        return None
    rows = parts.held_out.readouts
    runs = CircuitRuns(parts.models, {role: one.select(range(min(N_TRANSFER, one.n_examples))) for role, one in rows.items()})

    def transfer(circuits: Mapping[str, Circuit]) -> Tensor:
        carried = carry(runs, circuits, {}, n_null=N_NULL, n_boot=N_DRAWS, seed=parts.config.seed)
        return torch.cat([carried.tau[None], carried.draws])[:, carried.matchings.index(BY_ID)].amin(1)

    return transfer


@dataclass(frozen=True)
class _Lines:
    """Makes the lines of the table."""

    parts: TaskParts
    transfer: Transfer | None

    def baseline(self, own: _Varied, role: str) -> Baseline:
        config, scores = self.parts.config, own.scores
        found = headline(scores["arm"], scores[role], own.chosen, config.cut)
        draws = bootstrap(
            lambda a, b: headline(a, b, own.chosen, config.cut),
            scores["arm"], scores[role], n_boot=max(1, config.n_boot // 2), seed=config.seed,
        )  # fmt: skip
        over = [interval(getattr(draw, name) for draw in draws) for name in ("jaccard", "early_shift")]
        tau, *tau_draws = self._tau(own, role)
        return Baseline(role, found.jaccard, over[0], found.early_shift, over[1], tau, interval(tau_draws))

    def change(self, varied: _Varied, role: str) -> Change:
        found = headline(varied.scores["arm"], varied.scores[role], varied.chosen, self.parts.config.cut)
        return Change(varied.factor, varied.setting, role, found.jaccard, found.early_shift, self._tau(varied, role)[0])

    def _tau(self, varied: _Varied, role: str) -> list[float]:
        """τ on all prompts and on draws of them; NaN where nothing carries circuits, or they no longer do the task."""
        share = self.parts.shares.get(role)
        if self.transfer is None or share is None:
            return [nan]
        of_size = replace(varied.chosen, n=None, fraction=min(1.0, share * varied.scale))
        try:
            return self.transfer({one: Circuit.select(varied.scores[one], of_size) for one in ("arm", role)}).tolist()
        # The line stays: J and the early shift have a meaning there.
        except NoGap:
            return [nan]


def _free(parts: TaskParts, base: Scores, chosen: Selection, n: int, skipped: dict[str, str]) -> Iterator[_Varied]:
    """What needs no further attribution."""
    others = range(n, min(2 * n, len(parts.pool)))
    if len(others) == n:
        yield _Varied("prompts", "the next ones", {role: one.select(others) for role, one in parts.scores.items()}, chosen)
    else:
        skipped["prompts"] = f"the pool has {len(parts.pool)}, fewer than {2 * n}"
    size, most = chosen.n or 1, base["arm"].graph.n_edges
    for scale in (0.5, 2.0):
        edges = max(1, min(int(scale * size), most))
        yield _Varied("edges", str(edges), base, replace(chosen, n=edges), scale)
    yield _Varied("selection", "signed", base, replace(chosen, by="signed"))
    yield _Varied("selection", "greedy", base, replace(chosen, greedy=True))


def _scored(parts: TaskParts, base: Scores, chosen: Selection, n: int, skipped: dict[str, str]) -> Iterator[_Varied]:
    """What needs scores of its own."""
    config, examples = parts.config, parts.pool.examples.select(range(n))
    specs = {role: spec_of(model) for role, model in parts.models.items()}

    def scored(factor: str, setting: str, on: Examples, roles: Mapping[str, Any], **changed: Any) -> _Varied:
        parts.progress(f"{factor} {setting}")
        settings = replace(config.attribution, **changed)
        new = {
            role: attribute_edges(parts.models[role], readouts(parts.models[role], on, seed=config.seed, **how), settings)
            for role, how in roles.items()
        }
        return _Varied(factor, setting, {**base, **new}, chosen)

    every: dict[str, dict[str, Any]] = {role: {} for role in parts.models}
    if not config.attribution.integrates:
        skipped["IG points"] = f"{config.attribution.label} integrates nothing"
    elif config.attribution.ig_steps != 1:
        yield scored("IG points", "1", examples, every, ig_steps=1, gap=None)
    yield scored("seed", str(config.seed + 1), parts.task.examples(parts.tokenizer, n, seed=config.seed + 1), every)
    tailed = {role: {"tail": ()} for role, spec in specs.items() if spec.tail}
    if tailed:
        yield scored("tail", "none", examples, tailed)
    else:
        skipped["tail"] = "no model's rows have one"
    if max(len(example.answer) for example in examples) > 1:
        yield scored("commit order", "left to right", examples, {"mdm": {"order": "left_to_right"}})
        yield scored("revealed", "clean", examples, {role: {"revealed": "clean"} for role in parts.models})
    else:
        skipped["commit order"] = skipped["revealed"] = "the answer is one token"
    for name in CHOICES:
        others = list(_others(parts.task, name))
        if not others:
            skipped[name] = "the task has one"
        for setting, task in others:
            yield scored(name, setting, task.examples(parts.tokenizer, n, seed=config.seed), every)


def _others(task: Task, name: str) -> Iterator[tuple[str, Task]]:
    """The task with each other choice of `name`; none where it has no such choice, or its prompts come from a file."""
    own = getattr(task, name, None)
    choices = next((one for one in CHOICES[name] if own in one), ())
    if getattr(task, "rows", None):
        return
    for setting in choices:
        if setting != own:
            other = copy(task)
            setattr(other, name, setting)
            yield setting, other


ROBUSTNESS = Measurement(
    name="robustness",
    title="What moves the conclusion",
    question="How far do overlap and early shift move under choices that are not the question?",
    file="robustness.json",
    load=Robustness.load,
    make=robustness,
    of_method=True,
)
