"""The main job: Task → Examples → Readouts → Scores → Circuit → Comparison → Study, for every model of a pair.

Per task:

1. draw the pool: held-out prompts that every model reads correctly, the same for every model;
2. score every edge of every model on it (EAP-IG), keeping per-example parts for intervals;
3. cut circuits, compare the ARM's with the MDM's and with the control's;
4. run every circuit in every model on prompts kept apart, and hold scores against exact patching (`evidence`);
5. read the lens of every component, and the neurons of an early layer;
6. gather the evidence behind the verdicts (`study.gathering`);
7. make the measurements asked for (`study.measurements`).

Each artefact is a stage: it is written once, when it is made, under the name that `study.files` gives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hooked_diffusion.model import HookedDiffusionTransformer
from hooked_diffusion.pairs import Pair
from hooked_diffusion.progress import progress_bar
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.bridge.kinds import check_kind
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.compare.comparison import compare
from mechshift_tl.compare.result import CircuitComparison
from mechshift_tl.graph import Graph
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.readouts.pool import Pool, common_correct
from mechshift_tl.runs.provenance import identity, text_digest, versions
from mechshift_tl.runs.stages import Stages
from mechshift_tl.study import files
from mechshift_tl.study.config import StudyConfig
from mechshift_tl.study.evidence import gather_evidence
from mechshift_tl.study.gathering import ToJudge, gather_verdict_evidence
from mechshift_tl.study.measurements import chosen, measure
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.study.results import Study, TaskStudy
from mechshift_tl.tasks.task import ExampleStream, Task
from mechshift_tl.views.lens import component_lens
from mechshift_tl.views.lens_table import ComponentLens
from mechshift_tl.views.neurons import NeuronActivations, neuron_activations


def run_study(
    pair: Pair,
    tasks: Sequence[Task],
    config: StudyConfig | None = None,
    *,
    folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Study:
    """Study `pair` (see `hooked_diffusion.load_pair`) on `tasks`; `progress` is told each stage as it starts; without one, a bar shows it.

    `folder` gets what `Study.save` writes, each file as soon as it is made, so that a killed study that is started again goes on from its
    last finished batch, to the same bytes. The folder's `journal` may go when the study is done.

    Raises ValueError before any long work when tasks repeat or cannot make enough prompts, when a setting lies outside the pair's graph,
    and when `folder` is that of another study.
    """
    check_kind("run_study", "pair", pair, Pair, "what load_pair(name) opens")
    check_kind("run_study", "config", config, (StudyConfig, type(None)), "a StudyConfig, such as StudyConfig.quick()")
    if isinstance(tasks, (str, Task)) or not all(isinstance(task, Task) for task in tasks):
        raise TypeError(f"run_study: tasks is {tasks!r:.60}; give a list of tasks, such as [IOI(), Prompts.from_file(path)]")
    config, models = config or StudyConfig(), pair.models
    chosen(config)  # a measurement that there is not is said before any work
    graph = Graph.of(pair.arm, config.kv)
    _check(pair.name, tasks, config, graph)
    if pair.tokenizer is None:
        raise ValueError(f"run_study: the pair {pair.name!r} has no tokenizer; open it with one, to make prompts")
    # A task that cannot make enough prompts says so before the first task runs.
    streams = {task.name: ExampleStream(task, pair.tokenizer, config.seed) for task in tasks}
    prompts = {name: text_digest(repr(stream.exactly(config.n + config.held_out).rows)) for name, stream in streams.items()}
    stages = Stages(folder)
    if folder is not None:
        stages.claim({**config.to_dict(), **identity(models), "prompts": prompts, "versions": versions()})
    found = {}
    with _told(progress, len(tasks)) as (told, done):
        for task in tasks:
            place = stages.of(files.folder_name(task.name))
            found[task.name] = _TaskRun(task, streams[task.name], models, config, place, told).run()
            done()
    sources = {role: model.source for role, model in models.items()}
    specs = {role: model.spec.to_dict() for role, model in models.items()}
    dependency = {task.name: task.dependency for task in tasks}
    study = Study(pair.name, config, found, {"models": sources, "specs": specs, "edges": graph.n_edges, "dependency": dependency})
    stages.write(study.save_tables)
    return study


def most_stages(tasks: int, models: int, config: StudyConfig) -> int:
    """How many stages `progress` is told of: fewer where a measurement does not apply to a task."""
    # Prompts, circuits, lenses and what became of circuits; scores per model; circuits run; each measurement.
    return tasks * (4 + models + bool(config.held_out) + len(chosen(config)))


@contextmanager
def _told(progress: Callable[[str], None] | None, n: int) -> Iterator[tuple[Callable[[str], None], Callable[[], object]]]:
    """What is told of a stage that starts, and of a task that is done: `progress`, or a bar of `n` tasks."""
    if progress is not None:
        yield progress, lambda: None
        return
    with progress_bar(n, "study", "task") as bar:
        yield bar.set_description, bar.update


def _check(pair: str, tasks: Sequence[Task], config: StudyConfig, graph: Graph) -> None:
    """Raise ValueError on tasks that repeat, and on settings outside the pair's graph."""
    names = [task.name for task in tasks]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"run_study: tasks are {names}; name at least one, each once")
    asked_most = {
        "edges": (config.edges, graph.n_edges),
        "components": (config.components, len(graph.components)),
        "cut": (config.cut, graph.n_layers),
        "neuron_layer": (config.neuron_layer, graph.n_layers - 1),
    }
    for name, (value, most) in asked_most.items():
        if value is not None and value > most:
            raise ValueError(f"StudyConfig.{name} is {value}, but the graph of {pair!r} allows at most {most}")


