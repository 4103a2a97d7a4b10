"""Exact edge patching: the effect of an edge, measured by running the model without it. The gradient methods approximate this effect.

    score(u → v) = metric(clean) − metric(clean, but reader v's residual input holds u's corrupt output)

Only v sees the change; all that follows v is recomputed. Positive = the edge supports the behaviour. Effects are not additive: row `input`
need not sum to metric(clean) − metric(corrupt). Row by row:

1. A clean run keeps the residual before every norm, and every layer's z; Δu of every writer is given.
2. Edges are taken site by site: the heads of a layer, its MLP, the logits. The model runs the row alone up to the site; there the row is
   repeated once per edge, each copy with its own reader's input made from residual − Δu (`reading`). From there on the batch is the edges.
3. The read positions alone are unembedded, and the metric is compared with its clean value.

The model has no copy of K or V for each query head (`kv="ungrouped"`). So the group's K or V is patched, and the outputs of the group's
other heads are set back to those of the clean run, which are what they would have been.

Cost per row: one forward, and per edge the part of a forward that follows its reader: (n_layers − layer) / n_layers for a layer's heads,
about a third of a forward over all edges of a deep model, one row of the unembedding for the logits. No gradients. Linear in rows and
edges, and again as much for each span. In bfloat16 an effect below a hundredth or so of the metric is rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechshift_tl.attribution.metrics import Metric
from mechshift_tl.attribution.scoring import TokenGroups
from mechshift_tl.bridge.hooks import Hooks, Kept, capture
from mechshift_tl.bridge.norms import normed, placed, projected
from mechshift_tl.bridge.protocol import HookedModel, Norm, components_of, has_mlps
from mechshift_tl.bridge.weights import gathered, weight_of
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.outputs import WriterOutputs
from mechshift_tl.readouts import Batch

Hook = Callable[[Tensor, object], Tensor]


def check_patched_edges(edges: Bool[Tensor, "n_writers n_readers"], graph: Graph, method: str, level: str) -> None:
    """Raise ValueError unless `edges` is a mask of edges that can exist and are to be patched."""
    if method != "exact" or level != "edges":
        raise ValueError(f"attribute: edges= chooses what exact patching measures; method {method!r} of {level} scores all of them")
    if not isinstance(edges, Tensor):
        raise ValueError(f"attribute: edges is a {type(edges).__name__}; give a bool mask, such as a circuit's .edges")
    if edges.shape != graph.possible.shape or edges.dtype != torch.bool:
        raise ValueError(f"attribute: edges is {edges.dtype} {tuple(edges.shape)}; give a bool mask {tuple(graph.possible.shape)}")
    if (edges & ~graph.possible).any():
        writer, reader = (edges & ~graph.possible).nonzero()[0].tolist()
        edge = f"{graph.writers[writer]} → {graph.readers[reader]}"
        raise ValueError(f"attribute: edge {edge} cannot exist; intersect edges with graph.possible")


@torch.no_grad()
def patched_scores(
    model: HookedModel,
    graph: Graph,
    batch: Batch,
    metrics: Sequence[Metric],
    clean_logits: Float[Tensor, "b k d_vocab"],
    deltas: WriterOutputs,
    edges: Bool[Tensor, "n_writers n_readers"],
    groups: TokenGroups,
    most_tokens: int,
) -> list[Float[Tensor, "rows spans n_writers n_readers"]]:
    """Per metric, what each of `edges` is worth times the positions read, zero elsewhere, per group of tokens.

    `most_tokens`: edges × tokens that run at once, at least one edge.
    """
    shape = (len(batch), groups.shape[1], *edges.shape)
    scores = [clean_logits.new_zeros(shape) for _ in metrics]
    most = max(1, most_tokens // batch.clean.shape[1])
    for i in range(len(batch)):
        row = _Row.of(model, graph, batch, i, clean_logits)
        for j, where in enumerate(groups.patches):
            written = Written(model, graph, deltas, i, where[i])
            for writers, readers in together(graph, edges, most):
                values = row.patched(written.by(writers), readers, metrics)
                for score, clean, patched in zip(scores, row.values(clean_logits[i : i + 1], metrics), values, strict=True):
                    score[i, j, writers, readers] = (clean - patched) * batch.k
    return [groups.of_patches(score) for score in scores]


def together(graph: Graph, edges: Bool[Tensor, "n_writers n_readers"], most: int) -> Iterator[tuple[Int[Tensor, " m"], Int[Tensor, " m"]]]:
    """Writers and readers of the edges that run in one batch: at most `most`, into one layer's heads, its MLP, or the logits."""
    mlps = [graph.mlp_reader(layer) for layer in range(graph.n_layers)]
    # Cut before and behind every MLP's column: heads | MLP | heads | MLP | … | logits.
    for columns in torch.arange(len(graph.readers)).tensor_split(sorted([*mlps, *(column + 1 for column in mlps)])):
        writers, readers = edges[:, columns].nonzero(as_tuple=True)
        if len(writers):
            yield from zip(writers.split(most), columns[readers].split(most), strict=True)


