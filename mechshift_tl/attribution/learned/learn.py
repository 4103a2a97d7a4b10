"""Learned masks: which edges, or nodes, make the smallest circuits that behave as the model does, found by gradient descent.

1. Every edge has a score. At a size k, its mask is σ((s − τ) / T), where the masks of all edges sum to k (`soft_top_k`).
2. Each reader sees a mixture of live and replaced outputs by these masks (`interventions.mixing`): one forward, and one backward.
3. Adam lowers the loss, by default (1 − faithfulness)² of each prompt. k is drawn anew for every row at every step: one run ranks for all
   sizes at once. With one fixed k it looks for the circuit of that size.
4. It starts from the ranks of other scores, such as those of EAP-IG.

The masks of many edges are learned together. So an edge that works only beside another is found, which a score of single edges cannot do.
After MAttr (learned ranking, all sizes: arXiv 2609.25518) and edge pruning (one size: Bhaskar et al., arXiv 2406.16778).

Cost: two forwards of all rows, and per step a forward and a backward of one batch whose every reader has a residual of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict, overload

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from hooked_diffusion.gradients import frozen
from hooked_diffusion.threads import in_one_thread
from mechshift_tl.attribution.check import check_writers_sum
from mechshift_tl.attribution.learned.descent import Descent
from mechshift_tl.attribution.learned.held import Batches
from mechshift_tl.attribution.learned.settings import Loss, MaskSettings, Objective
from mechshift_tl.attribution.learned.soft_top_k import by_rank
from mechshift_tl.attribution.metrics import MetricLike, resolve
from mechshift_tl.attribution.scores import EdgeScores, NodeScores
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.bridge.weights import named_weights
from mechshift_tl.graph import KV, Graph, check_same_graph
from mechshift_tl.interventions.replaced import Intervention, WriterMeans, check_intervention
from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts.rows import check_given
from mechshift_tl.runs.journal import Journal
from mechshift_tl.runs.processes import Processes
from mechshift_tl.runs.provenance import digest, provenance

#: Bytes that a step may keep: for every token, the residual of each reader and two rows for each writer.
MOST_BYTES = 1024 * 2**20


class Learning(TypedDict, total=False):
    """The settings of the descent, which `MaskSettings` explains."""

    steps: int
    rows: int
    learning_rate: float
    temperature: float
    objective: Objective
    loss: Loss
    smallest: float
    largest: float
    spread: float
    seed: int


@overload
def learn_masks(
    model: HookedModel, readouts: Readouts, *, start: EdgeScores | None = ..., level: Literal["edges"] = ..., kv: KV = ...,
    metric: MetricLike = ..., intervention: Intervention = ..., means: WriterMeans | None = ..., journal: Path | None = ...,
    **learning: Unpack[Learning],
) -> EdgeScores: ...  # fmt: skip
@overload
def learn_masks(
    model: HookedModel, readouts: Readouts, *, start: NodeScores | None = ..., level: Literal["nodes"], kv: KV = ...,
    metric: MetricLike = ..., intervention: Intervention = ..., means: WriterMeans | None = ..., journal: Path | None = ...,
    **learning: Unpack[Learning],
) -> NodeScores: ...  # fmt: skip
def learn_masks(
    model: HookedModel,
    readouts: Readouts,
    *,
    start: EdgeScores | NodeScores | None = None,
    level: Literal["edges", "nodes"] = "edges",
    kv: KV = "grouped",
    metric: MetricLike = "logit_diff",
    intervention: Intervention = "counterfactual",
    means: WriterMeans | None = None,
    journal: Path | None = None,
    **learning: Unpack[Learning],
) -> EdgeScores | NodeScores:
    """A learned ranking of every edge `(n_writers, n_readers)` or node `(n_writers,)` of `model`, as scores in (0, 1].

    A score is the share of circuit sizes, on a log scale from one edge to all, at which the edge belongs to the circuit: 1 for the first
    edge. It says how soon an edge is needed, not how much it adds, and it has no sign.

    - `start`: scores whose ranks by |score| the masks start from; None starts with all edges alike, and needs more steps.
    - `level`: "edges", or "nodes": all edges out of a writer then share one mask.
    - `kv`, `metric`, `intervention`, `means`: as `attribute` takes them.
    - `journal`: a folder that keeps the state every 25 steps, so that a killed call made again goes on from there and ends bit-equal.
    - `learning`: steps, rows, learning_rate, temperature, objective, loss, smallest, largest, spread and seed of `MaskSettings`.

    Processes launched together all do the same work. Raises ValueError on settings out of their ranges, a start of another graph, and where
    `run_circuit` does; FloatingPointError, naming layer and hook, when a run is not finite.
    """
    settings, chosen = MaskSettings(**learning), resolve(metric)
    check_given("learn_masks", model, readouts)
    graph = Graph.of(model, kv)
    strength = _strength(start, graph, level)
    n_masked = graph.n_edges if level == "edges" else len(graph.writers)
    if settings.objective != "all sizes" and settings.objective >= n_masked:
        raise ValueError(f"learn_masks: objective is {settings.objective}, but there are {n_masked} {level}; give a smaller size")
    check_intervention(model, intervention, means, readouts.visible("clean"))
    with in_one_thread(model):
        check_writers_sum(model, next(iter(readouts.batches(1))).to(model.cfg.device))
        made_from = provenance(model, readouts.info) | {"method": "learned", "learning": settings.to_dict()}
        kept = _journal(journal, model, readouts, made_from | {"level": level, "kv": kv, "metric": chosen.identity}, strength, means)
        with frozen(model):
            batches = Batches(model, graph, readouts, chosen, _tokens(model, graph, readouts, settings.rows), intervention, means)
            first = torch.zeros(n_masked) if strength is None else _spread(strength, settings.spread)
            learned = Descent(batches, settings, first, nodes=level == "nodes").run(kept)
    return _scores(learned, batches, readouts, made_from, nodes=level == "nodes")


def _strength(start: EdgeScores | NodeScores | None, graph: Graph, level: str) -> Float[Tensor, " n_masked"] | None:
    """|score| of what is masked. Raises ValueError where the start is of another graph or level."""
    if start is None:
        return None
    check_same_graph(graph, start.graph)
    if start.matrix.shape != (graph.shape if level == "edges" else graph.shape[:1]):
        raise ValueError(f"learn_masks: start holds scores {tuple(start.matrix.shape)}, which are not of {level}; give scores of {level}")
    if not start.matrix.isfinite().all():
        raise ValueError("learn_masks: start holds scores that are not finite; attribute again with a metric that is finite")
    return (start.matrix[graph.possible] if level == "edges" else start.matrix).abs()


def _spread(strength: Float[Tensor, " m"], spread: float) -> Float[Tensor, " m"]:
    """−spread · log rank: as far apart as sizes are on a log scale."""
    return (by_rank(strength) - 1) * spread * torch.tensor(len(strength) + 1.0).log()


def _tokens(model: HookedModel, graph: Graph, readouts: Readouts, rows: int) -> int:
    """Tokens per batch: those of so many rows, as far as memory holds their mixtures."""
    writers, readers = graph.shape
    most = MOST_BYTES // (4 * model.cfg.d_model * (readers + 2 * writers))
    return max(1, min(rows * readouts.clean.shape[1], most))


def _journal(
    folder: Path | None, model: HookedModel, readouts: Readouts, work: dict[str, object], start: Tensor | None, means: WriterMeans | None
) -> Journal | None:
    if folder is None:
        return None
    parts = [*readouts.tensors().items(), *([] if start is None else [("start", start)])]
    parts += [] if means is None else [(name, getattr(means, name)) for name in ("input", "z", "mlp", "count")]
    here = Processes.here()
    work = work | {"rows": digest(parts), "weights": digest(named_weights(model))}
    return Journal(Path(folder) / f"{here.rank}-of-{here.count}", work)


def _scores(
    learned: Float[Tensor, " n_masked"], batches: Batches, readouts: Readouts, made_from: dict[str, object], *, nodes: bool
) -> EdgeScores | NodeScores:
    graph, ranked = batches.graph, by_rank(learned)
    matrix = ranked if nodes else torch.zeros(graph.shape).masked_scatter(graph.possible, ranked)
    clean, corrupt = (batches.ends.sum(1) / batches.n_read).tolist()
    fields: dict[str, Any] = {
        "matrix": matrix, "graph": graph, "per_step": matrix[None], "steps": [0], "n_read": [batches.n_read], "clean": clean,
        "corrupt": corrupt, "n_examples": readouts.n_examples, "provenance": made_from, "ends_per_example": batches.ends.float(),
        "read_per_example": torch.zeros(readouts.n_examples, dtype=torch.long).index_add(0, readouts.example, readouts.n_read),
    }  # fmt: skip
    return NodeScores(**fields) if nodes else EdgeScores(**fields)
