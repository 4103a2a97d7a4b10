"""The main job: Task → Examples → Readouts → Scores → Circuit → Comparison → Study, for every model of a pair.

Per task:

1. draw the pool: held-out prompts that ARM and MDM both read correctly, the same for every model;
2. score every edge of every model on it (EAP-IG), keeping per-example parts for intervals;
3. cut circuits, compare the ARM's with the MDM's and with the control's;
4. run every circuit in every model on prompts kept apart, and hold scores against exact patching (`evidence`);
5. read the components' lenses and an early layer's neurons.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mechshift_tl.attribution import EdgeScores, attribute
from mechshift_tl.bridge.weights import named_weights
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.compare.comparison import compare
from mechshift_tl.compare.depth import default_cut
from mechshift_tl.compare.result import CircuitComparison
from mechshift_tl.graph import Graph
from mechshift_tl.readouts.pool import Pool, common_correct
from mechshift_tl.runs.provenance import digest, versions
from mechshift_tl.runs.stages import Stages
from mechshift_tl.study.config import StudyConfig
from mechshift_tl.study.evidence import gather_evidence
from mechshift_tl.study.results import ROLE_NAMES, Study, TaskStudy
from mechshift_tl.tasks.examples import Examples
from mechshift_tl.tasks.task import Task
from mechshift_tl.views.lens import component_lens
from mechshift_tl.views.lens_table import ComponentLens
from mechshift_tl.views.neurons import NeuronActivations, neuron_activations


def run_study(
    pair: Any,
    tasks: Sequence[Task],
    config: StudyConfig | None = None,
    *,
    folder: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Study:
    """Study `pair` (see `hooked_diffusion.load_pair`) on `tasks`; `progress` is told each stage as it starts.

    `folder` keeps what is finished, so that a killed study that is started again goes on from its last finished batch, to the same bytes;
    its `journal` may go once the study is saved. Raises ValueError before any long work when tasks repeat, when a setting lies outside the
    pair's graph, and when `folder` is that of another study.
    """
    config = config or StudyConfig()
    models = pair.models
    names = [task.name for task in tasks]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"run_study: tasks are {names}; name at least one, each once")
    graph = Graph.of(pair.arm, config.kv)
    most = {"edges": graph.n_edges, "components": len(graph.components), "cut": graph.n_layers, "neuron_layer": graph.n_layers - 1}
    for name, limit in most.items():
        value = getattr(config, name)
        if value is not None and value > limit:
            raise ValueError(f"StudyConfig.{name} is {value}, but the graph of {pair.name!r} allows at most {limit}")
    # A task that cannot make n says so before the first one runs.
    drawn = {task.name: task.examples(pair.tokenizer, config.n + config.held_out, config.seed) for task in tasks}
    sources = {role: model.source for role, model in models.items()}
    specs = {role: model.spec.to_dict() for role, model in models.items()}
    stages = Stages(folder)
    weights = {role: sources[role].get("sha256") or digest(named_weights(model)) for role, model in models.items()} if folder else {}
    job = {**config.to_dict(), "models": sources, "weights": weights, "specs": specs, "prompts": _digests(drawn), "versions": versions()}
    stages.claim(job)
    found = {task.name: _study_task(task, models, pair.tokenizer, config, stages.of(task.name), progress) for task in tasks}
    return Study(pair.name, config, found, {"models": sources, "specs": specs, "edges": graph.n_edges})


def _digests(drawn: dict[str, Examples]) -> dict[str, str]:
    """SHA-256 of each task's prompts."""
    return {name: hashlib.sha256(repr(examples.rows).encode()).hexdigest() for name, examples in drawn.items()}


def _study_task(
    task: Task, models: dict[str, Any], tokenizer: Any, config: StudyConfig, stages: Stages, progress: Callable[[str], None]
) -> TaskStudy:
    progress(f"{task.name}: prompts that ARM and MDM read correctly")
    everything = common_correct(models, task, config.n + config.held_out, seed=config.seed, tokenizer=tokenizer, stages=stages)
    pool, kept_apart = everything.select(range(config.n)), everything.select(range(config.n, len(everything)))
    scores = {}
    for role, model in models.items():
        progress(f"{task.name}: edge scores of the {ROLE_NAMES[role]}")
        name = f"{role}.scores.safetensors"
        scoring = partial(attribute, ig_steps=config.ig_steps, rule=config.rule, kv=config.kv, keep_per_example=True)
        scores[role] = stages.result(name, EdgeScores.load, partial(scoring, model, pool.readouts[role], journal=stages.journal(name)))
    progress(f"{task.name}: circuits and comparisons")
    against = partial(
        compare, scores["arm"], n=config.edges, k=config.components, cut=config.cut, n_random=config.n_random, n_boot=config.n_boot,
        seed=config.seed,
    )  # fmt: skip
    comparisons = {
        role: stages.result(f"arm-{role}.comparison.json", CircuitComparison.load, partial(against, scores[role]))
        for role in models
        if role != "arm"
    }
    circuits = {role: Circuit.from_scores(one, config.edges) for role, one in scores.items()}
    evidence = None
    if config.held_out:
        progress(f"{task.name}: circuits run in every model, edges patched exactly")
        evidence = gather_evidence(models, scores, circuits, kept_apart.readouts, config, stages)
    progress(f"{task.name}: lenses and neurons")
    layer = config.neuron_layer
    if layer is None:
        layer = (config.cut or default_cut(scores["arm"].graph.n_layers)) - 1
    return TaskStudy(
        task=task.name,
        pool=pool,
        scores=scores,
        circuits=circuits,
        comparisons=comparisons,
        evidence=evidence,
        lenses={
            role: stages.result(
                f"{role}.lens.safetensors", ComponentLens.load, partial(component_lens, model, pool.readouts[role], tokenizer=tokenizer)
            )
            for role, model in models.items()
        },
        neurons=_neurons(models, pool, layer, stages),
    )


def _neurons(models: dict[str, Any], pool: Pool, layer: int, stages: Stages) -> dict[str, NeuronActivations]:
    """Each model's neurons of `layer` by prompt group; none where fewer than two groups have two prompts to compare."""
    shared = [group for group, size in Counter(example.group for example in pool.examples).items() if size > 1]
    if len(shared) < 2:
        return {}
    return {
        role: stages.result(
            f"{role}.neurons.safetensors", NeuronActivations.load, partial(neuron_activations, model, pool.readouts[role], layer)
        )
        for role, model in models.items()
    }