@dataclass(frozen=True)
class Written:
    """Δ of one row's writers at the residual's width, at the positions `where`."""

    model: HookedModel
    graph: Graph
    deltas: WriterOutputs
    row: int
    where: Bool[Tensor, " pos"]

    def by(self, writers: Int[Tensor, " m"]) -> Float[Tensor, "m pos d"]:
        """The Δ of each of `writers`."""
        return torch.stack([self._one(writer) for writer in writers.tolist()]) * self.where[:, None]

    def _one(self, writer: int) -> Float[Tensor, "pos d"]:
        if writer == 0:
            return self.deltas.input[self.row]
        # Writer 0 is the input; then each layer has its heads and, last, its MLP.
        layer, place = divmod(writer - 1, self.graph.n_heads + 1)
        if place == self.graph.n_heads:
            return self.deltas.mlp[layer][self.row]
        return (
            self.deltas.z[layer][self.row, :, place]
            @ weight_of(components_of(self.model).blocks[layer].attn, "W_O", self.where.device)[place].float()
        )


@dataclass(frozen=True)
class _Row:
    """One row, and what its clean run left."""

    model: HookedModel
    graph: Graph
    batch: Batch
    logits: Float[Tensor, "1 k d_vocab"]
    clean: Kept

    @classmethod
    def of(cls, model: HookedModel, graph: Graph, batch: Batch, i: int, logits: Float[Tensor, "b k d_vocab"]) -> _Row:
        clean: Kept = {}
        inside = ("hook_resid_pre", "attn.hook_z", *(["hook_resid_mid"] if graph.mlps else []))
        names = [f"blocks.{layer}.{name}" for layer in range(graph.n_layers) for name in inside]
        # One row at a time: from the site on, its copies fill the batch.
        row = batch.rows(slice(i, i + 1))
        with model.hooks(fwd_hooks=capture([*names, "ln_final.hook_in"], clean)):
            row.logits(model)
        return cls(model, graph, row, logits[i : i + 1], gathered(clean, row.clean.device))

    def values(self, logits: Float[Tensor, "m k d_vocab"], metrics: Sequence[Metric]) -> list[Float[Tensor, " m"]]:
        """Each metric on copies of the row that have these logits."""
        m = len(logits)
        ids = {name: getattr(self.batch, name).expand(m, -1) for name in ("answer_ids", "foil_ids")}
        copies = replace(self.batch, **ids, index=self.batch.index.expand(m))
        return [metric.values(logits, copies, self.logits) for metric in metrics]

    def patched(
        self, written: Float[Tensor, "m pos d"], readers: Int[Tensor, " m"], metrics: Sequence[Metric]
    ) -> list[Float[Tensor, " m"]]:
        """Each metric with `written[i]` taken from the residual that `readers[i]` reads; all of these are at one site."""
        layer = int(self.graph.reader_layers[readers[0]])
        if layer == self.graph.n_layers:
            hooks = self._into("unembed.hook_in", "ln_final.hook_in", components_of(self.model).ln_final, written)
        elif readers[0] == self.graph.mlp_reader(layer):
            hooks = self._into(
                f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_resid_mid", components_of(self.model).blocks[layer].ln2, written
            )
        else:
            hooks = self._into_heads(layer, written, readers)
        # Elsewhere the row runs alone up to the site, where a hook repeats it.
        copies = len(written) if _mlps_see_one_axis(self.model) else 1
        return self.values(self._run(hooks, copies), metrics)

    def _run(self, hooks: Hooks, copies: int) -> Float[Tensor, "m k d_vocab"]:
        """Logits at the targets of the copies that `hooks` make of the row: only the positions that predict them are unembedded."""
        mask = None if self.batch.clean_mask is None else self.batch.clean_mask.expand(copies, -1)
        rows = replace(self.batch, clean=self.batch.clean.expand(copies, -1), clean_mask=mask, narrow=False)
        with self.model.hooks(fwd_hooks=hooks):
            return rows.logits(self.model)

    def _into(self, name: str, residual: str, norm: Norm, written: Float[Tensor, "m pos d"]) -> Hooks:
        # clean − Δu = clean − (clean u − corrupt u): the residual with u's corrupt output.
        inputs = normed(self.clean[residual] - written, norm, self.model.cfg.eps)
        return [(name, lambda tensor, hook: inputs.to(tensor))]

    def _into_heads(self, layer: int, written: Float[Tensor, "m pos d"], readers: Int[Tensor, " m"]) -> Hooks:
        block, name = components_of(self.model).blocks[layer], f"blocks.{layer}"
        inputs = normed(self.clean[f"{name}.hook_resid_pre"] - written, block.ln1, self.model.cfg.eps)
        # Here the row becomes one row per edge; `expand` copies nothing.
        hooks: Hooks = [(f"{name}.hook_resid_pre", lambda tensor, hook: tensor.expand(len(written), -1, -1))]
        for kind, rows, heads in _by_kind(self.graph, layer, readers):
            # The KV head that holds this reader.
            own = heads if kind == "q" else heads // (self.graph.n_kv_readers // self.graph.n_kv_heads)
            hooks.append((f"{name}.attn.hook_{kind}", _placing(rows, own, projected(inputs[rows], block.attn, kind, own))))
            if kind != "q" and self.graph.n_kv_readers != self.graph.n_kv_heads:
                hooks.append((f"{name}.attn.hook_z", _leaving_one_head(rows, heads, self.clean[f"{name}.attn.hook_z"])))
        return hooks


