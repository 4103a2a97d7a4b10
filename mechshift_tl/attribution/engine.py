"""One attribution: what it computes for a batch (both ends, the walk along the path, the scores), and what it checks before it starts.

Memory of a batch: the activations of one forward with its backward, the writers' differences, and per point of the path what `readers`
keeps.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Bool
from torch import Tensor

from mechshift_tl.attribution.along import Along, Also
from mechshift_tl.attribution.atp_star import Dropped, check_scores_seen, correct_qk, pattern_hooks
from mechshift_tl.attribution.check import check_neurons, check_readers_sum, check_writers_sum
from mechshift_tl.attribution.drawn import drawn_points
from mechshift_tl.attribution.exact import check_patched_edges, patched_scores
from mechshift_tl.attribution.gradients import Source, sources, walk
from mechshift_tl.attribution.metrics import Metric
from mechshift_tl.attribution.nodes import neuron_sites, node_scores, node_sites
from mechshift_tl.attribution.path import Points
from mechshift_tl.attribution.readers import ReaderPath
from mechshift_tl.attribution.rules import rule_hooks
from mechshift_tl.attribution.scoring import TokenGroups, edge_scores
from mechshift_tl.attribution.settings import AttributionSettings
from mechshift_tl.attribution.shared_prefix import SharedPrefix
from mechshift_tl.attribution.totals import BatchScores
from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.hooks import EMBED, Kept, inject
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.bridge.weights import named_weights
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.not_finite import locate_not_finite
from mechshift_tl.interventions.outputs import WriterOutputs, run_both_sides, run_writers
from mechshift_tl.interventions.replaced import WriterMeans, check_intervention, replaced
from mechshift_tl.readouts import Batch, Readouts
from mechshift_tl.runs.provenance import digest


@dataclass(frozen=True)
class Engine:
    """One attribution's model and settings, and what it makes of a batch."""

    model: HookedModel
    settings: AttributionSettings
    metrics: list[Metric]
    n_spans: int | None = None
    means: WriterMeans | None = None
    edges: Bool[Tensor, "n_writers n_readers"] | None = None
    #: Whether each row's completeness gap is measured, too.
    completeness: bool = False

    @cached_property
    def graph(self) -> Graph:
        """The model's graph."""
        return Graph.of(self.model, self.settings.kv)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one set of scores."""
        if self.settings.level == "edges":
            return len(self.graph.writers), len(self.graph.readers)
        return (len(self.graph.writers),) if self.settings.level == "nodes" else (self.graph.n_layers * (self.model.cfg.d_mlp or 0),)

    @property
    def tokens(self) -> int:
        """Tokens per batch, as asked or as the model allows."""
        return batch_tokens_for(self.model, "attribution", self.settings.batch_tokens, points=len(self.settings.points))

    def check(self, readouts: Readouts) -> None:
        """Everything that can be wrong is said before any long work."""
        if self.n_spans == 0:
            raise ValueError("attribute: per_position=True needs readouts with named spans; give them as Readouts.from_tokens(spans=…)")
        # A token that only the corrupt mask hides has an embedding of zero at the corrupt end.
        if readouts.hides_from_corrupt and self.settings.intervention == "counterfactual":
            self.settings.check_start()
        self.settings.check_metrics(self.metrics)
        if self.settings.method == "atp*":
            check_scores_seen(self.model)
        if self.edges is not None:
            check_patched_edges(self.edges, self.graph, self.settings.method, self.settings.level)
        check_intervention(self.model, self.settings.intervention, self.means, readouts.visible("clean"))
        # The sums below depend on the architecture, so one row is enough.
        row = next(iter(readouts.batches(1))).to(self.model.cfg.device)
        check_writers_sum(self.model, row)
        if self.settings.level == "neurons":
            check_neurons(self.model, row)
        if self.settings.level == "edges" and self.settings.method != "exact":
            check_readers_sum(self.model, row, self.graph, self.settings.rules)

    def digests(self, readouts: Readouts, *, weights: bool) -> dict[str, object]:
        """Values that differ between two attributions of the same settings. The digest of the weights reads all weights."""
        names = [metric.identity for metric in self.metrics]
        found: dict[str, object] = {"metrics": names, "spans": self.n_spans, "batch_tokens": self.tokens}
        found["rows"] = digest(readouts.tensors().items())
        if self.means is not None:
            found["means"] = digest((name, getattr(self.means, name)) for name in ("input", "z", "mlp", "count"))
        if self.edges is not None:
            found["edges"] = digest([("edges", self.edges)])
        return found | ({"weights": digest(named_weights(self.model))} if weights else {})

    def parts(self, batch: Batch) -> list[BatchScores]:
        """One part per metric. Raises FloatingPointError naming where a run stopped being finite."""
        # Before rows are cut: drawn points depend on all that a row holds.
        points = self._points(batch)
        batch = batch.to(self.model.cfg.device).narrowed(self.model)
        try:
            parts = self._parts(batch, points)
            if not all(part.scores.isfinite().all() for part in parts):
                raise FloatingPointError(f"{self.settings.level} scores are not finite")
            return parts
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; {locate_not_finite(self.model, batch)}") from error

    def _points(self, batch: Batch) -> Points:
        asked = self.settings
        return drawn_points(batch, asked.ig_steps or 1, asked.seed or 0) if asked.samples else asked.points

    def _parts(self, batch: Batch, points: Points) -> list[BatchScores]:
        along = Along(len(self.metrics), batch, self.completeness)
        found = self._edges if self.settings.level == "edges" else self._nodes
        scores, logits, corrupt_logits = found(batch, points, along)
        ends = ([metric.values(one, batch, logits).cpu() for one in (logits, corrupt_logits)] for metric in self.metrics)
        # The device needs its memory for the next batch.
        every = zip(scores, ends, along.totals, strict=True)
        return [BatchScores(one.cpu(), clean, corrupt, total.cpu()) for one, (clean, corrupt), total in every]

    def _shared_prefix(self, batch: Batch) -> SharedPrefix:
        """Tokens identical in both runs, skipped along the path; none for interventions other than counterfactual, or for neurons."""
        asked = self.settings
        along_a_path = asked.method != "exact" or asked.level == "nodes"
        return SharedPrefix(self.model, batch, wanted=along_a_path and asked.intervention == "counterfactual" and asked.level != "neurons")

    @torch.no_grad()
    def _ends(self, batch: Batch, prefix: SharedPrefix) -> tuple[tuple[WriterOutputs, Tensor], tuple[WriterOutputs, Tensor]]:
        """Both ends of the path: the writers' outputs and the logits `(b, k, d_vocab)`, clean and what clean is held against."""
        if self.settings.intervention == "counterfactual":
            return run_both_sides(self.model, batch, prefix.hooks())
        outputs = replaced(self.model, batch, self.settings.intervention, self.means)
        with self.model.hooks(fwd_hooks=inject(EMBED, {EMBED: outputs.input})):
            corrupt = outputs, batch.logits(self.model)
        return run_writers(self.model, batch, "clean"), corrupt

    def _edges(self, batch: Batch, points: Points, along: Along) -> tuple[list[Tensor], Tensor, Tensor]:
        """Per metric the scores of every edge; and the logits at both ends."""
        prefix = self._shared_prefix(batch)
        (clean, logits), (corrupt, corrupt_logits) = self._ends(batch, prefix)
        groups, deltas = TokenGroups(batch, self.settings.keep_per_example, self.n_spans), clean - corrupt
        if self.settings.method == "exact":
            edges = self.graph.possible if self.edges is None else self.edges
            found = patched_scores(self.model, self.graph, batch, self.metrics, logits, deltas, edges, groups, self.tokens)
            return found, logits, corrupt_logits
        if self.settings.method == "atp*":
            source = sources(clean, corrupt, self.graph, activations=False)[0]
            return self._without_each_layer(batch, source, deltas, logits, prefix, points), logits, corrupt_logits
        walks = sources(clean, corrupt, self.graph, activations=self.settings.method == "EAP-IG-activations")
        del clean, corrupt  # from here on the differences, and the two ends of what is walked, are enough
        totals: list[Tensor] = []
        for source in walks:
            paths = self._walk(batch, source, logits, prefix, points, along)
            scores = [edge_scores(self.model, self.graph, deltas, path, groups, source.writers) for path in paths]
            # Each path scores its own writers and leaves the other rows at zero, so paths add up.
            totals = [total + score for total, score in zip(totals, scores, strict=True)] if totals else scores
        return totals, logits, corrupt_logits

    def _without_each_layer(
        self, batch: Batch, source: Source, deltas: WriterOutputs, logits: Tensor, prefix: SharedPrefix, points: Points
    ) -> list[Tensor]:
        """AtP*: per metric the scores of every edge, with each layer dropped in turn and those into q and k corrected."""
        found, slopes, groups = [Dropped() for _ in self.metrics], list[list[Kept]](), TokenGroups(batch, True, None)
        for layer in range(self.graph.n_layers):
            patterns = Also(pattern_hooks(self.graph), len(self.metrics))
            paths = self._walk(batch, source, logits, prefix, points, patterns, layer)
            slopes.append(patterns.sums)
            for dropped, path in zip(found, paths, strict=True):
                dropped.add(edge_scores(self.model, self.graph, deltas, path, groups, source.writers))
        correct_qk(self.model, self.graph, batch, deltas, slopes, found)
        # Edges into a layer have no gradient while it is dropped; those into the logits always have one.
        layers = self.graph.n_layers - (self.graph.reader_layers < self.graph.n_layers).float()
        return [dropped.mean(layers.to(logits.device), self.settings.keep_per_example) for dropped in found]

    def _walk(
        self, batch: Batch, source: Source, logits: Tensor, prefix: SharedPrefix, points: Points, along: Along | Also,
        dropped: int | None = None,
    ) -> list[ReaderPath]:  # fmt: skip
        """The readers of each metric over one path; with `dropped`, as if nothing went back through that layer."""
        rules = self.settings.rules
        paths = [ReaderPath(self.model, self.graph, source.after, frozen="norms" in rules) for _ in self.metrics]
        # Every metric wants the same hooks, so the first path speaks for all.
        hooks = [*paths[0].wanted, *along.wanted], paths[0].watched, paths[0].splits
        walked = walk(self.model, batch, self.metrics, logits, source, points, *hooks, rule_hooks(self.model, rules, dropped))
        # The generator holds the model's hooks. `closing` takes them off, also after an error.
        with prefix.left_out(), closing(walked) as steps:
            for weight, seen, gradients in steps:
                along.add(source, gradients, weight)
                for path, found in zip(paths, gradients, strict=True):
                    path.add(seen, found, weight)
        return paths

    def _nodes(self, batch: Batch, points: Points, along: Along) -> tuple[list[Tensor], Tensor, Tensor]:
        """Per metric the scores of every node or neuron; and the logits at both ends."""
        prefix = self._shared_prefix(batch)
        (clean, logits), (corrupt, corrupt_logits) = self._ends(batch, prefix)
        if self.settings.level == "nodes":
            sites = node_sites(self.model, clean, corrupt)
        else:
            sites = neuron_sites(self.model, batch, zero=self.settings.intervention == "zero")
        embeddings = sources(clean, corrupt, self.graph, activations=False)[0]
        groups = TokenGroups(batch, self.settings.keep_per_example, self.n_spans)
        rules, method = self.settings.rules, self.settings.method
        scored = partial(
            node_scores, self.model, batch, self.metrics, logits, sites, embeddings, points, method, along=along, n_nodes=self.shape[0]
        )
        with prefix.left_out():
            if method != "atp*":
                return scored(rules=rule_hooks(self.model, rules), groups=groups), logits, corrupt_logits
            found, apart = [Dropped() for _ in self.metrics], TokenGroups(batch, True, None)
            for layer in range(self.graph.n_layers):
                for one, scores in zip(found, scored(rules=rule_hooks(self.model, rules, layer), groups=apart), strict=True):
                    one.add(scores)
        # The input is in no layer, so it has a gradient whichever layer is dropped.
        layers = torch.full(self.shape, self.graph.n_layers - 1.0, device=logits.device)
        layers[: int(self.settings.level == "nodes")] += 1
        return [one.mean(layers, self.settings.keep_per_example) for one in found], logits, corrupt_logits
