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
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from math import nan
from typing import Any, get_args

from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.attribution.bootstrap import bootstrap
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.bridge.alignment import spec_of
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.select import Selection, default_n
from mechshift_tl.compare.headline import headline
from mechshift_tl.intervals import interval
from mechshift_tl.readouts import readouts
from mechshift_tl.study.measurement import Measurement
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.study.robustness_result import Baseline, Change, Robustness
from mechshift_tl.tasks import countdown, infilling, ioi
from mechshift_tl.tasks.examples import Examples
from mechshift_tl.tasks.task import Task

N_PROMPTS = 16
#: τ of two circuits, by role: the ARM's and one other model's.
Transfer = Callable[[Mapping[str, Circuit]], float]
Scores = Mapping[str, EdgeScores]
#: What a task may be asked for under each name: a task has one of the lists, or no such choice.
CHOICES = {"corruption": (get_args(ioi.Corruption), get_args(infilling.Corruption)), "foil": (get_args(countdown.Foil),)}


@dataclass(frozen=True)
class _Varied:
    """One change: the scores by role and the selection that it leads to."""

    factor: str
    setting: str
    scores: Scores
    chosen: Selection


def robustness(parts: TaskParts, transfer: Transfer | None = None) -> Robustness:
    """The table of a task; `transfer` measures τ. Cost: about five attributions of `N_PROMPTS` prompts per model, and τ per line."""
    n = min(N_PROMPTS, len(parts.pool))
    base = {role: one.select(range(n)) for role, one in parts.scores.items()}
    chosen = Selection(parts.config.edges or default_n(base["arm"].graph))
    roles = [role for role in base if role != "arm"]
    skipped: dict[str, str] = {}
    changes = [
        _change(parts, varied, role, transfer)
        for varied in (*_free(parts, base, chosen, n, skipped), *_scored(parts, base, chosen, n, skipped))
        for role in roles
    ]
    return Robustness(tuple(_baseline(parts, base, chosen, role, transfer) for role in roles), tuple(changes), skipped, n)


def _baseline(parts: TaskParts, base: Scores, chosen: Selection, role: str, transfer: Transfer | None) -> Baseline:
    config = parts.config
    own = headline(base["arm"], base[role], chosen, config.cut)
    draws = bootstrap(
        lambda a, b: headline(a, b, chosen, config.cut), base["arm"], base[role], n_boot=max(1, config.n_boot // 2), seed=config.seed
    )
    over = [interval(getattr(draw, name) for draw in draws) for name in ("jaccard", "early_shift")]
    return Baseline(role, own.jaccard, over[0], own.early_shift, over[1], _tau(base, chosen, role, transfer))


def _change(parts: TaskParts, varied: _Varied, role: str, transfer: Transfer | None) -> Change:
    found = headline(varied.scores["arm"], varied.scores[role], varied.chosen, parts.config.cut)
    tau = _tau(varied.scores, varied.chosen, role, transfer)
    return Change(varied.factor, varied.setting, role, found.jaccard, found.early_shift, tau)


def _tau(scores: Scores, chosen: Selection, role: str, transfer: Transfer | None) -> float:
    return nan if transfer is None else transfer({one: Circuit.select(scores[one], chosen) for one in ("arm", role)})


def _free(parts: TaskParts, base: Scores, chosen: Selection, n: int, skipped: dict[str, str]) -> Iterator[_Varied]:
    """What needs no further attribution."""
    others = range(n, min(2 * n, len(parts.pool)))
    if len(others) == n:
        yield _Varied("prompts", "the next ones", {role: one.select(others) for role, one in parts.scores.items()}, chosen)
    else:
        skipped["prompts"] = f"the pool has {len(parts.pool)}, fewer than {2 * n}"
    size, most = chosen.n or 1, base["arm"].graph.n_edges
    for edges in (max(1, size // 2), min(2 * size, most)):
        yield _Varied("edges", str(edges), base, replace(chosen, n=edges))
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
)
