"""Attribution: how much of a behaviour every edge, node or neuron carries, from gradients along a path between a corrupt and a clean run.

    score(u → v) = Σ_batch,pos ⟨Δu, ḡ_v⟩ / n          positive = the edge supports the behaviour

1. Per batch, both ends run once (`interventions`): Δu is writer u's clean − corrupt output.
2. The path is walked (`path`, `gradients`): at each point a forward and, per metric, an activation-only backward.
3. ḡ_v is gathered per reader (`readers`) and met with Δu (`scoring`); nodes and neurons meet their own gradient (`nodes`).
4. Sums over read positions are pooled over batches and divided once (`totals`).

Cost per batch: two forwards, then `ig_steps` forwards with activation-only backwards; along the activations' path as much again for each
layer's heads and each MLP. Linear in rows and in `ig_steps`. Exact patching takes no gradients: `exact`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from hooked_diffusion.gradients import frozen
from mechshift_tl.attribution.check import check_neurons, check_readers_sum, check_writers_sum, locate_not_finite
from mechshift_tl.attribution.exact import check_edges, patched_scores
from mechshift_tl.attribution.gradients import Source, sources, walk
from mechshift_tl.attribution.hooks import EMBED, inject
from mechshift_tl.attribution.metrics import Metric, resolve_all
from mechshift_tl.attribution.nodes import neuron_sites, node_scores, node_sites
from mechshift_tl.attribution.path import DEFAULT_STEPS, INTEGRATED, Method, Points, Rule, path_points
from mechshift_tl.attribution.readers import ReaderPath
from mechshift_tl.attribution.scores import EdgeScores, NodeScores
from mechshift_tl.attribution.scoring import Pieces, edge_scores
from mechshift_tl.attribution.sweep import sweep
from mechshift_tl.attribution.totals import Keep, Part, Totals
from mechshift_tl.graph import KV, Graph
from mechshift_tl.interventions import Intervention, WriterMeans, WriterOutputs, check_intervention, replaced, run_both_sides, run_writers
from mechshift_tl.provenance import digest, provenance
from mechshift_tl.readouts import Batch, Readouts

Of = Literal["edges", "nodes", "neurons"]
#: Default bound on what one batch keeps: its activations and what the path adds to them. `batch_tokens` follows from it.
ACTIVATION_BYTES = 2**30


def attribute(
    model: Any,
    readouts: Readouts,
    *,
    method: Method = "EAP-IG-inputs",
    of: Of = "edges",
    ig_steps: int | None = None,
    rule: Rule = "midpoint",
    kv: KV = "grouped",
    metric: Any = "logit_diff",
    intervention: Intervention = "counterfactual",
    means: WriterMeans | None = None,
    edges: Bool[Tensor, "n_writers n_readers"] | None = None,
    per_position: bool = False,
    batch_tokens: int | None = None,
    keep_per_example: Keep = False,
    journal: Path | None = None,
) -> Any:
    """Scores of every edge `(n_writers, n_readers)`, node `(n_writers,)` or neuron `(n_layers · d_mlp,)` of `model` on `readouts`.

    Returns `EdgeScores`, or `NodeScores` for nodes and neurons; a dict of them by name when given several metrics.

    - `method`: "EAP-IG-inputs", "EAP", "EAP-IG-activations", "clean-corrupted" (the mean of both ends' gradients), or "exact" patching.
    - `ig_steps`, `rule`: points on an integrated path (default 5, midpoint; `path.quadrature`); "left" is the reference's grid.
    - `of`: "edges", "nodes" (input, heads, MLPs) or "neurons" (of the MLPs).
    - `kv`: K/V readers per KV head ("grouped") or per query head ("ungrouped", as the paper counts edges).
    - `metric`: a name or callable of `metrics`; several, in one sweep, give a dict by name.
    - `intervention`: what a writer's output is held against: its "counterfactual" on the corrupt row, "zero", or its "mean" or
      "mean_positional" over other prompts (`means`, see `interventions`); the path then starts at that embedding.
    - `edges`: which edges exact patching measures, by default all that can exist; the others score 0.
    - `per_position`: keep also the share of each of the readouts' named spans (exact patching: the effect of patching that span alone).
    - `batch_tokens`: tokens per batch, at least one row; by default what keeps a batch's activations within 1 GiB.
    - `keep_per_example`: True keeps each example's own scores, for intervals over prompts: 4 · examples · scores bytes, at most 2 GiB;
      "moments" streams what standard errors need.
    - `journal`: a folder that keeps every finished batch, so that a killed call made again goes on from there and ends bit-equal
      (`journal`; a batch takes 4 · scores bytes, or that per row under `keep_per_example`). Delete it when the scores are saved.

    Processes launched together (`accelerate launch`, `torchrun`) share the examples and all return the whole result. A batch that memory
    cannot hold is run in halves, with a warning.

    `model` is a `HookedDiffusionTransformer` or any TransformerLens bridge with the usual hooks. Scores do not depend on batching.
    Raises ValueError on unknown or contradictory settings, on readouts that do not fit the model, on a metric without a gradient, on an
    architecture whose writers or readers are not known; FloatingPointError, naming layer and hook, when a run or a metric is not finite;
    MemoryError when one row alone does not fit; OSError when the journal cannot be written.
    """
    steps = _steps(method, ig_steps)
    engine = _Engine(
        model, Graph.of(model, kv), of, method, path_points(method, rule, steps), resolve_all(metric), intervention, means,
        len(readouts.spans) if per_position else None, bool(keep_per_example), edges, batch_tokens,
    )  # fmt: skip
    engine.check(readouts)
    integral = {"ig_steps": steps, "rule": rule} if method in INTEGRATED else {}
    settings = {"method": method, "of": of, **integral, "kv": kv, "intervention": intervention}
    made_from = provenance(model, readouts)
    work = {**settings, "keep_per_example": keep_per_example, **made_from, **engine.digests(readouts, weights=journal is not None)}
    with frozen(model):
        totals = sweep(
            engine.parts, readouts, lambda rows: [Totals(rows, engine.shape, keep_per_example) for _ in engine.metrics],
            engine.tokens, label=f"attribute {of}", journal=None if journal is None else Path(journal), work=work,
        )  # fmt: skip
    kind = EdgeScores if of == "edges" else NodeScores
    results = {
        one.name: kind(
            graph=engine.graph, settings={**settings, "metric": one.name}, provenance=made_from, **total.fields(per_position=per_position)
        )
        for one, total in zip(engine.metrics, totals, strict=True)
    }
    return results if isinstance(metric, Sequence) and not isinstance(metric, str) else next(iter(results.values()))


def _steps(method: str, ig_steps: int | None) -> int:
    if ig_steps is not None and method not in INTEGRATED:
        raise ValueError(f"attribute: method {method!r} takes no ig_steps (got {ig_steps}); leave it out, or choose an EAP-IG method")
    return DEFAULT_STEPS if ig_steps is None else ig_steps


@dataclass(frozen=True)
class _Engine:
    """One attribution's settings, and what it makes of a batch."""

    model: Any
    graph: Graph
    of: Of
    method: Method
    points: Points
    metrics: list[Metric]
    intervention: Intervention
    means: WriterMeans | None
    n_spans: int | None
    per_row: bool
    edges: Bool[Tensor, "n_writers n_readers"] | None
    batch_tokens: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one set of scores."""
        if self.of == "edges":
            return len(self.graph.writers), len(self.graph.readers)
        return (len(self.graph.writers),) if self.of == "nodes" else (self.graph.n_layers * self.model.cfg.d_mlp,)

    @property
    def tokens(self) -> int:
        """Tokens per batch: as asked, or of which a batch keeps about `ACTIVATION_BYTES`."""
        if self.batch_tokens:
            return self.batch_tokens
        cfg = self.model.cfg
        per_layer = (16 + len(self.points)) * cfg.d_model + 4 * (getattr(cfg, "d_mlp", None) or 4 * cfg.d_model)
        return max(1, ACTIVATION_BYTES // (4 * cfg.n_layers * per_layer))

    def check(self, readouts: Readouts) -> None:
        """Everything that can be wrong is said before any long work."""
        if self.of not in ("edges", "nodes", "neurons"):
            raise ValueError(f"attribute: of is {self.of!r}; choose 'edges', 'nodes' or 'neurons'")
        if self.n_spans == 0:
            raise ValueError("attribute: per_position=True needs readouts with named spans; give them as Readouts.from_tokens(spans=…)")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"attribute: batch_tokens must be at least 1, got {self.batch_tokens}; leave it out to be chosen")
        if self.of == "neurons" and self.intervention.startswith("mean"):
            raise ValueError(f"attribute: neurons have no means; choose 'counterfactual' or 'zero', not {self.intervention!r}")
        if self.method != "exact" and all(alpha == 1 for alpha, _ in self.points):
            for metric in self.metrics:
                if metric.needs_clean:
                    raise ValueError(
                        f"attribute: {metric.name!r} has no gradient at the clean run, the only point that EAP takes; use EAP-IG"
                    )
        if self.edges is not None:
            check_edges(self.edges, self.graph, self.method, self.of)
        readouts.check(self.model)
        visible = (readouts.clean >= 0) if readouts.clean_mask is None else readouts.clean_mask
        check_intervention(self.model, self.intervention, self.means, visible)
        row = next(iter(readouts.batches(1))).to(self.model.cfg.device)
        check_writers_sum(self.model, row)
        if self.of == "neurons":
            check_neurons(self.model, row)
        if self.of == "edges" and self.method != "exact":
            check_readers_sum(self.model, row, self.graph)

    def digests(self, readouts: Readouts, *, weights: bool) -> dict[str, Any]:
        """What tells this attribution from another of the same settings; the weights' digest reads all of them."""
        names = [metric.name for metric in self.metrics]
        found: dict[str, Any] = {"metrics": names, "spans": self.n_spans, "batch_tokens": self.tokens}
        found["rows"] = digest(readouts.tensors().items())
        if self.means is not None:
            found["means"] = digest((name, getattr(self.means, name)) for name in ("input", "z", "mlp", "count"))
        if self.edges is not None:
            found["edges"] = digest([("edges", self.edges)])
        return found | ({"weights": digest(self.model.named_parameters())} if weights else {})

    def parts(self, batch: Batch) -> list[Part]:
        """One part per metric. Raises FloatingPointError naming where a run stopped being finite."""
        batch = batch.to(self.model.cfg.device)
        try:
            parts = self._parts(batch)
            if not all(part.scores.isfinite().all() for part in parts):
                raise FloatingPointError(f"{self.of} scores are not finite")
            return parts
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; {locate_not_finite(self.model, batch)}") from error

    def _parts(self, batch: Batch) -> list[Part]:
        (clean, logits), (corrupt, corrupt_logits) = self._ends(batch)
        scores = self._edges(batch, clean, corrupt, logits) if self.of == "edges" else self._nodes(batch, clean, corrupt, logits)
        ends = ([metric.values(one, batch, logits).cpu() for one in (logits, corrupt_logits)] for metric in self.metrics)
        return [Part(one.cpu(), *end) for one, end in zip(scores, ends, strict=True)]

    @torch.no_grad()
    def _ends(self, batch: Batch) -> tuple[tuple[WriterOutputs, Tensor], tuple[WriterOutputs, Tensor]]:
        """Both ends of the path: the writers' outputs and the logits `(b, k, d_vocab)`, clean and what clean is held against."""
        if self.intervention == "counterfactual":
            return run_both_sides(self.model, batch)
        outputs = replaced(self.model, batch, self.intervention, self.means)
        with self.model.hooks(fwd_hooks=inject(EMBED, {EMBED: outputs.input})):
            corrupt = outputs, batch.logits(self.model)
        return run_writers(self.model, batch, "clean"), corrupt

    def _edges(self, batch: Batch, clean: WriterOutputs, corrupt: WriterOutputs, logits: Tensor) -> list[Tensor]:
        pieces, deltas = Pieces(batch, self.per_row, self.n_spans), clean - corrupt
        if self.method == "exact":
            edges = self.graph.possible if self.edges is None else self.edges
            return patched_scores(self.model, self.graph, batch, self.metrics, logits, deltas, edges, pieces, self.tokens)
        totals: list[Tensor] = []
        for source in sources(clean, corrupt, self.graph, activations=self.method == "EAP-IG-activations"):
            paths = self._walk(batch, source, logits)
            scores = [edge_scores(self.model, self.graph, deltas, path, pieces, source.writers) for path in paths]
            totals = [total + score for total, score in zip(totals, scores, strict=True)] if totals else scores
        return totals

    def _walk(self, batch: Batch, source: Source, logits: Tensor) -> list[ReaderPath]:
        """The readers of each metric over one path."""
        paths = [ReaderPath(self.model, self.graph, source.after) for _ in self.metrics]
        hooks = paths[0].wanted, paths[0].watched, paths[0].splits
        with closing(walk(self.model, batch, self.metrics, logits, source, self.points, *hooks)) as points:
            for weight, seen, gradients in points:
                for path, found in zip(paths, gradients, strict=True):
                    path.add(seen, found, weight)
        return paths

    def _nodes(self, batch: Batch, clean: WriterOutputs, corrupt: WriterOutputs, logits: Tensor) -> list[Tensor]:
        if self.of == "nodes":
            sites = node_sites(self.model, clean, corrupt)
        else:
            sites = neuron_sites(self.model, batch, zero=self.intervention == "zero")
        embeddings = sources(clean, corrupt, self.graph, activations=False)[0]
        pieces = Pieces(batch, self.per_row, self.n_spans)
        return node_scores(self.model, batch, self.metrics, logits, sites, embeddings, self.points, self.method, pieces)
