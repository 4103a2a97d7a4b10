"""One forward in which only the edges of a circuit are live.

Reader v of a circuit sees the residual stream that the replaced writers make, and what its own edges change in it:

    input(v) = base(v) + Σ_{u → v in circuit} (live u − replaced u)

1. The base residual of every layer is the sum of the replaced writers and the output biases. The q, k and v that it makes are kept.
2. The model runs on the clean rows with that residual put in place at every layer, before and after attention and before the final norm:
   whatever reads there without an edge of its own takes its base value, q, k and v of such heads included.
3. Where MLPs or logits have edges, their sum is added to the residual that they alone read. Heads with edges get q, k or v of their own:
   the norm and W_Q, W_K or W_V of that reader's sum, put in place of the kept ones.
4. Live outputs are taken at their hooks. Only writers with an edge are expanded to the residual's width, only readers with one projected.
5. What is overwritten or not read is not run: the model's own projections, and MLPs that nothing in the circuit moves or reads.

No copy of the residual per head is made, so none of TransformerLens' split flags is needed. Sums, norms and projections of the circuit's
readers are computed in float32, the rest of the model in its own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mechshift_tl.attribution.readers import repeated
from mechshift_tl.bridge.hooks import Hooks, Kept, capture
from mechshift_tl.bridge.narrow import narrowed, tokenwise
from mechshift_tl.bridge.norms import norm_weight
from mechshift_tl.bridge.protocol import HookedModel, components_of
from mechshift_tl.bridge.weights import bias_of, weight_of
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.outputs import WriterOutputs, run_both_sides
from mechshift_tl.readouts import Batch

KINDS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class Base:
    """The replaced writers of a batch, and the residual stream they make: `(b, pos, d)` before and amid each layer, and at the end.

    `heads` holds what that stream makes of q, k and v, by hook, `(b, pos, head, d_head)`. Of an `own` run it holds everything: there each
    writer puts out what it makes of that stream, so one that nothing moves stays as it is.
    """

    writers: WriterOutputs
    pre: list[Float[Tensor, "b pos d"]]
    mid: list[Float[Tensor, "b pos d"]]
    final: Float[Tensor, "b pos d"]
    heads: Kept
    own: bool

    @classmethod
    def both_sides(cls, model: HookedModel, batch: Batch) -> tuple[Float[Tensor, "b k d_vocab"], Base, Float[Tensor, "b k d_vocab"]]:
        """Clean logits, the corrupt run, and its logits: one forward of twice the rows."""
        seen: Kept = {}
        (_, clean), (writers, logits) = run_both_sides(model, batch, capture([*_streams(model), *_heads(model)], seen))
        corrupt = {name: tensor[len(batch) :] for name, tensor in seen.items()}
        *streams, final = (corrupt[name].to(batch.clean.device, torch.float32) for name in _streams(model))
        heads = {name: corrupt[name] for name in _heads(model)}
        return clean, cls(writers, streams[::2], streams[1::2], final, heads, own=True), logits

    @classmethod
    def of(cls, model: HookedModel, batch: Batch, graph: Graph, writers: WriterOutputs) -> tuple[Base, Float[Tensor, "b k d_vocab"]]:
        """What any outputs make, such as zero or means, and the logits of the run in which no edge is live."""
        residual, pre, mid, heads = writers.input, [], [], {}
        for block, z, mlp in zip(components_of(model).blocks, writers.z, writers.mlp, strict=True):
            pre.append(residual)
            weight = weight_of(block.attn, "W_O", z.device).float().flatten(0, 1)
            bias = bias_of(block.attn.o, z.device)
            residual = residual + z.flatten(2) @ weight + (0 if bias is None else bias.float())
            mid.append(residual)
            residual = residual + mlp
        base = cls(writers, pre, mid, residual, {}, own=False)
        with model.hooks(fwd_hooks=capture(_heads(model), heads)):
            logits = patched_logits(model, batch, graph, torch.zeros_like(graph.possible), base)
        return replace(base, heads=heads), logits


def _streams(model: HookedModel) -> list[str]:
    """Where the residual stream passes, before and amid each layer and at the end."""
    names = [f"blocks.{i}.{name}" for i in range(model.cfg.n_layers) for name in ("hook_resid_pre", "ln2.hook_in")]
    return [*names, "ln_final.hook_in"]


def _heads(model: HookedModel) -> list[str]:
    """Where q, k and v of all layers pass."""
    return [f"blocks.{i}.attn.hook_{kind}" for i in range(model.cfg.n_layers) for kind in KINDS]


@torch.no_grad()
def patched_logits(
    model: HookedModel, batch: Batch, graph: Graph, edges: Bool[Tensor, "n_writers n_readers"], base: Base
) -> Float[Tensor, "b k d_vocab"]:
    """Aligned logits at the targets (float32) when only `edges` are live: one forward of the clean rows, under their mask."""
    run = _PatchedRun(model, graph, edges.to(base.final.device), base)
    idle = run.idle() if batch.narrow else ()
    one = torch.zeros(1, dtype=torch.long, device=base.final.device)  # for not every module takes none
    with _keys_per_head(model, graph), model.hooks(fwd_hooks=run.hooks()), narrowed(idle, one):
        return batch.logits(model, "clean")


class _PatchedRun:
    """The hooks of one patched forward, and what they hand on to each other: live − replaced of every writer that has an edge."""

    def __init__(self, model: HookedModel, graph: Graph, edges: Tensor, base: Base) -> None:
        self.model, self.graph, self.base = model, graph, base
        sources = edges.any(1)
        #: Row of each writer in `deltas`, were it a source; as a slice bound, the number of sources before it.
        self.row = torch.cat([torch.zeros_like(sources[:1], dtype=torch.long), sources.cumsum(0)]).tolist()
        self.sources, self.edges, self.live = sources.tolist(), edges[sources], edges.any(0).tolist()
        self.deltas = base.final.new_empty(self.row[-1], base.final.numel())
        self.own: dict[str, tuple[list[int], Tensor]] = {}

    def hooks(self) -> Hooks:
        """Hooks in the order in which the forward meets them."""
        found: Hooks = []
        for i in range(self.graph.n_layers):
            found.append((f"blocks.{i}.hook_resid_pre", self._at(self._enter, i)))
            found += [(f"blocks.{i}.attn.hook_{kind}", self._at(self._project, i, kind)) for kind in KINDS]
            found.append((f"blocks.{i}.attn.hook_z", self._at(self._heads, i)))
            found.append((f"blocks.{i}.ln2.hook_in", self._at(self._middle, i)))
            found.append((f"blocks.{i}.hook_mlp_out", self._at(self._mlp, i)))
        return [*found, ("ln_final.hook_in", self._at(self._final))]

    def idle(self) -> Iterator[torch.nn.Module]:
        """Modules whose outputs are overwritten or not read; from the last layer's queries on, a narrow batch is spared them anyway."""
        *blocks, last = components_of(self.model).blocks
        heads = KINDS if self.base.heads else ()
        for i, block in enumerate(blocks):
            yield from tokenwise(block, (*heads, "o") if self._runs(i) else (*heads, "o", "mlp"))
        yield from tokenwise(last, heads[1:])

    def _runs(self, layer: int) -> bool:
        """Whether a layer's MLP puts out what the circuit reads and its base does not hold."""
        read = self.sources[self.graph.writers_before_attention(layer + 1) - 1]
        return read and (self.live[self.graph.mlp_reader(layer)] or not self.base.own)

    @staticmethod
    def _at(function: Callable, *where: Any) -> Callable:
        def hook_fn(tensor: Tensor, hook: Any) -> Tensor | None:
            return function(tensor, *where)

        return hook_fn

    def _enter(self, tensor: Tensor, layer: int) -> Tensor:
        """The layer's residual input: the base, for every head without an edge; sums for the others, to be projected at their hooks."""
        if layer == 0 and self.sources[0]:
            self.deltas[0] = (tensor.to(self.deltas) - self.base.writers.input).flatten()
        columns = self.graph.attention_readers(layer)
        live = [column for column in range(columns.start, columns.stop) if self.live[column]]
        if live:
            summed = self._sum(live, self.graph.writers_before_attention(layer), self.base.pre[layer])
            self.own = _project(components_of(self.model).blocks[layer], self.graph, [column - columns.start for column in live], summed)
        else:
            self.own = {}
        return self.base.pre[layer].to(tensor)

    def _project(self, tensor: Tensor, layer: int, kind: str) -> Tensor:
        """q, k or v `(b, pos, head, d_head)` with the heads of the circuit in place; per query head where the graph is ungrouped."""
        heads = self.graph.n_heads if kind == "q" else self.graph.n_kv_readers
        tensor = repeated(self.base.heads.get(f"blocks.{layer}.attn.hook_{kind}", tensor), heads, 2)
        if kind in self.own:
            tensor = tensor.clone()
            places, values = self.own[kind]
            tensor[:, :, places] = values.to(tensor)
        return tensor

    def _heads(self, tensor: Tensor, layer: int) -> None:
        """Expand the heads that have edges."""
        first = self.graph.writers_before_attention(layer)
        heads = [h for h in range(self.graph.n_heads) if self.sources[first + h]]
        if heads:
            replaced = self.base.writers.z[layer]
            deltas = (tensor.to(replaced).reshape(replaced.shape) - replaced)[:, :, heads]
            weight = _of_heads(weight_of(components_of(self.model).blocks[layer].attn, "W_O", replaced.device), heads)
            rows = self.deltas[self.row[first] : self.row[first + self.graph.n_heads]]
            torch.bmm(deltas.flatten(0, 1).transpose(0, 1), weight, out=rows.view(len(heads), -1, weight.shape[-1]))

    def _middle(self, tensor: Tensor, layer: int) -> Tensor:
        base, mlp = self.base.mid[layer], self.graph.mlp_reader(layer)
        before = self.graph.writers_before_attention(layer) + self.graph.n_heads
        return (self._sum([mlp], before, base)[0] if self.live[mlp] else base).to(tensor)

    def _mlp(self, tensor: Tensor, layer: int) -> None:
        writer = self.graph.writers_before_attention(layer + 1) - 1
        if self._runs(layer):
            self.deltas[self.row[writer]] = (tensor.to(self.deltas) - self.base.writers.mlp[layer]).flatten()
        elif self.sources[writer]:
            self.deltas[self.row[writer]] = 0

    def _final(self, tensor: Tensor) -> Tensor:
        writers = len(self.graph.writers)
        summed = self._sum([-1], writers, self.base.final)[0] if self.live[-1] else self.base.final
        return summed.to(tensor)

    def _sum(self, readers: list[int], writers: int, base: Float[Tensor, "b pos d"]) -> Float[Tensor, "reader b pos d"]:
        """Base residual and circuit edges from the first `writers` writers, for each of `readers`."""
        rows = self.row[writers]
        chosen, deltas = self.edges[:rows, readers].T, self.deltas[:rows]
        counts = chosen.sum(1)
        if 6 * int(counts.sum()) > chosen.numel():  # from about here on one product is faster than a gather per edge
            return torch.addmm(base.reshape(1, -1), chosen.float(), deltas).view(-1, *base.shape)
        summed = F.embedding_bag(chosen.nonzero()[:, 1], deltas, counts.cumsum(0) - counts, mode="sum")
        return summed.view(-1, *base.shape).add_(base)