@dataclass(frozen=True)
class _TaskRun:
    """One task of a study, step by step; results are keyed by role."""

    task: Task
    stream: ExampleStream
    models: dict[str, HookedDiffusionTransformer]
    config: StudyConfig
    stages: Stages
    progress: Callable[[str], None]

    def run(self) -> TaskStudy:
        """Every step."""
        name, config = self.task.name, self.config
        self.progress(f"{name}: prompts that every model reads correctly")
        pool, held_out = self._pools()
        scores = self._scores(pool)
        self.progress(f"{name}: circuits and comparisons")
        circuits = {
            role: files.CIRCUITS.stage(self.stages, role, partial(Circuit.from_scores, scores[role], config.edges)) for role in scores
        }
        comparisons = self._comparisons(scores, circuits)
        evidence = None
        if config.held_out:
            self.progress(f"{name}: circuits run in every model, edges patched exactly")
            evidence = gather_evidence(self.models, scores, circuits, held_out.readouts, config, self.stages)
            self.stages.write(evidence.save_table)
        self.progress(f"{name}: lenses and neurons")
        lenses, neurons = self._lenses(pool), self._neurons(pool)
        parts = TaskParts(
            self.task, self.models, self.stream.tokenizer, config, pool, held_out if len(held_out) else None, scores, circuits, lenses,
            self.progress,
        )  # fmt: skip
        self.progress(f"{name}: what became of the circuits")
        judged = gather_verdict_evidence(ToJudge.of(parts), config.verdict, self.stages)
        faithful = {one.role: one.size.share for one in judged if one.size.share is not None}
        measured = measure(replace(parts, shares=faithful), self.stages)
        found = TaskStudy(name, pool, scores, circuits, comparisons, lenses, neurons, evidence, measured, judged)
        self.stages.write(found.save_prompts)
        return found

    def _pools(self) -> tuple[Pool, Pool]:
        """The prompts that circuits are found on, and those kept apart."""
        n, held_out = self.config.n, self.config.held_out
        found = common_correct(self.models, self.task, n + held_out, seed=self.config.seed, drawn=self.stream, stages=self.stages)
        pool = found.select(range(n))
        self.stages.write(pool.save)
        return pool, found.select(range(n, n + held_out))

    def _scores(self, pool: Pool) -> dict[str, EdgeScores]:
        scores = {}
        for role, model in self.models.items():
            self.progress(f"{self.task.name}: edge scores of the {ROLE_NAMES[role]}")
            journal = self.stages.journal(files.SCORES.name(role))
            scores[role] = files.SCORES.stage(
                self.stages, role, partial(attribute_edges, model, pool.readouts[role], self.config.attribution, journal=journal)
            )
        return scores

    def _comparisons(self, scores: dict[str, EdgeScores], circuits: dict[str, Circuit]) -> dict[str, CircuitComparison]:
        """The ARM against every other model."""
        config = self.config
        against = partial(
            compare, scores["arm"], n=config.edges, k=config.components, cut=config.cut, n_random=config.n_random, n_boot=config.n_boot,
            seed=config.seed,
        )  # fmt: skip
        return {
            role: files.COMPARISONS.stage(self.stages, role, partial(against, one, circuits=(circuits["arm"], circuits[role])))
            for role, one in scores.items()
            if role != "arm"
        }

    def _lenses(self, pool: Pool) -> dict[str, ComponentLens]:
        read = partial(component_lens, tokenizer=self.stream.tokenizer)
        return {
            role: files.LENSES.stage(self.stages, role, partial(read, model, pool.readouts[role])) for role, model in self.models.items()
        }

    def _neurons(self, pool: Pool) -> dict[str, NeuronActivations]:
        """Each model's neurons of one layer by prompt group; none where fewer than two groups have two prompts to compare."""
        shared = [group for group, size in Counter(example.group for example in pool.examples).items() if size > 1]
        if len(shared) < 2:
            return {}
        layer = self.config.neuron_layer
        if layer is None:
            layer = self.config.early_layers(self.models["arm"].cfg.n_layers) - 1
        return {
            role: files.NEURONS.stage(self.stages, role, partial(neuron_activations, model, pool.readouts[role], layer))
            for role, model in self.models.items()
        }
