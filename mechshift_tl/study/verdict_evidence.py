"""What the verdicts of `study.verdicts` rest on: measured here, judged there.

Prompts are used twice and never for both ends: circuits and matchings are found on some, and held against each other on others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.matching import Matching, across_depth, within_layers
from mechshift_tl.circuits.neurons import NeuronMatching, match_neurons
from mechshift_tl.circuits.permuted import OverlapNull, overlap_null
from mechshift_tl.circuits.similarity import best_layers, similarity_of_activations, similarity_of_weights
from mechshift_tl.compare.depth import default_cut
from mechshift_tl.evaluation.carried import Carried, carry
from mechshift_tl.evaluation.size import FaithfulSize, SizeSearch, faithful_size
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import draw_counts
from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts.pool import read_correctly
from mechshift_tl.study.gains import Gain, early_shares, spreads
from mechshift_tl.views.lens_table import ComponentLens


@dataclass(frozen=True)
class VerdictSettings:
    """How evidence is gathered.

    - `search`: of the circuits' size. `cut`: layers below it are early; None for the first third.
    - `n_boot`: draws of the prompts behind every p-value; `n_permutations`: of heads, behind that of an overlap. p is at least 1 over
      one more, so few draws leave nothing to claim once p-values are corrected.
    """

    search: SizeSearch = SizeSearch()
    cut: int | None = None
    n_boot: int = 2000
    n_permutations: int = 2000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class VerdictEvidence:
    """Of one task and one model beside the ARM, whose role is `role`.

    - `accuracy`: share of the held-out prompts, in [0, 1], that each of the two models reads correctly, by role.
    - `size`: at which circuits were cut. `carried`, `overlap`: of these circuits; None where there is no such size.
    - `neurons`: MLP neurons matched by weights. `layers`: for every layer, the ARM's layer that its weights are most like.
    - `early`, `spread`: what the model gained beyond the control and the ARM; None without a control. The control's own: beyond the ARM.
    """

    task: str
    role: str
    accuracy: dict[str, float]
    size: FaithfulSize
    carried: Carried | None
    overlap: OverlapNull | None
    neurons: NeuronMatching
    layers: list[int | None]
    early: Gain | None
    spread: Gain | None


@dataclass(frozen=True)
class TaskParts:
    """One task's parts, each by role, "arm" among them.

    - `found_on`, `scores`: readouts that circuits and matchings are found on, and their scores with per-example parts.
    - `held_out`: readouts of other examples. `lenses`: component lenses on `found_on`.
    """

    name: str
    models: Mapping[str, HookedModel]
    found_on: Mapping[str, Readouts]
    scores: Mapping[str, EdgeScores]
    held_out: Mapping[str, Readouts]
    lenses: Mapping[str, ComponentLens]


def gather_verdict_evidence(task: TaskParts, settings: VerdictSettings | None = None) -> list[VerdictEvidence]:
    """Evidence for every model of `task` beside the ARM. Raises ValueError where `faithful_size`, `carry` and the similarities do."""
    settings = settings or VerdictSettings()
    gains = _gains(task, settings)
    return [_evidence(task, role, gains.get(role, (None, None)), settings) for role in task.models if role != "arm"]


def _evidence(task: TaskParts, role: str, gains: tuple[Gain | None, Gain | None], settings: VerdictSettings) -> VerdictEvidence:
    roles = ("arm", role)
    models = {one: task.models[one] for one in roles}
    held_out = {one: task.held_out[one] for one in roles}
    size = faithful_size(models, {one: task.scores[one] for one in roles}, held_out, settings.search, seed=settings.seed)
    carried = overlap = None
    if size.share is not None:
        circuits = {one: Circuit.from_scores(task.scores[one], fraction=size.share) for one in roles}
        matchings = matched(circuits["arm"].graph, models["arm"], models[role], task.found_on["arm"], task.found_on[role])
        carried = carry(
            models, circuits, held_out, matchings, n_null=settings.search.n_null, n_boot=settings.n_boot, seed=settings.seed
        )  # fmt: skip
        overlap = overlap_null(circuits["arm"], circuits[role], n=settings.n_permutations, seed=settings.seed)
    neurons, layers = match_neurons(models["arm"], models[role]), best_layers(models["arm"], models[role])
    accuracy = {one: read_correctly(models[one], held_out[one]).double().mean().item() for one in roles}
    return VerdictEvidence(task.name, role, accuracy, size, carried, overlap, neurons, layers, *gains)


def matched(graph: Graph, a: HookedModel, b: HookedModel, of_a: Readouts, of_b: Readouts) -> dict[str, tuple[Matching, Matching]]:
    """Every matching of two models, by name, each way: inside layers by weights and by activations, and across depth by activations."""
    weights, activations = similarity_of_weights(a, b), similarity_of_activations(a, b, of_a, of_b)
    return {
        "weights": (within_layers(weights, graph, "weights"), within_layers(weights.T, graph, "weights")),
        "activations": (within_layers(activations, graph, "activations"), within_layers(activations.T, graph, "activations")),
        "activations, any layer": (across_depth(activations, graph, "depth"), across_depth(activations.T, graph, "depth")),
    }


def _gains(task: TaskParts, settings: VerdictSettings) -> dict[str, tuple[Gain, Gain]]:
    """Early share and spread of each model, held against the control and the ARM; of the control, against the ARM alone."""
    n = task.scores["arm"].n_examples
    every = torch.cat([torch.ones(1, n, dtype=torch.float64), draw_counts(n, settings.n_boot, settings.seed)])
    cut = settings.cut or default_cut(task.scores["arm"].graph.n_layers)
    early = {role: early_shares(one, cut, every) for role, one in task.scores.items()}
    spread = {role: spreads(one, every) for role, one in task.lenses.items()}
    found = {}
    for role in task.models:
        against = ("arm",) if role == "control" else ("control", "arm")
        if role != "arm" and "control" in early:
            found[role] = (Gain.of(role, against, early), Gain.of(role, against, spread))
    return found
