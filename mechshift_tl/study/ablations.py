"""The ablations of a task: which sets of components, in which models, replaced by what."""

from __future__ import annotations

from mechshift_tl.attribution import attribute
from mechshift_tl.compare.overlap import default_k
from mechshift_tl.evaluation.ablation import ablate
from mechshift_tl.evaluation.ablation_result import INTERVENTIONS, AblationRow, Ablations
from mechshift_tl.evaluation.component_sets import named_sets, weakest_sets
from mechshift_tl.evaluation.neuron_sets import strongest_neurons
from mechshift_tl.interventions.neurons import neuron_means
from mechshift_tl.interventions.replaced import writer_means
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.readouts import Readouts
from mechshift_tl.study.measurement import Measurement
from mechshift_tl.study.parts import TaskParts

#: The most prompts kept apart that are run, the most rows of these (a prompt has a row per step), and the pool's prompts behind means.
N_PROMPTS, N_ROWS, N_MEANS = 16, 64, 40
N_RANDOM = 10
#: Share of the early layers' neurons that are ablated together, and the prompts and points of the path that they are chosen by.
NEURON_SHARE, N_SCORED, NEURON_STEPS = 0.02, 16, 10
#: Shares of the weakest components that are removed together.
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


def ablations(parts: TaskParts) -> Ablations:
    """Ablate sets of components in every model, on prompts that no circuit was found on.

    Cost per model: 3 × 7 sets × (1 + `N_RANDOM`) forwards of at most `N_ROWS` rows, and 5 × (1 + `N_RANDOM`) for the weak components; an
    attribution of `N_SCORED` prompts to neurons.
    """
    return Ablations(tuple(row for role in parts.models for row in _of_model(parts, role)))


def _of_model(parts: TaskParts, role: str) -> list[AblationRow]:
    assert parts.held_out is not None
    parts.progress(f"ablations of the {ROLE_NAMES[role]}")
    model, circuit, scores = parts.models[role], parts.circuits[role], parts.scores[role]
    apart, config = parts.held_out.readouts[role], parts.config
    rows = _first(apart, min(N_PROMPTS, N_ROWS * apart.n_examples // len(apart)))
    means = writer_means(model, _first(parts.pool.readouts[role], N_MEANS))
    cut = min(config.early_layers(circuit.graph.n_layers), circuit.graph.n_layers // 2)
    sets = named_sets(circuit, config.components or default_k(circuit.graph), cut)
    found = [
        row
        for by in INTERVENTIONS
        for row in ablate(
            model, rows, circuit.graph, sets, by, role=role, means=means if by == "mean" else None, n_random=N_RANDOM, seed=config.seed
        )
    ]
    found += _of_neurons(parts, role, rows, cut)
    # Summed over its edges, a writer's scores are its effect as a whole.
    weak = weakest_sets(scores.matrix.sum(1)[1:], SHARES)
    return found + ablate(model, rows, circuit.graph, weak, "counterfactual", role=role, n_random=N_RANDOM, seed=config.seed)


def _of_neurons(parts: TaskParts, role: str, rows: Readouts, cut: int) -> list[AblationRow]:
    """The strongest neurons of the early layers, each way."""
    model, pool, config = parts.models[role], parts.pool.readouts[role], parts.config
    scores = attribute(model, _first(pool, N_SCORED), level="neurons", ig_steps=NEURON_STEPS, rule=config.rule)
    graph = parts.circuits[role].graph
    chosen = [strongest_neurons(scores.matrix.view(graph.n_layers, -1), NEURON_SHARE, cut)]
    means = neuron_means(model, _first(pool, N_MEANS))
    return [
        row
        for by in INTERVENTIONS
        for row in ablate(
            model, rows, graph, chosen, by, role=role, means=means if by == "mean" else None, n_random=N_RANDOM, seed=config.seed
        )
    ]


def _first(rows: Readouts, n: int) -> Readouts:
    return rows.select(range(max(1, min(n, rows.n_examples))))


ABLATIONS = Measurement(
    name="ablations",
    title="Components removed",
    question="What does a model lose without early layers, or its strongest or weakest components?",
    file="ablations.json",
    load=Ablations.load,
    make=ablations,
    applies=lambda parts: parts.held_out is not None,
)
