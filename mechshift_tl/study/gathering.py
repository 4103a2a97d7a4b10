"""How the evidence behind a task's verdicts is gathered.

Prompts are used twice and never for both ends: circuits and matchings are found on some, and circuits run on others. Per model beside the
ARM:

1. look at both models: do they do the task, are layers and neurons in their places (`likeness`);
2. find the size at which both own circuits are faithful and clear of their null (`evaluation.size`);
3. match heads, and carry the circuits of that size into each other (`evaluation.carried`);
4. hold their overlap against permuted heads, and draw the prompts anew for its interval;
5. measure what the model gained beyond control and ARM, over all edges (`gains`).

Each part is a stage of the study, in a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from mechshift_tl.attribution.bootstrap import bootstrap
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.matching import Matching, across_depth, within_layers
from mechshift_tl.circuits.overlap import edge_jaccard
from mechshift_tl.circuits.permuted import OverlapNull, overlap_null
from mechshift_tl.circuits.similarity import similarity_of_activations, similarity_of_weights
from mechshift_tl.compare.depth import default_cut
from mechshift_tl.evaluation.carried import Carried, carry
from mechshift_tl.evaluation.run_once import CircuitRuns
from mechshift_tl.evaluation.size import FaithfulSize, faithful_size
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import interval, sample_and_draws
from mechshift_tl.readouts import Readouts
from mechshift_tl.runs.stages import Stages
from mechshift_tl.study import files
from mechshift_tl.study.gains import Gain, early_shares, spreads
from mechshift_tl.study.likeness import Likeness
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.study.verdict_evidence import VerdictEvidence, VerdictSettings
from mechshift_tl.tasks.task import Correct
from mechshift_tl.views.lens_table import ComponentLens

NOT_RUN = "no prompts were kept apart to run circuits on (held_out is 0)"


@dataclass(frozen=True)
class ToJudge:
    """One task's parts, each by role, "arm" among them.

    - `found_on`, `scores`: readouts that circuits and matchings are found on, and their scores with per-example parts.
    - `held_out`: readouts of other examples; empty: no circuit is run. `lenses`: component lenses on `found_on`.
    - `correct`: when the task counts a prompt as read correctly. `runs`: on `held_out`, where some were made before.
    """

    name: str
    models: Mapping[str, HookedModel]
    found_on: Mapping[str, Readouts]
    scores: Mapping[str, EdgeScores]
    held_out: Mapping[str, Readouts]
    lenses: Mapping[str, ComponentLens]
    correct: Correct = "first"
    runs: CircuitRuns | None = None

    @classmethod
    def of(cls, parts: TaskParts) -> ToJudge:
        """From a study's parts of one task."""
        apart = parts.held_out.readouts if parts.held_out else {}
        return cls(parts.name, parts.models, parts.pool.readouts, parts.scores, apart, parts.lenses, parts.task.correct)


def gather_verdict_evidence(
    task: ToJudge, settings: VerdictSettings | None = None, stages: Stages | None = None
) -> tuple[VerdictEvidence, ...]:
    """Evidence on every model of `task` beside the ARM. Raises ValueError where `faithful_size`, `carry` and the similarities do.

    Cost: per model, some 35 runs of a circuit on the held-out prompts, and 35 in the ARM for all models together.
    """
    gathering = _Gathering(task, settings or VerdictSettings(), stages or Stages())
    return tuple(gathering.of(role) for role in task.models if role != "arm")


@dataclass(frozen=True)
class _Gathering:
    task: ToJudge
    settings: VerdictSettings
    stages: Stages

    @cached_property
    def runs(self) -> CircuitRuns:
        return self.task.runs or CircuitRuns(self.task.models, self.task.held_out)

    def of(self, role: str) -> VerdictEvidence:
        task, stages = self.task, self.stages
        models = {one: task.models[one] for one in ("arm", role)}
        likeness = files.LIKENESS.stage(stages, role, partial(Likeness.of, models, task.held_out or task.found_on, task.correct))
        size = files.SIZES.stage(stages, role, partial(self._size, role))
        carried = overlap = early = spread = None
        if size.share is not None:
            carried = files.CARRIED.stage(stages, role, partial(self._carried, role, size.share))
            overlap = files.OVERLAPS.stage(stages, role, partial(self._overlap, role, size.share))
        if "control" in task.scores:
            early = files.EARLY.stage(stages, role, lambda: self._gain(role, self._early_shares))
            spread = files.SPREAD.stage(stages, role, lambda: self._gain(role, self._spreads))
        return VerdictEvidence(task.name, role, likeness, size, carried, overlap, early, spread)

    def _size(self, role: str) -> FaithfulSize:
        if not self.task.held_out:
            return FaithfulSize(None, NOT_RUN, (), self.settings.search)
        scores = {one: self.task.scores[one] for one in ("arm", role)}
        return faithful_size(self.runs, scores, self.settings.search, seed=self.settings.seed)

    def _circuits(self, role: str, share: float) -> dict[str, Circuit]:
        return {one: Circuit.from_scores(self.task.scores[one], fraction=share) for one in ("arm", role)}

    def _carried(self, role: str, share: float) -> Carried:
        task, settings = self.task, self.settings
        circuits = self._circuits(role, share)
        matchings = matched(circuits[role].graph, task.models["arm"], task.models[role], task.found_on["arm"], task.found_on[role])
        return carry(self.runs, circuits, matchings, n_null=settings.search.n_null, n_boot=settings.n_boot, seed=settings.seed)

    def _overlap(self, role: str, share: float) -> OverlapNull:
        settings = self.settings
        found = overlap_null(*self._circuits(role, share).values(), n=settings.n_permutations, seed=settings.seed)
        if not settings.overlap_draws:
            return found

        def overlap(*scores: EdgeScores) -> float:
            return edge_jaccard(*(Circuit.from_scores(one, fraction=share) for one in scores))

        scores = (self.task.scores[one] for one in ("arm", role))
        draws = bootstrap(overlap, *scores, n_boot=settings.overlap_draws, seed=settings.seed)
        return replace(found, over_prompts=interval(draws))

    @cached_property
    def _counts(self) -> torch.Tensor:
        """The sample itself, and then its draws."""
        return sample_and_draws(self.task.scores["arm"].n_examples, self.settings.n_boot, self.settings.seed)

    @cached_property
    def _early_shares(self) -> dict[str, torch.Tensor]:
        cut = self.settings.cut or default_cut(self.task.scores["arm"].graph.n_layers)
        return {role: early_shares(one, cut, self._counts) for role, one in self.task.scores.items()}

    @cached_property
    def _spreads(self) -> dict[str, torch.Tensor]:
        return {role: spreads(one, self._counts) for role, one in self.task.lenses.items()}

    def _gain(self, role: str, found: Mapping[str, torch.Tensor]) -> Gain:
        against = ("arm",) if role == "control" else ("control", "arm")
        return Gain.of(role, against, found, self.task.scores["arm"].n_examples)


def matched(graph: Graph, a: HookedModel, b: HookedModel, of_a: Readouts, of_b: Readouts) -> dict[str, tuple[Matching, Matching]]:
    """Every matching of two models, by name, each way: inside layers by weights and by activations, and across depth by activations."""
    weights, activations = similarity_of_weights(a, b), similarity_of_activations(a, b, of_a, of_b)
    return {
        "weights": (within_layers(weights, graph, "weights"), within_layers(weights.T, graph, "weights")),
        "activations": (within_layers(activations, graph, "activations"), within_layers(activations.T, graph, "activations")),
        "activations, any layer": (across_depth(activations, graph, "depth"), across_depth(activations.T, graph, "depth")),
    }
