"""Evaluate a circuit: more than one number, in one table.

- *sufficiency*: faithfulness when only the circuit is live and everything outside it is replaced.
- *necessity*: 1 − faithfulness of the complement: what is lost when the circuit is replaced and all else is live. 1 = everything.
- *accuracy*: share of examples, in [0, 1], whose answer ranks first at every read position when only the circuit is live.
- *minimality*: each part of the circuit is left out in turn; this is the least faithfulness lost. At 0 or below, some part was not needed.
  A part is a component (left out by leaving out the edges that start at it), a single edge, or a tenth of the edges by |score|. The least
  of many losses lies below each of them by chance, so look at the parts' own intervals to say which were not needed.
- *stability*: edge Jaccard with the circuits of resampled prompts (`circuits.overlap`); it needs scores kept per example.
- *generalisation*: sufficiency on each of the caller's other readouts, such as held-out templates or another corruption.

The floor of a row is the same statistic for random circuits with the circuit's own layer profile, mean over draws: what size and depth
alone give. Minimality's floor is the circuit's faithfulness divided by the number of parts: what each part would carry if all carried the
same and their losses added up. Stability's floor is the Jaccard expected of two random circuits with the profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar, Literal, get_args

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import Unpack

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.bridge.kinds import check_kind
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.overlap import expected_jaccard, stability
from mechshift_tl.circuits.random import random_edges
from mechshift_tl.evaluation.faithfulness import N_BOOT, check_gap, recovered, spread_of
from mechshift_tl.evaluation.run import CircuitRun, RunSettings, run_edges
from mechshift_tl.graph import check_same_graph
from mechshift_tl.intervals import check_draws, draw_counts
from mechshift_tl.plotting import COLOURS, QUIET, style
from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts.rows import check_given
from mechshift_tl.runs.provenance import check_same_origin

#: The parts that are left out in turn: see *minimality*.
Parts = Literal["components", "edges", "tenths"]
OnDraws = Callable[[Tensor | None], Float[Tensor, " draws"]]


@dataclass(frozen=True)
class Check:
    """One row of the table.

    `value`, its 95 % interval `low` … `high` over examples (for stability, over resamples), the number `n` of examples, and the floor; NaN
    where there is none.
    """

    check: str
    value: float
    low: float
    high: float
    n: int
    floor: float


@dataclass(frozen=True, eq=False)
class CircuitEvaluation(Artefact):
    """All checks of one circuit: see the module docstring.

    - `checks`: one per row of the table.
    - `parts`: one row per part of the circuit, strongest first: part (`a3.h1`, `input → m0`, or the tenth's number), edges, and the loss of
      faithfulness without it, low, high.
    - `kept` of `n_edges` edges, `intervention`, `metric`.
    """

    KIND: ClassVar[str] = "circuit evaluation"

    checks: tuple[Check, ...]
    parts: pd.DataFrame = field(repr=False)
    kept: int
    n_edges: int
    intervention: str
    metric: str

    def __getitem__(self, name: str) -> Check:
        """The check of that name. Raises KeyError naming those there are."""
        for check in self.checks:
            if check.check == name:
                return check
        raise KeyError(f"{name!r} was not checked; these were: {', '.join(check.check for check in self.checks)}")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per check: check, value, low, high, n, floor."""
        return pd.DataFrame([asdict(check) for check in self.checks])

    def figure(self) -> go.Figure:
        """Every check's value with its interval, and its floor as an open circle."""

        names, values = [c.check for c in self.checks], [c.value for c in self.checks]
        above, below = [c.high - c.value for c in self.checks], [c.value - c.low for c in self.checks]
        bars = {"array": above, "arrayminus": below, "symmetric": False}
        figure = go.Figure()
        figure.add_scatter(x=values, y=names, error_x=bars, mode="markers", name="circuit", marker={"color": COLOURS["arm"], "size": 9})
        open_circle = {"color": QUIET, "size": 10, "symbol": "circle-open"}
        figure.add_scatter(x=[c.floor for c in self.checks], y=names, mode="markers", name="floor", marker=open_circle)
        figure.update_yaxes(autorange="reversed")
        return style(figure, 120 + 36 * len(names))

    def _repr_html_(self) -> str:
        return card("CircuitEvaluation", f"{self.kept} of {self.n_edges} edges, {self.metric}, {self.intervention}", self.to_dataframe())


def evaluate_circuit(
    model: HookedModel,
    readouts: Readouts,
    circuit: Circuit,
    *,
    scores: EdgeScores | None = None,
    others: Mapping[str, Readouts] | None = None,
    parts: Parts = "components",
    n_random: int = 10,
    n_resamples: int = 100,
    n_boot: int = N_BOOT,
    seed: int = 0,
    **settings: Unpack[RunSettings],
) -> CircuitEvaluation:
    """Every check of `circuit` in `model` on `readouts`; give readouts of prompts that the circuit was not selected on.

    - `scores`: the scores that the circuit was selected from. Without them, or without their per-example parts, stability is left out.
    - `others`: further readouts, such as held-out templates or other corruptions, by the name that their row gets.
    - `parts`: what minimality leaves out in turn: "components", single "edges" or "tenths" of the edges.
    - `n_random`: random circuits behind the floors; `n_resamples`: resampled circuits; `n_boot`: draws of an interval.
    - `settings`: those of `run_circuit`, which also says what it raises.

    Cost: 2 + 2 · n_random runs of a circuit, where a complement costs as much as a large circuit; one run per part; 1 + n_random runs on
    each of `others`. Raises ValueError on an empty circuit, unknown parts and scores of another graph; `OtherOrigin` (a ValueError) on
    scores of another model or task; `NoGap` (a ValueError) where clean and base metric do not differ beyond chance.
    """
    check_given("evaluate_circuit", model, readouts)
    check_kind("evaluate_circuit", "circuit", circuit, Circuit, "a Circuit, such as Circuit.from_scores(scores)")
    if scores is not None:
        check_kind("evaluate_circuit", "scores", scores, EdgeScores, "the EdgeScores that the circuit was cut from")
    check_draws(n_boot)
    check_draws(n_resamples, "n_resamples")
    if parts not in get_args(Parts):
        raise ValueError(f"evaluate_circuit: parts is {parts!r}; choose one of {', '.join(get_args(Parts))}")
    if not circuit.kept:
        raise ValueError("a circuit of 0 edges cannot be evaluated; select at least 1")
    if scores is not None:
        check_same_graph(circuit.graph, scores.graph)
        check_same_origin({"the circuit": circuit.provenance, "the scores": scores.provenance})
    random = random_edges(circuit, n_random, seed)
    counts = draw_counts(readouts.n_examples, n_boot, seed)
    checks, losses, run = _on_its_readouts(model, readouts, circuit, random, _parts(circuit, parts), counts, settings)
    if scores is not None and scores.per_example is not None:
        spread = stability(circuit, scores, n_boot=n_resamples, seed=seed)
        checks.append(Check("stability", spread.mean, spread.low, spread.high, scores.n_examples, expected_jaccard(circuit, circuit)))
    for name, other in (others or {}).items():
        drawn = draw_counts(other.n_examples, n_boot, seed)
        inside, *chance = run_edges(model, other, circuit.graph, [circuit.edges, *random], **settings)
        check_gap(inside, drawn, f"the readouts {name!r}")
        checks.append(_check(f"generalisation: {name}", inside, _faithfulness(inside), drawn, [_faithfulness(one) for one in chance]))
    return CircuitEvaluation(tuple(checks), losses, circuit.kept, circuit.graph.n_edges, run.intervention, run.metric)


def _on_its_readouts(
    model: HookedModel, readouts: Readouts, circuit: Circuit, random: list[Tensor], parts: Mapping[str, Tensor], counts: Tensor,
    settings: RunSettings,
) -> tuple[list[Check], pd.DataFrame, CircuitRun]:  # fmt: skip
    """Sufficiency, necessity, accuracy and minimality, the parts' losses, and the circuit's run."""
    # For each random circuit its own complement, which is the floor of necessity.
    complement = [circuit.graph.possible & ~edges for edges in (circuit.edges, *random)]
    # Not pruned again: only the part itself is missing.
    smaller = [circuit.edges & ~part for part in parts.values()]
    # One call, so that all share each batch's clean and base runs.
    runs = run_edges(model, readouts, circuit.graph, [circuit.edges, *random, *complement, *smaller], **settings)
    check_gap(runs[0], counts)
    n = 1 + len(random)
    (inside, *chance_in), (outside, *chance_out), without = runs[:n], runs[n : 2 * n], runs[2 * n :]
    checks = [
        _check("sufficiency", inside, _faithfulness(inside), counts, [_faithfulness(run) for run in chance_in]),
        _check("necessity", inside, _lost(outside), counts, [_lost(run) for run in chance_out]),
        _check("accuracy", inside, _accuracy(inside), counts, [_accuracy(run) for run in chance_in]),
    ]
    losses = [_loss(inside, run) for run in without]
    if losses:
        least = _check("minimality", inside, _least(losses), counts)
        checks.append(replace(least, floor=recovered(inside)[0].item() / len(losses)))
    return checks, _table(parts, [_check(name, inside, loss, counts) for name, loss in zip(parts, losses, strict=True)]), inside


def _table(parts: Mapping[str, Tensor], rows: Sequence[Check]) -> pd.DataFrame:
    columns = {"loss": [row.value for row in rows], "low": [row.low for row in rows], "high": [row.high for row in rows]}
    return pd.DataFrame({"part": list(parts), "edges": [int(part.sum()) for part in parts.values()], **columns})


def _parts(circuit: Circuit, kind: Parts) -> dict[str, Bool[Tensor, "n_writers n_readers"]]:
    """Masks of the edges that are left out together, by the name of the part, strongest first."""
    if kind == "components":
        writers = (1 + circuit.component_scores().argsort(descending=True, stable=True)).tolist()  # the first writer is the input
        # A component without an edge out of it has nothing to leave out.
        return {circuit.graph.writers[u]: _edges_out_of(u, circuit.edges) for u in writers if circuit.edges[u].any()}
    index = circuit.edges.flatten().nonzero()[:, 0]
    order = index[circuit.scores.flatten()[index].abs().argsort(descending=True, stable=True)]
    # With fewer than ten edges, each is a part of its own.
    groups = order.split(1) if kind == "edges" else order.tensor_split(min(10, len(order)))
    masks = [torch.zeros_like(circuit.edges).view(-1).index_fill(0, piece, True).view_as(circuit.edges) for piece in groups]
    names = [_edge(circuit, int(piece)) if kind == "edges" else str(i) for i, piece in enumerate(groups, 1)]
    return dict(zip(names, masks, strict=True))


def _edges_out_of(writer: int, edges: Bool[Tensor, "n_writers n_readers"]) -> Bool[Tensor, "n_writers n_readers"]:
    mine = torch.zeros_like(edges)
    mine[writer] = edges[writer]
    return mine


def _edge(circuit: Circuit, flat: int) -> str:
    writer, reader = divmod(flat, len(circuit.graph.readers))
    return f"{circuit.graph.writers[writer]} → {circuit.graph.readers[reader]}"


def _check(name: str, run: CircuitRun, statistic: OnDraws, counts: Tensor, chance: Sequence[OnDraws] = ()) -> Check:
    """A statistic's value, its interval over the draws `counts`, and, as its floor, its mean over random circuits."""
    spread = spread_of(run, statistic(counts))
    floor = sum(one(None)[0].item() for one in chance) / len(chance) if chance else float("nan")
    return Check(name, statistic(None)[0].item(), spread.low, spread.high, int((run.read > 0).sum()), floor)


def _faithfulness(run: CircuitRun) -> OnDraws:
    return lambda counts: recovered(run, counts)


def _lost(outside: CircuitRun) -> OnDraws:
    return lambda counts: 1 - recovered(outside, counts)


def _loss(run: CircuitRun, without: CircuitRun) -> OnDraws:
    return lambda counts: recovered(run, counts) - recovered(without, counts)


def _least(losses: Sequence[OnDraws]) -> OnDraws:
    # The least on every draw anew: which part is least may change from draw to draw.
    return lambda counts: torch.stack([loss(counts) for loss in losses]).amin(0)


def _accuracy(run: CircuitRun) -> OnDraws:
    def accuracy(counts: Tensor | None) -> Tensor:
        read = (run.read > 0).double()
        counts = torch.ones(1, len(read), dtype=torch.float64) if counts is None else counts
        return counts @ (run.circuit.first * read) / (counts @ read)

    return accuracy
