"""Faithfulness over circuit size, and the two areas of MIB (Mueller et al. 2504.13151).

1. At each size of a grid, make two circuits: the edges of largest score, and the edges of largest |score|. Prune both and run both.
2. CPR is the area under the faithfulness of the circuits by signed score: how soon the edges that support the behaviour bring it back.
   CMD is the area of |1 − faithfulness| of the circuits by |score|: how far the circuits are from the model, over all sizes.
3. Beside each circuit, run random ones with its layer profile (`circuits.random`): they show what size and depth alone would give.

Areas are trapezoids, one point per size, on a linear axis from the smallest share to the largest. The axis is the share of the possible
edges that a circuit *keeps* after pruning; MIB's own code uses the requested share. A higher CPR is better, and a lower CMD.

CMD is at least 0. CPR has no bound: circuits by signed score leave out the edges that work against the behaviour, so their faithfulness can
lie far above 1. Signed CPRs of 2.84 and 3.19 have been measured. Only faithfulness that stays within [0, 1] gives a CPR of at most 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from hooked_diffusion.artefact import Artefact, build, shown
from hooked_diffusion.html import card
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.bridge.kinds import check_kind
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.random import full_cell_share, random_edges
from mechshift_tl.circuits.select import Rank
from mechshift_tl.evaluation.faithfulness import N_BOOT, check_gap, recovered, share, spread_of
from mechshift_tl.evaluation.run import CircuitRun, RunSettings, run_edges
from mechshift_tl.intervals import check_draws, draw_counts, interval
from mechshift_tl.plotting import COLOURS, QUIET, style
from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts.rows import check_given

#: MIB's grid: shares of the possible edges.
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
RANKS: tuple[Rank, ...] = ("signed", "magnitude")
NAMES = {"signed": "CPR", "magnitude": "CMD"}


@dataclass(frozen=True)
class Area:
    """An area with its 95 % interval over examples, and that of the random circuits' mean curve."""

    value: float
    low: float
    high: float
    random: float


