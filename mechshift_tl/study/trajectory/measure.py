"""What is measured at a checkpoint, by the functions of a study; what is the ARM's alone is measured once.

1. The ARM: its scores, the size at which its own circuit is faithful (`evaluation.size`), the circuit of that size, its runs.
2. A checkpoint's model: its scores and circuit of the same size, on the same prompts; their overlaps, with floor and ceiling.
3. Both circuits run in both models, on prompts kept apart: τ each way, and the faithfulness of the model's own.
4. Depth over all edges, specialisation of components, and the share of all prompts tried that the model reads correctly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from math import nan
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.model import HookedDiffusionTransformer
from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.attribution.bootstrap import bootstrap
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard
from mechshift_tl.compare.bounds import ceiling, floor
from mechshift_tl.compare.overlap import component_jaccard, default_k
from mechshift_tl.evaluation.carried import carry
from mechshift_tl.evaluation.faithfulness import NoGap, recovered
from mechshift_tl.evaluation.run_once import CircuitRuns
from mechshift_tl.intervals import sample_and_draws
from mechshift_tl.readouts import readouts
from mechshift_tl.readouts.pool import Pool, read_correctly
from mechshift_tl.study.config import StudyConfig
from mechshift_tl.study.gains import layer_shares, spreads
from mechshift_tl.study.trajectory.point import TrajectoryPoint, stacked
from mechshift_tl.tasks.examples import Examples
from mechshift_tl.tasks.task import Task
from mechshift_tl.views.lens import component_lens

#: What a study calls the overlaps of `LABELS`.
OVERLAPS = {"edge_jaccard": "edge_overlap", "component_jaccard": "component_overlap"}
Values = dict[str, Float[Tensor, " draws_and_1"]]


@dataclass(frozen=True, eq=False)
class Ground:
    """What every checkpoint of a task is held against.

    `pool`, `held_out`: prompts that the ARM and the last checkpoints read correctly; `tried`: all prompts that these were chosen from.
    """

    task: Task
    arm: HookedDiffusionTransformer
    arm_scores: EdgeScores
    share: float
    pool: Pool
    held_out: Pool
    tried: Examples
    config: StudyConfig

    @cached_property
    def circuit(self) -> Circuit:
        """The ARM's circuit."""
        return self.cut(self.arm_scores)

    @cached_property
    def runs(self) -> CircuitRuns:
        """Runs of circuits in the ARM, which all checkpoints share."""
        return CircuitRuns({"arm": self.arm}, {"arm": self.held_out.readouts["arm"]})

    @cached_property
    def ceiling(self) -> dict[str, float]:
        """The ARM's overlaps with itself."""
        return ceiling(self.arm_scores, n=self.circuit.requested, k=self.k, seed=self.config.seed)

    @property
    def k(self) -> int:
        """How many components are compared."""
        return self.config.components or default_k(self.arm_scores.graph)

    def cut(self, scores: EdgeScores) -> Circuit:
        """The circuit of the common size."""
        return Circuit.from_scores(scores, fraction=self.share)

    def counts(self, n: int) -> Float[Tensor, "draws_and_1 n"]:
        """`n` prompts once, then how often each draw holds them."""
        return sample_and_draws(n, self.config.n_boot, self.config.seed)

    def arm_point(self) -> TrajectoryPoint:
        """The ARM itself: what it is alone."""
        (run,) = self.runs.of("arm", [self.circuit])
        found = self._alone(self.arm, self.arm_scores) | {"faithfulness": recovered(run, self.counts(self.runs.n_examples))}
        return self._point("arm", 0, 0, found)

    def point(self, role: str, step: int, tokens: int, model: HookedDiffusionTransformer, journal: Path | None = None) -> TrajectoryPoint:
        """A checkpoint's model beside the ARM. `journal`: where finished batches of its attribution are kept."""
        rows = readouts(model, self.pool.examples, seed=self.config.seed)
        scores = attribute_edges(model, rows, self.config.attribution, journal=journal)
        circuit = self.cut(scores)
        found = self._alone(model, scores) | self._overlaps(scores, circuit)
        carried, note = self._carried(role, model, circuit)
        floors = floor(self.circuit, circuit, k=self.k, n_random=self.config.n_random, seed=self.config.seed)
        own = ceiling(scores, n=circuit.requested, k=self.k, seed=self.config.seed)
        return self._point(
            role, step, tokens, found | carried, note=note,
            floors={name: floors[key] for key, name in OVERLAPS.items()},
            ceilings={name: min(own[key], self.ceiling[key]) for key, name in OVERLAPS.items()},
        )  # fmt: skip

    def _point(self, role: str, step: int, tokens: int, found: Values, **more: object) -> TrajectoryPoint:
        names, values, draws = stacked(found)
        sizes = (len(self.pool), len(self.held_out), len(self.tried))
        return TrajectoryPoint(self.task.name, role, step, tokens, self.share, *sizes, names, values, draws, **more)  # type: ignore[arg-type]

    def _alone(self, model: HookedDiffusionTransformer, scores: EdgeScores) -> Values:
        """Statistics of one model, but for its circuit's faithfulness."""
        rows = readouts(model, self.pool.examples, seed=self.config.seed)
        every, counts = readouts(model, self.tried, seed=self.config.seed), self.counts(scores.n_examples)
        right, n = read_correctly(model, every, correct=self.task.correct), len(self.tried)
        shares = layer_shares(scores, counts)
        layers = torch.arange(shares.shape[1], dtype=shares.dtype)
        return {
            "accuracy": self.counts(n) @ right.double() / n,
            "early_share": shares[:, : self.config.early_layers(scores.graph.n_layers)].sum(1),
            "centre": shares @ layers,
            "spread": spreads(component_lens(model, rows), counts).exp(),
        }

    def _overlaps(self, scores: EdgeScores, circuit: Circuit) -> Values:
        overlap = partial(_overlap, k=self.k)
        drawn = bootstrap(
            lambda a, b: overlap(self.cut(a), self.cut(b)), self.arm_scores, scores, n_boot=self.config.n_boot, seed=self.config.seed
        )
        edges, components = zip(overlap(self.circuit, circuit), *drawn, strict=True)
        return {"edge_overlap": torch.tensor(edges).double(), "component_overlap": torch.tensor(components).double()}

    def _carried(self, role: str, model: HookedDiffusionTransformer, circuit: Circuit) -> tuple[Values, str]:
        """τ both ways and the own circuit's faithfulness; NaN, and why, where the model does not tell clean from corrupt prompts."""
        config = self.config
        runs = self.runs.beside(role, model, readouts(model, self.held_out.examples, seed=config.seed))
        names = ("tau_arm_in_model", "tau_model_in_arm", "faithfulness")
        try:
            carried = carry(
                runs, {"arm": self.circuit, role: circuit}, {}, n_null=config.null_circuits, n_boot=config.n_boot, seed=config.seed
            )
        except NoGap as error:
            return {name: torch.full((1 + config.n_boot,), nan) for name in names}, str(error)
        tau = torch.cat([carried.tau[None], carried.draws])[:, 0]
        own = recovered(runs.of(role, [circuit])[0], self.counts(runs.n_examples))
        return dict(zip(names, (*tau.unbind(1), own), strict=True)), ""


def _overlap(a: Circuit, b: Circuit, k: int) -> tuple[float, float]:
    return edge_jaccard(a, b), component_jaccard(a, b, k)
