"""EAP and EAP-IG (Syed et al. 2310.10348; Hanna et al. 2403.17806): a score for every edge, from gradients.

    score(u → v) = Σ_batch,pos ⟨Δu, ḡ_v⟩ / n          positive = the edge supports the behaviour

Δu is writer u's clean − corrupt output (`writers`), ḡ_v the gradient of the metric at reader v's residual input averaged over the path from
corrupt to clean embeddings (`readers`). Layer by layer, the heads' Δ are expanded to the residual's width and one matrix product per layer
scores all writers so far against all the layer's readers. Cost per batch: two forwards, then `ig_steps` forwards with activation-only
backwards; linear in rows and in `ig_steps`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mechshift_tl.attribution.hooks import frozen
from mechshift_tl.attribution.metrics import Metric, resolve
from mechshift_tl.attribution.path import Rule, quadrature
from mechshift_tl.attribution.readers import ReaderPath, integrate
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.attribution.ungrouped import check_ungrouped
from mechshift_tl.attribution.writers import WriterDeltas, writer_deltas
from mechshift_tl.graph import KV, Graph
from mechshift_tl.provenance import provenance
from mechshift_tl.readouts import Batch, Readouts

#: Default bound on the writers' differences of one batch, from which the default `batch_tokens` follows.
WRITER_BYTES = 256 * 2**20
PER_EXAMPLE_BYTES = 2 * 2**30


def attribute(
    model: Any,
    readouts: Readouts,
    *,
    ig_steps: int = 5,
    rule: Rule = "midpoint",
    kv: KV = "grouped",
    metric: str | Metric = "logit_diff",
    batch_tokens: int | None = None,
    keep_per_example: bool = False,
) -> EdgeScores:
    """Scores `(n_writers, n_readers)` of every edge of `model` on `readouts`.

    - `ig_steps`, `rule`: points on the path (`path.quadrature`). EAP is `ig_steps=1, rule="right"`; `rule="left"` is the reference grid.
    - `kv`: K/V readers per KV head ("grouped") or per query head ("ungrouped", as the paper counts edges).
    - `metric`: "logit_diff", or a callable on aligned logits `(n, k, d_vocab)`, answers and foils `(n, k)`, returning `(n,)`.
    - `batch_tokens`: tokens per batch, at least one row; by default what keeps the writers' differences within 256 MiB.
    - `keep_per_example`: keep each example's own scores too, for intervals over prompts: 4 · examples · writers · readers bytes, at most
      2 GiB.

    `model` is a `HookedDiffusionTransformer` or any TransformerLens bridge with the usual hooks. Scores do not depend on batching.
    Raises ValueError on unknown settings or readouts that do not fit the model, FloatingPointError when a metric is not finite.
    """
    points = quadrature(rule, ig_steps)
    name, function = resolve(metric)
    graph = Graph.of(model, kv)
    if graph.n_kv_readers != graph.n_kv_heads:
        check_ungrouped(model)
    readouts.check(model)
    tokens = batch_tokens or max(1, WRITER_BYTES // (4 * len(graph.writers) * model.cfg.d_model))
    totals = _Totals(graph, readouts, keep_per_example)
    with frozen(model), tqdm(total=len(readouts), desc=f"attribute {graph.n_edges} edges", unit="row", delay=2, leave=False) as bar:
        for batch in readouts.batches(tokens):
            batch = batch.to(model.cfg.device)
            deltas = writer_deltas(model, batch, function)
            path = integrate(model, graph, batch, function, deltas.ends, points)
            totals.add(batch, deltas, score(model, graph, deltas, path, per_row=keep_per_example))
            bar.update(len(batch.index))
    return totals.scores(settings={"ig_steps": ig_steps, "rule": rule, "kv": kv, "metric": name}, provenance=provenance(model, readouts))


def score(model: Any, graph: Graph, deltas: WriterDeltas, path: ReaderPath, *, per_row: bool) -> Float[Tensor, "rows n_writers n_readers"]:
    """Σ over positions of ⟨Δu, ḡ_v⟩ for every edge that can exist, zero elsewhere: one matrix per row, or one for the whole batch."""
    groups = deltas.input.shape[0] if per_row else 1

    def columns(tensor: Tensor) -> Tensor:
        """`(vectors, b, pos, d)` as `(groups, vectors, everything else)`."""
        return tensor.reshape(tensor.shape[0], groups, -1).transpose(0, 1)

    scores = deltas.input.new_zeros(groups, len(graph.writers), len(graph.readers))
    written = deltas.input.new_empty(groups, len(graph.writers), deltas.input.numel() // groups)
    written[:, :1] = columns(deltas.input[None])
    for layer in range(graph.n_layers):
        before, block = graph.writers_before_attention(layer), model.blocks[layer]
        readers = columns(path.attention[layer].block(block, graph))
        scores[:, :before, graph.attention_readers(layer)] = written[:, :before] @ readers.mT
        heads = einsum(deltas.z[layer], block.attn.W_O.detach().float(), "b pos h e, h e d -> h b pos d")
        after = before + graph.n_heads
        written[:, before:after] = columns(heads)
        scores[:, :after, graph.mlp_reader(layer)] = (written[:, :after] @ columns(path.mlp[layer][None]).mT)[..., 0]
        written[:, after : after + 1] = columns(deltas.mlp[layer][None])
    scores[:, :, -1] = (written @ columns(path.logits[None]).mT)[..., 0]
    return scores


class _Totals:
    """Running sums over batches, in float64: per step, per example where asked, and of the metric at both ends."""

    def __init__(self, graph: Graph, readouts: Readouts, keep_per_example: bool) -> None:
        shape = (len(graph.writers), len(graph.readers))
        if keep_per_example and (size := 4 * readouts.n_examples * shape[0] * shape[1]) > PER_EXAMPLE_BYTES:
            raise ValueError(f"keep_per_example would take {size / 2**30:.1f} GiB, over 2 GiB; attribute fewer examples at a time")
        self.graph, self.readouts = graph, readouts
        self.sums: dict[int, Tensor] = defaultdict(lambda: torch.zeros(shape, dtype=torch.float64))
        self.n_read: dict[int, int] = defaultdict(int)
        self.per_example = torch.zeros(readouts.n_examples, *shape) if keep_per_example else None
        self.ends = torch.zeros(2, readouts.n_examples, dtype=torch.float64)
        self.read = torch.zeros(readouts.n_examples, dtype=torch.long).index_add(0, readouts.example, readouts.n_read)

    def add(self, batch: Batch, deltas: WriterDeltas, scores: Tensor) -> None:
        """Add one batch: `scores` per row, or one matrix for all its rows."""
        scores, k, example = scores.cpu(), batch.target_pos.shape[1], self.readouts.example[batch.index]
        self.sums[batch.step] += scores.double().sum(0)
        self.n_read[batch.step] += k * len(batch.index)
        self.ends.index_add_(1, example, k * torch.stack([deltas.clean, deltas.corrupt]).double().cpu())
        if self.per_example is not None:
            self.per_example.index_add_(0, example, scores)

    def scores(self, settings: dict[str, Any], provenance: dict[str, Any]) -> EdgeScores:
        """The means over read positions."""
        steps, total = sorted(self.sums), sum(self.n_read.values())
        clean, corrupt = (self.ends.sum(1) / total).tolist()
        return EdgeScores(
            matrix=(torch.stack([self.sums[s] for s in steps]).sum(0) / total).float(),
            graph=self.graph,
            per_step=torch.stack([self.sums[s] / self.n_read[s] for s in steps]).float(),
            steps=steps,
            n_read=[self.n_read[s] for s in steps],
            clean=clean,
            corrupt=corrupt,
            n_examples=self.readouts.n_examples,
            settings=settings,
            provenance=provenance,
            per_example=self.per_example,
            ends_per_example=self.ends.float(),
            read_per_example=self.read,
        )