@dataclass(frozen=True, eq=False)
class FaithfulnessCurve(Artefact):
    """Faithfulness of circuits of growing size, by signed score and by |score|.

    - `table`: one row per ranking ("signed", "magnitude") and size: rank, requested (share), kept (edges), share (kept, in [0, 1]),
      faithfulness with low, high over examples; accuracy (answer first); random, random_low, random_high over `n_random` draws.
    - `cpr`, `cmd`: the areas (see the module docstring). CMD is at least 0; CPR has no bound, and exceeds 1 where faithfulness does.
    - `clean`, `base`: the metric's means; `n_examples`, `intervention`, `metric`.
    """

    KIND: ClassVar[str] = "faithfulness curve"

    table: pd.DataFrame
    cpr: Area
    cmd: Area
    clean: float
    base: float
    n_examples: int
    intervention: str
    metric: str

    def to_dataframe(self) -> pd.DataFrame:
        """`table`."""
        return self.table

    def figure(self) -> go.Figure:
        """Faithfulness over the kept share (log scale), both rankings with their intervals, random circuits dashed; 0 and 1 are marked."""

        figure = go.Figure()
        for rank, colour in zip(RANKS, (COLOURS["arm"], COLOURS["mdm"]), strict=True):
            rows = self.table[self.table["rank"] == rank]
            x, y = rows["share"].tolist(), rows["faithfulness"]
            bars = {"array": (rows["high"] - y).tolist(), "arrayminus": (y - rows["low"]).tolist(), "symmetric": False, "thickness": 1}
            name = "by score" if rank == "signed" else "by |score|"
            figure.add_scatter(x=x, y=y.tolist(), error_y=bars, name=f"{name} ({NAMES[rank]})", mode="lines+markers", line_color=colour)
            line = {"color": colour, "width": 1.5, "dash": "dash"}
            figure.add_scatter(x=x, y=rows["random"].tolist(), name=f"random, profile of {name}", mode="lines", line=line)
        for height in (0, 1):
            figure.add_hline(y=height, line={"color": QUIET, "width": 1, "dash": "dot"})
        figure.update_xaxes(title_text="edges kept, share of the possible (log scale)", type="log")
        figure.update_yaxes(title_text="faithfulness")
        return style(figure, 380)

    def _packed(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        _, values = super()._packed()
        del values["table"]
        # A table in a safetensors file: one tensor per column of numbers.
        columns = {name: torch.tensor(self.table[name].tolist(), dtype=torch.float64) for name in _NUMBERS}
        return columns, values | {"ranks": self.table["rank"].tolist()}

    @classmethod
    def _unpacked(cls, tensors: Mapping[str, Tensor], values: Mapping[str, object]) -> FaithfulnessCurve:
        if set(tensors) != set(_NUMBERS) or "ranks" not in values:
            raise ValueError(f"the columns are {', '.join(tensors)}, not {', '.join(_NUMBERS)} beside ranks")
        ranks = values["ranks"]
        for name, column in tensors.items():
            if not isinstance(ranks, list) or column.shape != (len(ranks),) or column.is_complex():
                raise ValueError(f"{name} is {shown(column)}, not one number for each of the ranks {shown(ranks)}")
        if not tensors["kept"].isfinite().all():
            raise ValueError("kept holds a number that is not finite")
        table = {"rank": ranks} | {name: tensors[name].tolist() for name in _NUMBERS}
        table["kept"] = [int(kept) for kept in tensors["kept"].tolist()]
        return build(cls, {name: value for name, value in values.items() if name != "ranks"} | {"table": table})

    def _repr_html_(self) -> str:
        areas = {"CPR": self.cpr, "CMD": self.cmd}
        shown = "; ".join(f"{name} {a.value:.3f} [{a.low:.3f}, {a.high:.3f}], random {a.random:.3f}" for name, a in areas.items())
        return card("FaithfulnessCurve", f"{shown}; {self.n_examples} examples, {self.intervention}", self.table)


_NUMBERS = ("requested", "kept", "share", "faithfulness", "low", "high", "accuracy", "random", "random_low", "random_high")


def faithfulness_curve(
    model: HookedModel,
    readouts: Readouts,
    scores: EdgeScores,
    *,
    sizes: Sequence[float] = SIZES,
    prune: bool = True,
    n_random: int = 5,
    n_boot: int = N_BOOT,
    seed: int = 0,
    **settings: Unpack[RunSettings],
) -> FaithfulnessCurve:
    """Faithfulness of the circuits of `scores` over `sizes`, shares of the possible edges in (0, 1], in `model` on `readouts`.

    - `n_random`: random circuits per size, whose mean, 2.5th and 97.5th percentile show what chance gives.
    - `settings`: those of `run_circuit`.

    Give readouts of other prompts than those that were scored; on the same prompts, the curve flatters the scores.
    Cost: 2 · sizes · (1 + n_random) runs of a circuit. Raises ValueError where `run_circuit` does and on sizes outside (0, 1]; `NoGap` (a
    ValueError) where clean and base metric do not differ beyond chance.
    """
    sizes = sorted(sizes)
    if len(sizes) < 2 or not 0 < sizes[0] <= sizes[-1] <= 1:
        raise ValueError(f"sizes are {sizes}; give at least two shares of the edges in (0, 1]")
    check_given("faithfulness_curve", model, readouts)
    check_kind("faithfulness_curve", "scores", scores, EdgeScores, "the EdgeScores of all edges, not a circuit of them")
    check_draws(n_boot)
    # At size 1 every edge enters, those of score 0 too: that circuit is the whole model.
    circuits = [Circuit.from_scores(scores, fraction=size, by=rank, zeros=size == 1, prune=prune) for rank in RANKS for size in sizes]
    chance = [_random(circuit, n_random, seed) for circuit in circuits]
    edges = [circuit.edges for circuit in circuits] + [one for draws in chance for one in draws]
    runs = run_edges(model, readouts, scores.graph, edges, **settings)
    counts = draw_counts(readouts.n_examples, n_boot, seed)
    # Clean and base are the same in all runs, so the first one speaks for all.
    check_gap(runs[0], counts)
    own, rest = runs[: len(circuits)], iter(runs[len(circuits) :])
    # Where no edge can move, the only random circuit is the circuit itself.
    beside = [[next(rest) for _ in draws] or [run] for run, draws in zip(own, chance, strict=True)]
    table = pd.DataFrame([_row(run, others, counts) for run, others in zip(own, beside, strict=True)])
    table.insert(0, "rank", [rank for rank in RANKS for _ in sizes])
    table.insert(1, "requested", [*sizes] * len(RANKS))
    cpr, cmd = (_area(rank, own[i * len(sizes) :][: len(sizes)], table, counts) for i, rank in enumerate(RANKS))
    first = runs[0]
    ends = (first.mean(first.clean), first.mean(first.base))
    return FaithfulnessCurve(table, cpr, cmd, *ends, int((first.read > 0).sum()), first.intervention, first.metric)


def _random(circuit: Circuit, n_random: int, seed: int) -> list[Tensor]:
    """Edges of random circuits with the same profile; none where every cell of the circuit is full, so that no edge can move."""
    return random_edges(circuit, n_random, seed) if full_cell_share(circuit) < 1 else []


def _row(run: CircuitRun, chance: list[CircuitRun], counts: Tensor) -> dict[str, float]:
    spread = spread_of(run, recovered(run, counts))
    random = interval(recovered(other)[0].item() for other in chance)
    return {
        "kept": run.kept, "share": run.share, "faithfulness": recovered(run)[0].item(), "low": spread.low, "high": spread.high,
        "accuracy": share(run, run.circuit.first), "random": random.mean, "random_low": random.low, "random_high": random.high,
    }  # fmt: skip


def _area(rank: Rank, runs: list[CircuitRun], table: pd.DataFrame, counts: Tensor) -> Area:
    shares = torch.tensor([run.share for run in runs], dtype=torch.float64)
    random = torch.tensor(table.loc[table["rank"] == rank, "random"].tolist(), dtype=torch.float64)

    def area(faithfulness: Float[Tensor, "*draws size"]) -> Float[Tensor, "*draws"]:
        return torch.trapezoid(faithfulness if rank == "signed" else (1 - faithfulness).abs(), shares)

    value = area(torch.cat([recovered(run) for run in runs]))
    spread = spread_of(runs[0], area(torch.stack([recovered(run, counts) for run in runs], 1)))
    return Area(value.item(), spread.low, spread.high, area(random).item())