def _mlps_see_one_axis(model: HookedModel) -> bool:
    """Whether the MLPs see rows and positions on one axis (OPT). There a row cannot be repeated on the way: the copies must enter."""
    return has_mlps(model) and model.hook_dict["blocks.0.mlp.hook_in"].hook_conversion is not None


def _by_kind(graph: Graph, layer: int, readers: Int[Tensor, " m"]) -> Iterator[tuple[str, Int[Tensor, " k"], Int[Tensor, " k"]]]:
    """For q, k and v: which of `readers` are of that kind, and of which head."""
    place = readers - graph.attention_readers(layer).start
    bounds = [0, graph.n_heads, graph.n_heads + graph.n_kv_readers, graph.readers_per_layer - 1]
    for kind, start, end in zip("qkv", bounds, bounds[1:], strict=False):
        rows = ((place >= start) & (place < end)).nonzero()[:, 0]
        if len(rows):
            yield kind, rows, place[rows] - start


def _placing(rows: Int[Tensor, " m"], heads: Int[Tensor, " m"], values: Float[Tensor, "m pos d_head"]) -> Hook:
    return lambda tensor, hook: placed(tensor, rows, heads, values)


def _leaving_one_head(rows: Int[Tensor, " m"], heads: Int[Tensor, " m"], clean: Float[Tensor, "1 pos head d_head"]) -> Hook:
    """A hook after which only head `heads[i]` of row `rows[i]` differs from the clean run."""

    def hook_fn(z: Tensor, hook: object) -> Tensor:
        others = z.clone()
        # Patching the group's K or V moved all its heads; only the reader's own may move.
        others[rows] = clean.to(z)
        return placed(others, rows, heads, z[rows, :, heads])

    return hook_fn