def _project(
    block: Any, graph: Graph, readers: list[int], residual: Float[Tensor, "reader b pos d"]
) -> dict[str, tuple[list[int], Float[Tensor, "b pos reader d_head"]]]:
    """q, k, v of one layer's `readers` (numbered within the layer), each from its own residual: per kind, which heads, and their values."""
    normed, gain, shift = _normalize(block.ln1, residual.flatten(1, 2))
    own, start, first = {}, 0, 0
    for kind, size in zip(KINDS, (graph.n_heads, graph.n_kv_readers, graph.n_kv_readers), strict=True):
        heads = [reader - first for reader in readers if first <= reader < first + size]
        first += size
        if heads:
            weight, bias = _projection(block, kind, heads, size, normed.device)
            values = normed[start : start + len(heads)] @ (gain[:, None] * weight) + (shift @ weight + bias)[:, None]
            own[kind] = (heads, values.transpose(0, 1).reshape(*residual.shape[1:3], len(heads), -1))
            start += len(heads)
    return own


def _projection(
    block: Any, kind: str, heads: list[int], readers: int, device: torch.device
) -> tuple[Float[Tensor, "head d d_head"], Float[Tensor, "head d_head"] | float]:
    """W_Q, W_K or W_V of `heads` out of `readers`, and their biases; query heads that share a K/V head get the same one."""
    weight, bias = weight_of(block.attn, f"W_{kind.upper()}", device), bias_of(getattr(block.attn, kind), device)
    native = [head * weight.shape[0] // readers for head in heads]
    return _of_heads(weight, native), 0.0 if bias is None else bias.float().view(weight.shape[0], -1)[native]


def _of_heads(weight: Float[Tensor, "head m n"], heads: list[int]) -> Float[Tensor, "head m n"]:
    """The weights of some heads, in float32 and in the memory order of the projection that holds them, in which they copy fastest."""
    chosen = weight if heads == list(range(len(weight))) else weight.mT[heads].mT
    return chosen.float()


def _normalize(
    norm: Any, residual: Float[Tensor, "reader token d"]
) -> tuple[Float[Tensor, "reader token d"], Float[Tensor, " d"], Float[Tensor, " d"]]:
    """x̂ of RMSNorm or LayerNorm in float32, *in place*, with the gain and shift that the norm then applies (x̂·gain + shift)."""
    module = norm.original_component
    eps = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None) or norm.config.eps
    if not norm.uses_rms_norm:
        residual -= residual.mean(-1, keepdim=True)
    square = torch.linalg.vector_norm(residual, dim=-1, keepdim=True).square() / residual.shape[-1]
    gain, bias = norm_weight(norm, residual.device), bias_of(norm, residual.device)
    return residual.mul_((square + eps).rsqrt()), gain, torch.zeros_like(gain) if bias is None else bias.float()


@contextmanager
def _keys_per_head(model: HookedModel, graph: Graph) -> Iterator[None]:
    """On an ungrouped graph, attention takes one K and V per query head instead of repeating one per group; restored on leaving.

    Raises ValueError on models that make q, k and v by one matrix, whose attention repeats K and V by itself.
    """
    blocks = components_of(model).blocks if graph.n_kv_readers != graph.n_kv_heads else []
    if any(hasattr(block.attn, "qkv") for block in blocks):
        raise ValueError(
            f"{model.cfg.model_name}: its q, k and v come from one matrix, and heads that share K and V take none of their own; "
            "run circuits of kv='grouped' scores"
        )
    attentions: list[Any] = [block.attn.original_component for block in blocks]  # Hugging Face's, whose classes share no base
    groups = [attention.num_key_value_groups for attention in attentions]
    try:
        for attention in attentions:
            attention.num_key_value_groups = 1
        yield
    finally:
        for attention, group in zip(attentions, groups, strict=True):
            attention.num_key_value_groups = group
