"""Run circuits: what is left of a behaviour when every edge outside a circuit is patched.

Each batch of readouts runs once on its clean rows, once with every writer replaced, and once per circuit (`patching`). Cost per batch: two
forwards that all circuits share, then one forward per circuit, plus work that grows with its edges. Zero or means cost a third shared
forward, because no run of the model gives them. Processes that were launched together share the examples; each returns every outcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypedDict

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import Unpack

from hooked_diffusion.html import card
from hooked_diffusion.progress import progress_bar
from hooked_diffusion.threads import in_one_thread
from mechshift_tl.attribution.check import check_writers_sum
from mechshift_tl.attribution.metrics import Metric, MetricLike, resolve
from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.kinds import check_kind
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.evaluation.run_figure import draw_run
from mechshift_tl.graph import Graph, check_same_graph
from mechshift_tl.interventions.not_finite import locate_not_finite
from mechshift_tl.interventions.patching import ends, patched_logits
from mechshift_tl.interventions.replaced import Intervention, WriterMeans, check_intervention
from mechshift_tl.readouts import Batch, Readouts
from mechshift_tl.readouts.rows import check_given
from mechshift_tl.runs.processes import Processes
from mechshift_tl.runs.provenance import digest


class RunSettings(TypedDict, total=False):
    """The settings of `run_circuit`, which says what each one is; those left out have its defaults."""

    intervention: Intervention
    means: WriterMeans | None
    metric: MetricLike
    batch_tokens: int | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of one run, per example `(n_examples,)`.

    - `metric`: mean over the example's read positions, in the metric's unit; higher is better;
    - `first`: whether the answer ranks first at every read position; `above_foil`: whether its logit beats the foil's at every one.
    """

    metric: Float[Tensor, " n_examples"] = field(repr=False)
    first: Bool[Tensor, " n_examples"] = field(repr=False)
    above_foil: Bool[Tensor, " n_examples"] = field(repr=False)


@dataclass(frozen=True, eq=False)
class CircuitRun:
    """A circuit's run, with the two runs that it is compared with, on the same examples.

    - `circuit`: only the circuit's edges are live; `clean`: the model itself; `base`: no edge is live (for counterfactual patches, this is
      the corrupt run).
    - `read (n_examples,)`: positions read of each example, which is its weight in a mean.
    - `kept` of the `n_edges` possible edges were live; `intervention`, `metric`: how the others were patched, and what was measured.
    """

    circuit: Outcome
    clean: Outcome
    base: Outcome
    read: Int[Tensor, " n_examples"] = field(repr=False)
    kept: int
    n_edges: int
    intervention: str
    metric: str

    @property
    def share(self) -> float:
        """Kept edges as a fraction of those that can exist."""
        return self.kept / self.n_edges

    def mean(self, outcome: Outcome) -> float:
        """The metric of one of the runs, mean over all read positions, in the metric's unit; `EdgeScores` weighs examples the same way."""
        # In float64: sums over many prompts would lose digits in float32.
        return (outcome.metric.double() @ self.read.double() / self.read.sum()).item()

    def to_dataframe(self) -> pd.DataFrame:
        """One row per example that is read: example, read; the metric of circuit, clean and base; circuit_first, clean_first."""
        outcomes = {"circuit": self.circuit, "clean": self.clean, "base": self.base}
        columns = {name: one.metric.tolist() for name, one in outcomes.items()}
        columns |= {f"{name}_first": outcomes[name].first.tolist() for name in ("circuit", "clean")}
        frame = pd.DataFrame({"example": range(len(self.read)), "read": self.read.tolist(), **columns})
        return frame.query("read > 0").reset_index(drop=True)

    def figure(self) -> go.Figure:
        """Each example's metric under the circuit (y) over that of the whole model (x); crosses: no edge is live."""
        return draw_run(self.to_dataframe(), f"{self.kept:,} of {self.n_edges:,} edges", self.metric)

    def _repr_html_(self) -> str:
        means = ", ".join(f"{name} {self.mean(one):.3f}" for name, one in (("circuit", self.circuit), ("clean", self.clean)))
        text = f"{self.kept} of {self.n_edges} edges, {self.intervention}; {self.metric}: {means}, base {self.mean(self.base):.3f}"
        return card("CircuitRun", text, self.to_dataframe().head(10))


def run_circuit(
    model: HookedModel,
    readouts: Readouts,
    circuit: Circuit,
    *,
    intervention: Intervention = "counterfactual",
    means: WriterMeans | None = None,
    metric: MetricLike = "logit_diff",
    batch_tokens: int | None = None,
) -> CircuitRun:
    """Run `model` on `readouts` with every edge outside `circuit` patched.

    - `intervention`: what replaces a writer's output outside the circuit; the two "mean" ones need `means` (`interventions.writer_means`).
    - `metric`, `batch_tokens`: as `attribute` takes them.

    A circuit of one model runs in any other of the same graph. Raises ValueError on another graph, on unknown settings, and on means or
    readouts that do not fit the model; FloatingPointError when a metric is not finite. Cost: three forwards and what grows with the
    circuit's edges; several circuits share two of them (`run_circuits`).
    """
    return run_circuits(model, readouts, [circuit], intervention=intervention, means=means, metric=metric, batch_tokens=batch_tokens)[0]


def run_circuits(model: HookedModel, readouts: Readouts, circuits: Sequence[Circuit], **settings: Unpack[RunSettings]) -> list[CircuitRun]:
    """`run_circuit`, with its settings, for each of `circuits`, which share each batch's clean and base runs. Raises ValueError on none."""
    if not circuits:
        raise ValueError("run_circuits was given no circuit; give at least one")
    for circuit in circuits:
        check_kind("run_circuit", "circuit", circuit, Circuit, "a Circuit, such as Circuit.from_scores(scores)")
    for circuit in circuits[1:]:
        check_same_graph(circuits[0].graph, circuit.graph)
    return run_edges(model, readouts, circuits[0].graph, [circuit.edges for circuit in circuits], **settings)


