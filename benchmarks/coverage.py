"""How often an interval over prompts holds what it is about: coverage at nominal 95 %, by simulation.

1. A population: every prompt's own edge scores in ARM, MDM and control, and every prompt's metric under each circuit that τ needs.
2. The truth is the statistic over the whole population.
3. Samples of n prompts are drawn from it with replacement. Each gives an interval, as a study does: the central 95 % over its own draws
   (percentile), or its value ± 1.96 standard deviations of these (normal). Coverage is the share of samples whose interval holds the truth.

The circuits that τ carries are those of the population: its interval is one over the prompts that circuits run on.

    nice python -m benchmarks.coverage --task ioi --population 200 --n 50
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.tables import markdown
from hooked_diffusion import load_pair
from mechshift_tl.attribution import attribute
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard
from mechshift_tl.circuits.permuted import permuted_heads
from mechshift_tl.compare.depth import default_cut, depth_profile, early_share
from mechshift_tl.compare.overlap import component_jaccard, weighted_jaccard
from mechshift_tl.evaluation.faithfulness import recovered
from mechshift_tl.evaluation.run import CircuitRun, run_circuits
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import drawn_examples
from mechshift_tl.readouts.pool import common_correct
from mechshift_tl.study.gains import early_shares
from mechshift_tl.tasks import task_class

OTHERS = ("mdm", "control")
N_NULL = 8
#: What a statistic is on each row of a table of draws, `(draws, n)`: the prompts that are drawn.
Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Covered:
    """Coverage of one statistic's intervals over `samples` samples: by percentiles, and by the standard deviation of the draws."""

    name: str
    truth: float
    percentile: float
    normal: float
    width: float


def covered(name: str, statistic: Statistic, size: int, n: int, samples: int, draws: int, seed: int = 0) -> Covered:
    """Coverage of a statistic's value on a population of `size` prompts."""
    truth = statistic(torch.arange(size)[None])[0].item()
    hits, widths = torch.zeros(2), 0.0
    for i, sample in enumerate(drawn_examples(size, samples * n // size + 1, seed).flatten()[: samples * n].view(samples, n)):
        values = statistic(torch.cat([sample[None], sample[drawn_examples(n, draws, seed + i + 1)]]))
        value, drawn = values[0], values[1:]
        low, high = drawn.nanquantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
        sd = drawn[~drawn.isnan()].std()
        hits += torch.tensor([low - 1e-9 <= truth <= high + 1e-9, abs(value - truth) <= 1.96 * sd + 1e-9])
        widths += (high - low) / samples
    percentile, normal = (hits / samples).tolist()
    return Covered(name, truth, percentile, normal, widths)


def of_circuits(a: EdgeScores, b: EdgeScores, measure: Callable[[Circuit, Circuit], float]) -> Statistic:
    """A statistic of two circuits of the default size, cut anew on each draw."""

    def values(drawn: Tensor) -> Tensor:
        cut = ((Circuit.from_scores(a.resample(one)), Circuit.from_scores(b.resample(one))) for one in drawn)
        return torch.tensor([measure(*both) for both in cut], dtype=torch.float64)

    return values


def of_early_share(a: EdgeScores, b: EdgeScores, cut: int) -> Statistic:
    """The shift of the early share over all edges."""

    def values(drawn: Tensor) -> Tensor:
        counts = counted(drawn, a.n_examples)
        return early_shares(b, cut, counts) - early_shares(a, cut, counts)

    return values


def of_tau(own: CircuitRun, cross: CircuitRun, null: list[CircuitRun]) -> Statistic:
    """τ of one direction by id, the null's permutations as they are."""

    def values(drawn: Tensor) -> Tensor:
        counts = counted(drawn, len(own.read))
        none = torch.stack([recovered(one, counts) for one in null]).mean(0)
        return (recovered(cross, counts) - none) / (recovered(own, counts) - none)

    return values


def counted(drawn: Tensor, size: int) -> Tensor:
    """How often each of `size` prompts is drawn, per draw."""
    return torch.zeros(len(drawn), size, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))


def statistics(task: str, population: int, held_out: int) -> dict[str, tuple[Statistic, int]]:
    """Every statistic of a task's population, with how many prompts it is over."""
    pair, found = load_pair("tiny"), {}
    pool = common_correct(pair.models, task_class(task)(), population + held_out)
    scored, apart = pool.select(range(population)), pool.select(range(population, population + held_out))
    scores = {role: attribute(model, scored.readouts[role], keep_per_example=True) for role, model in pair.models.items()}
    circuits = {role: Circuit.from_scores(one, fraction=0.1) for role, one in scores.items()}
    cut = default_cut(Graph.of(pair.arm).n_layers)
    measures: Mapping[str, Callable[[Circuit, Circuit], float]] = {
        "J": edge_jaccard, "component Jaccard": component_jaccard, "weighted Jaccard": weighted_jaccard,
        "early shift of circuits": lambda a, b: early_share(depth_profile(b), cut) - early_share(depth_profile(a), cut),
    }  # fmt: skip
    for role in OTHERS:
        a, b, own = scores["arm"], scores[role], circuits[role]
        for name, measure in measures.items():
            found[f"{name}, {role}"] = of_circuits(a, b, measure), population
        found[f"early shift over all edges, {role}"] = of_early_share(a, b, cut), population
        permuted = [one.circuit(own) for one in permuted_heads(own.graph, N_NULL)]
        ran = run_circuits(pair.models[role], apart.readouts[role], [own, circuits["arm"], *permuted])
        found[f"τ, ARM's circuit in {role}"] = of_tau(ran[0], ran[1], ran[2:]), held_out
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="ioi")
    for name, default in (("population", 200), ("held-out", 120), ("n", 50), ("samples", 60), ("draws", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    head, rows = ("statistic", "truth", "percentile", "normal", "mean width"), []
    for name, (statistic, size) in statistics(asked.task, asked.population, asked.held_out).items():
        one = covered(name, statistic, size, asked.n, asked.samples, asked.draws)
        rows.append((name, *(f"{value:.3f}" for value in (one.truth, one.percentile, one.normal, one.width))))
        print(rows[-1], flush=True)
    sizes = f"{asked.samples} samples of {asked.n} prompts out of {asked.population} ({asked.held_out} for τ)"
    print(f"{asked.task}: {sizes}, {asked.draws} draws")
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
