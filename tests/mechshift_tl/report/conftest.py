"""A study of tiny random models on a toy task whose every text is hostile markup."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.attribution import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.compare import compare
from mechshift_tl.readouts import readouts
from mechshift_tl.readouts.pool import Pool
from mechshift_tl.study import Study, StudyConfig, TaskStudy
from mechshift_tl.tasks.examples import Example, Examples, TextPair
from mechshift_tl.tasks.task import Split, Task
from mechshift_tl.views import component_lens, neuron_activations

HOSTILE = "<script>alert('{}')</script>"
EDGES = 40
MASKED = DiffusionSpec("full", mask_token_id=2)


class Echo(Task):
    """`w4 w9` → ` w4 w9`: two answer tokens, so two steps; groups are hostile markup."""

    name = HOSTILE.format("task")

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        while True:
            a, b, c, d = rng.sample(range(4, 48), 4)
            group = HOSTILE.format("odd" if a % 2 else "even")
            yield TextPair(f"w{a} w{b}", f" w{a} w{b}", f"w{c} w{d}", f" w{c} w{d}", f" w{c} w{d}", group)

    def solved(self, example: Example, decoded: str) -> bool:
        return decoded == example.pair.answer


@pytest.fixture(scope="session")
def models(native: Callable[..., Any]) -> dict[str, HookedDiffusionTransformer]:
    specs = {"arm": DiffusionSpec(), "mdm": MASKED, "control": DiffusionSpec()}
    return {
        role: HookedDiffusionTransformer.from_hf(native(seed=seed), spec=spec, name=f"{role}{HOSTILE.format('model')}")
        for seed, (role, spec) in enumerate(specs.items())
    }


@pytest.fixture(scope="session")
def task_study(models: dict[str, HookedDiffusionTransformer], word_tokenizer: Any) -> TaskStudy:
    examples = Echo().examples(word_tokenizer, 12)
    rows = tuple(replace(e, pair=replace(e.pair, prompt=HOSTILE.format("prompt"))) for e in examples)
    examples = Examples(examples.task, rows, word_tokenizer, {HOSTILE.format("reason"): 3})
    made = {role: readouts(model, examples) for role, model in models.items()}
    scores = {role: attribute(model, made[role], ig_steps=2, keep_per_example=True) for role, model in models.items()}
    return TaskStudy(
        task=Echo.name,
        pool=Pool(Echo.name, examples, made, 20, dict.fromkeys(models, 0.625), dict.fromkeys(models, 0.25)),
        scores=scores,
        circuits={role: Circuit.from_scores(one, EDGES) for role, one in scores.items()},
        comparisons={role: compare(scores["arm"], scores[role], n=EDGES, n_boot=8, n_random=8) for role in ("mdm", "control")},
        lenses={role: component_lens(model, made[role], tokenizer=word_tokenizer) for role, model in models.items()},
        neurons={role: neuron_activations(model, made[role], 0, shuffles=20) for role, model in models.items()},
    )


@pytest.fixture(scope="session")
def study(models: dict[str, HookedDiffusionTransformer], task_study: TaskStudy) -> Study:
    provenance = {
        "models": {role: model.source for role, model in models.items()},
        "specs": {role: model.spec.to_dict() for role, model in models.items()},
        "edges": task_study.scores["arm"].graph.n_edges,
    }
    return Study(HOSTILE.format("pair"), StudyConfig(n=12), {Echo.name: task_study}, provenance)


@pytest.fixture(scope="session")
def without_control(study: Study, task_study: TaskStudy) -> Study:
    """The study as it is for a pair without a control, and with no draws behind intervals."""
    keyed = ("scores", "circuits", "lenses", "neurons")
    left = {name: {role: one for role, one in getattr(task_study, name).items() if role != "control"} for name in keyed}
    pool = replace(task_study.pool, readouts={role: one for role, one in task_study.pool.readouts.items() if role != "control"})
    scores = task_study.scores
    comparisons = {"mdm": compare(scores["arm"], scores["mdm"], n=EDGES, n_boot=0, n_random=8)}
    provenance = study.provenance | {"models": {role: source for role, source in study.provenance["models"].items() if role != "control"}}
    return replace(
        study, tasks={"echo": replace(task_study, task="echo", pool=pool, comparisons=comparisons, **left)}, provenance=provenance
    )