def run_edges(
    model: HookedModel,
    readouts: Readouts,
    graph: Graph,
    circuits: Sequence[Bool[Tensor, "n_writers n_readers"]],
    *,
    intervention: Intervention = "counterfactual",
    means: WriterMeans | None = None,
    metric: MetricLike = "logit_diff",
    batch_tokens: int | None = None,
) -> list[CircuitRun]:
    """`run_circuits` for sets of edges, each a mask of the graph's shape. `graph` must be the model's. Raises ValueError as it does."""
    check_given("run_circuit", model, readouts)
    # Hooks belong to the model: a second thread would run under those of the first.
    with in_one_thread(model):
        function = resolve(metric)
        check_same_graph(graph, Graph.of(model, graph.kv))
        check_intervention(model, intervention, means, readouts.visible("clean"))
        check_writers_sum(model, next(iter(readouts.batches(1))).to(model.cfg.device))
        tokens = batch_tokens_for(model, "circuits", batch_tokens)
        processes = Processes.here()
        _check_same_work(processes, readouts, circuits, intervention, function)
        mine = processes.share(readouts.n_examples)
        rows = readouts.select(mine)
        # Two more than circuits: the clean run and the base.
        tallies = [Tally(readouts, rows, mine, function) for _ in range(len(circuits) + 2)]
        batches = (batch.to(model.cfg.device).narrowed(model) for batch in rows.batches(tokens))
        # A generator: a batch runs when `in_step` asks for it.
        work = (done for batch in batches for done in _run_batch(model, batch, graph, circuits, intervention, means, tallies))
        total, label = len(rows) * len(tallies), f"run {len(circuits)} circuits"
        with progress_bar(total, label, "row", shown=processes.is_first) as bar:
            for done in processes.in_step(work):
                bar.update(done)
    # In the order in which `_run_batch` yields them.
    clean, empty, *runs = (tally.outcome(processes) for tally in tallies)
    return [
        CircuitRun(run, clean, empty, tallies[0].read, int(edges.sum()), graph.n_edges, intervention, function.name)
        for edges, run in zip(circuits, runs, strict=True)
    ]


def _run_batch(
    model: HookedModel, batch: Batch, graph: Graph, circuits: Sequence[Tensor], intervention: Intervention, means: WriterMeans | None,
    tallies: Sequence[Tally],
) -> Iterator[int]:  # fmt: skip
    """Run one batch clean, at its base and with every circuit, and add each run to its tally; yields how many rows each run had.

    Raises FloatingPointError, naming layer and hook, where a metric is not finite.
    """
    try:
        clean, base, empty = ends(model, batch, graph, intervention, means)
        # A generator: the logits of one circuit are added up before the next one runs.
        runs = (patched_logits(model, batch, graph, edges, base) for edges in circuits)
        for logits, tally in zip(chain((clean, empty), runs), tallies, strict=True):
            tally.add(batch, logits, clean)
            yield len(batch)
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}; {locate_not_finite(model, batch)}") from error


def _check_same_work(processes: Processes, readouts: Readouts, circuits: Sequence[Tensor], intervention: str, metric: Metric) -> None:
    """Raise ValueError when processes that were launched together run different circuits, or on different rows."""
    if processes.count > 1:
        edges = [(str(i), one) for i, one in enumerate(circuits)]
        if len(set(processes.gather((digest([*readouts.tensors().items(), *edges]), intervention, metric.identity)))) > 1:
            raise ValueError(
                "run_circuits: processes launched together were given different work; use `with mechshift_tl.runs.processes.alone()`"
            )


class Tally:
    """Adds up one run's batches per example of `readouts`, in float64. `rows` are the examples `mine`, which this process runs."""

    def __init__(self, readouts: Readouts, rows: Readouts, mine: range, metric: Metric) -> None:
        n = readouts.n_examples
        self.metric, self.example = metric, torch.tensor(mine, dtype=torch.long)[rows.example]
        self.sums = torch.zeros(n, dtype=torch.float64)
        self.wrong, self.below = torch.zeros(2, n, dtype=torch.long)
        self.read = torch.zeros(n, dtype=torch.long).index_add(0, readouts.example, readouts.n_read)

    def add(self, batch: Batch, logits: Float[Tensor, "b k d_vocab"], clean: Float[Tensor, "b k d_vocab"]) -> None:
        """Add one batch's logits; `clean` are those of its clean run."""
        values = self.metric.values(logits, batch, clean)
        answers, foils = (logits.gather(2, ids[..., None])[..., 0] for ids in (batch.answer_ids, batch.foil_ids))
        example = self.example[batch.index]
        self.sums.index_add_(0, example, batch.k * values.double().cpu())
        # Ties: an answer that shares the highest logit ranks first, but one that equals the foil is not above it.
        self.wrong.index_add_(0, example, (answers < logits.amax(2)).sum(1).cpu())
        self.below.index_add_(0, example, (answers <= foils).sum(1).cpu())

    def outcome(self, processes: Processes) -> Outcome:
        """The outcome per example, over all processes. An example that is read nowhere counts as 0 and has no weight."""
        sums, wrong, below = (processes.add_up(one) for one in (self.sums, self.wrong, self.below))
        read = self.read > 0
        # An example that is read nowhere would divide 0 by 0.
        return Outcome((sums / self.read.clamp(min=1)).float(), read & (wrong == 0), read & (below == 0))
