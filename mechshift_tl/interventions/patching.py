"""One forward in which only the edges of a circuit are live.

Every writer (a head, an MLP, the input) has a live output, from this forward, and a replaced output, from another run or a mean. A reader v
sees the replaced outputs, except along the edges of the circuit:

    input(v) = base(v) + Σ_{u → v in circuit} (live u − replaced u)

1. The base residual of each layer is the sum of the replaced outputs and the output biases. The q, k and v made of it are kept.
2. The model runs on the clean rows. At every layer, before and after attention, and before the final norm, the base residual is put in
   place of the model's own. A reader without edges therefore takes its base value; a head without edges takes the kept q, k and v.
3. An MLP with edges, or the logits, gets the base residual plus the sum over its edges. A head with edges gets a q, k or v of its own: the
   sum goes through the norm and W_Q, W_K or W_V, and the result is put in place of the kept one.
4. Live outputs are read at their hooks. Only writers with an edge are expanded to the residual's width; only readers with one are
   projected.
5. Modules are skipped where their output is overwritten or never read: the model's own projections, and MLPs that the circuit neither
   moves nor reads.

The residual is not copied per head, so TransformerLens' split flags stay off. Sums, norms and projections of the circuit's readers are
computed in float32; the rest of the model keeps its own precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge.generalized_components.joint_qkv_attention import JointQKVAttentionBridge

from mechshift_tl.bridge.hooks import Kept, capture
from mechshift_tl.bridge.narrow import narrowed, tokenwise
from mechshift_tl.bridge.norms import centers, epsilon_of, is_identity, norm_weight
from mechshift_tl.bridge.protocol import Block, HookedModel, Norm, components_of, has_mlps, module_of
from mechshift_tl.bridge.weights import bias_of, weight_of
from mechshift_tl.graph import Graph, repeated
from mechshift_tl.interventions.outputs import WriterOutputs, run_both_sides
from mechshift_tl.interventions.reader_hooks import KINDS, ReaderHooks
from mechshift_tl.interventions.replaced import Intervention, WriterMeans, replaced
from mechshift_tl.readouts import Batch


@dataclass(frozen=True, eq=False)
class Base:
    """The replaced outputs of a batch, and the residual stream that they make.

    - `writers`: the replaced outputs; `pre`, `mid`, `final`, each `(b, pos, d)`: their sum before each layer, between its attention and its
      MLP, and at the end.
    - `heads`: q, k and v made of that stream, by hook name, `(b, pos, head, d_head)`.
    - `own`: the replaced outputs come from a real run of the model. A writer whose input is not moved then keeps its replaced output, and
      need not be computed again.
    """

    writers: WriterOutputs
    pre: list[Float[Tensor, "b pos d"]]
    mid: list[Float[Tensor, "b pos d"]]
    final: Float[Tensor, "b pos d"]
    heads: Kept
    own: bool

    @classmethod
    def both_sides(cls, model: HookedModel, batch: Batch) -> tuple[Float[Tensor, "b k d_vocab"], Base, Float[Tensor, "b k d_vocab"]]:
        """The clean logits, the corrupt run as a base, and its logits: one forward of twice the rows."""
        seen: Kept = {}
        (_, clean), (writers, logits) = run_both_sides(model, batch, capture([*chain(*_streams(model)), *_heads(model)], seen))
        # The batch is stacked: clean rows first, corrupt rows below.
        corrupt = {name: tensor[len(batch) :] for name, tensor in seen.items()}
        pre, mid, (final,) = ([corrupt[name].to(batch.clean.device, torch.float32) for name in names] for names in _streams(model))
        heads = {name: corrupt[name] for name in _heads(model)}
        return clean, cls(writers, pre, mid, final, heads, own=True), logits

    @classmethod
    def of(cls, model: HookedModel, batch: Batch, graph: Graph, writers: WriterOutputs) -> tuple[Base, Float[Tensor, "b k d_vocab"]]:
        """The base that any replaced outputs make, such as zero or means, and the logits of the run in which no edge is live."""
        residual, pre, mid, heads = writers.input, [], [], {}
        for block, z, mlp in zip(components_of(model).blocks, writers.z, writers.mlp, strict=True):
            pre.append(residual)
            weight = weight_of(block.attn, "W_O", z.device).float().flatten(0, 1)
            bias = bias_of(block.attn.o, z.device)
            # The output bias belongs to no writer, but it is a part of the stream.
            residual = residual + z.flatten(2) @ weight + (0 if bias is None else bias.float())
            mid.append(residual)
            residual = residual + mlp
        base = cls(writers, pre, mid, residual, {}, own=False)
        with model.hooks(fwd_hooks=capture(_heads(model), heads)):
            logits = patched_logits(model, batch, graph, torch.zeros_like(graph.possible), base)
        return replace(base, heads=heads), logits


def _streams(model: HookedModel) -> tuple[list[str], list[str], list[str]]:
    """Hook names of the residual stream: before each layer, between its attention and its MLP, and at the end."""
    pre, mid = ([f"blocks.{i}.{name}" for i in range(model.cfg.n_layers)] for name in ("hook_resid_pre", "ln2.hook_in"))
    return pre, mid if has_mlps(model) else [], ["ln_final.hook_in"]


def _heads(model: HookedModel) -> list[str]:
    """Hook names of q, k and v in every layer."""
    return [f"blocks.{i}.attn.hook_{kind}" for i in range(model.cfg.n_layers) for kind in KINDS]


@torch.no_grad()
def patched_logits(
    model: HookedModel, batch: Batch, graph: Graph, edges: Bool[Tensor, "n_writers n_readers"], base: Base
) -> Float[Tensor, "b k d_vocab"]:
    """Aligned logits at the targets (float32) when only `edges` are live: one forward of the clean rows, under their mask."""
    run = _PatchedRun(model, graph, edges.to(base.final.device), base)
    # A batch is not narrow where somebody has hooks on the model: those must see everything run.
    idle = run.idle() if batch.narrow else ()
    # Idle modules run on one token, not on none: some modules fail on an empty input.
    one = torch.zeros(1, dtype=torch.long, device=base.final.device)
    with keys_per_head(model, graph), model.hooks(fwd_hooks=run.hooks()), narrowed(idle, one):
        return batch.logits(model, "clean")


@torch.no_grad()
def ends(
    model: HookedModel, batch: Batch, graph: Graph, intervention: Intervention = "counterfactual", means: WriterMeans | None = None
) -> tuple[Float[Tensor, "b k d_vocab"], Base, Float[Tensor, "b k d_vocab"]]:
    """Clean logits, the base, and its logits.

    For counterfactual patches the base is the corrupt run, which shares one forward with the clean run. Where the two runs see different
    tokens, a run with no edge live stands in for it: a circuit always runs under the clean mask.
    """
    same = batch.clean_mask is None or batch.corrupt_mask is None or torch.equal(batch.clean_mask, batch.corrupt_mask)
    if intervention == "counterfactual" and same:
        return Base.both_sides(model, batch)
    clean = batch.logits(model, "clean")
    return clean, *Base.of(model, batch, graph, replaced(model, batch, intervention, means))


class _PatchedRun(ReaderHooks):
    """The hooks of one patched forward. They fill and read `deltas`: live − replaced, a row per writer that has an edge."""

    def __init__(self, model: HookedModel, graph: Graph, edges: Tensor, base: Base) -> None:
        self.model, self.graph, self.base = model, graph, base
        sources = edges.any(1)
        #: For each writer, how many sources come before it: its row in `deltas`, and the end of a slice over earlier writers.
        # Off by one on purpose: `row[w]` counts the sources before w, so it is w's own row if w is a source.
        self.row = torch.cat([torch.zeros_like(sources[:1], dtype=torch.long), sources.cumsum(0)]).tolist()
        self.sources, self.edges, self.live = sources.tolist(), edges[sources], edges.any(0).tolist()
        self.deltas = base.final.new_empty(self.row[-1], base.final.numel())
        self.own: dict[str, tuple[list[int], Tensor]] = {}

    def idle(self) -> Iterator[torch.nn.Module]:
        """Modules whose outputs are overwritten or not read. A narrow batch runs the end of the last layer at its targets alone anyway."""
        *blocks, last = components_of(self.model).blocks
        heads = KINDS if self.base.heads else ()
        for i, block in enumerate(blocks):
            yield from tokenwise(block, (*heads, "o") if self._runs(i) else (*heads, "o", "mlp"))
        yield from tokenwise(last, heads[1:])

    def _runs(self, layer: int) -> bool:
        """Whether the layer's MLP must run: the circuit reads it, and its output differs from the base's."""
        # The last writer before the next layer is this layer's MLP.
        read = self.sources[self.graph.writers_before_attention(layer + 1) - 1]
        return read and (self.live[self.graph.mlp_reader(layer)] or not self.base.own)

    def _enter(self, tensor: Tensor, layer: int) -> Tensor:
        """The layer's residual input: the base. Heads with edges get q, k and v of their own sums, kept in `own` for `_project`."""
        # The input writer: the clean embedding less the replaced one.
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
        """q, k or v `(b, pos, head, d_head)`: the kept ones, with those of the circuit's heads in their places."""
        heads = self.graph.n_heads if kind == "q" else self.graph.n_kv_readers
        # While a base of zero or means is being made there are no kept heads: the model's own are taken, and kept.
        tensor = repeated(self.base.heads.get(f"blocks.{layer}.attn.hook_{kind}", tensor), heads, 2)
        if kind in self.own:
            tensor = tensor.clone()
            places, values = self.own[kind]
            tensor[:, :, places] = values.to(tensor)
        return tensor

    def _heads(self, tensor: Tensor, layer: int) -> None:
        """Add the heads that have edges to `deltas`, each through its own part of W_O."""
        first = self.graph.writers_before_attention(layer)
        heads = [h for h in range(self.graph.n_heads) if self.sources[first + h]]
        if heads:
            replaced = self.base.writers.z[layer]
            deltas = (tensor.to(replaced).reshape(replaced.shape) - replaced)[:, :, heads]
            weight = of_heads(weight_of(components_of(self.model).blocks[layer].attn, "W_O", replaced.device), heads)
            # The product is written straight into its rows of `deltas`.
            rows = self.deltas[self.row[first] : self.row[first + self.graph.n_heads]]
            torch.bmm(deltas.flatten(0, 1).transpose(0, 1), weight, out=rows.view(len(heads), -1, weight.shape[-1]))

    def _middle(self, tensor: Tensor, layer: int) -> Tensor:
        base, mlp = self.base.mid[layer], self.graph.mlp_reader(layer)
        # An MLP also reads the heads of its own layer.
        before = self.graph.writers_before_attention(layer) + self.graph.n_heads
        return (self._sum([mlp], before, base)[0] if self.live[mlp] else base).to(tensor)

    def _mlp(self, tensor: Tensor, layer: int) -> None:
        writer = self.graph.writers_before_attention(layer + 1) - 1
        if self._runs(layer):
            self.deltas[self.row[writer]] = (tensor.to(self.deltas) - self.base.writers.mlp[layer]).flatten()
        elif self.sources[writer]:
            # The MLP was skipped, because its output is the base's: nothing differs.
            self.deltas[self.row[writer]] = 0

    def _final(self, tensor: Tensor) -> Tensor:
        writers = len(self.graph.writers)
        # The logits are the last reader.
        summed = self._sum([-1], writers, self.base.final)[0] if self.live[-1] else self.base.final
        return summed.to(tensor)

    def _sum(self, readers: list[int], writers: int, base: Float[Tensor, "b pos d"]) -> Float[Tensor, "reader b pos d"]:
        """Base residual and circuit edges from the first `writers` writers, for each of `readers`."""
        rows = self.row[writers]
        chosen, deltas = self.edges[:rows, readers].T, self.deltas[:rows]
        counts = chosen.sum(1)
        if 6 * int(counts.sum()) > chosen.numel():  # measured: above this density one product is faster than a gather per edge
            return torch.addmm(base.reshape(1, -1), chosen.float(), deltas).view(-1, *base.shape)
        # Offsets are where each reader's edges begin in the list of all: the running count, less its own.
        summed = F.embedding_bag(chosen.nonzero()[:, 1], deltas, counts.cumsum(0) - counts, mode="sum")
        return summed.view(-1, *base.shape).add_(base)


def _project(
    block: Block, graph: Graph, readers: list[int], residual: Float[Tensor, "reader b pos d"]
) -> dict[str, tuple[list[int], Float[Tensor, "b pos reader d_head"]]]:
    """q, k, v of one layer's `readers` (numbered within the layer), each from its own residual: per kind, which heads, and their values."""
    normed, gain, shift = _normalize(block.ln1, residual.flatten(1, 2))
    own, start, first = {}, 0, 0
    for kind, size in zip(KINDS, (graph.n_heads, graph.n_kv_readers, graph.n_kv_readers), strict=True):
        heads = [reader - first for reader in readers if first <= reader < first + size]
        first += size
        if heads:
            weight, bias = projection(block, kind, heads, size, normed.device)
            # n = x̂·gain + shift, so n W = x̂ (gain ∘ W) + shift W: the norm is folded into the weights.
            values = normed[start : start + len(heads)] @ (gain[:, None] * weight) + (shift @ weight + bias)[:, None]
            own[kind] = (heads, values.transpose(0, 1).reshape(*residual.shape[1:3], len(heads), -1))
            start += len(heads)
    return own


def projection(
    block: Block, kind: str, heads: list[int], readers: int, device: torch.device
) -> tuple[Float[Tensor, "head d d_head"], Float[Tensor, "head d_head"] | float]:
    """W_Q, W_K or W_V of `heads` out of `readers`, and their biases; query heads that share a K/V head get the same one."""
    weight, bias = weight_of(block.attn, f"W_{kind.upper()}", device), bias_of(getattr(block.attn, kind), device)
    # On an ungrouped graph there are more readers than K/V heads: each maps to its group's.
    native = [head * weight.shape[0] // readers for head in heads]
    return of_heads(weight, native), 0.0 if bias is None else bias.float().view(weight.shape[0], -1)[native]


def of_heads(weight: Float[Tensor, "head m n"], heads: list[int]) -> Float[Tensor, "head m n"]:
    """The weights of some heads, in float32 and in the memory order of the projection that holds them, in which they copy fastest."""
    chosen = weight if heads == list(range(len(weight))) else weight.mT[heads].mT
    return chosen.float()


def _normalize(
    norm: Norm, residual: Float[Tensor, "reader token d"]
) -> tuple[Float[Tensor, "reader token d"], Float[Tensor, " d"], Float[Tensor, " d"]]:
    """x̂ of RMSNorm or LayerNorm in float32, *in place*, with the gain and shift that the norm then applies (x̂·gain + shift).

    Without a norm, the residual as it is, with gain 1 and shift 0.
    """
    gain, bias = norm_weight(norm, residual.device), bias_of(norm, residual.device)
    shift = torch.zeros_like(gain) if bias is None else bias.float()
    if is_identity(norm):
        return residual, gain, shift
    if centers(norm):
        # In place, since `_sum` made this tensor for this one use.
        residual -= residual.mean(-1, keepdim=True)
    square = torch.linalg.vector_norm(residual, dim=-1, keepdim=True).square() / residual.shape[-1]
    return residual.mul_((square + epsilon_of(norm)).rsqrt()), gain, shift


class _Grouped(Protocol):
    """An attention of Hugging Face, which repeats each K and V for so many query heads. Its classes share no base."""

    num_key_value_groups: int


@contextmanager
def keys_per_head(model: HookedModel, graph: Graph) -> Iterator[None]:
    """On an ungrouped graph, attention takes one K and V per query head instead of repeating one per group; restored on leaving.

    Raises ValueError on models that make q, k and v by one matrix, whose attention repeats K and V by itself.
    """
    blocks = components_of(model).blocks if graph.n_kv_readers != graph.n_kv_heads else []
    if any(isinstance(block.attn, JointQKVAttentionBridge) for block in blocks):
        raise ValueError(
            f"{model.cfg.model_name}: its q, k and v come from one matrix, and heads that share K and V take none of their own; "
            "run circuits of kv='grouped' scores"
        )
    attentions = [cast(_Grouped, module_of(block.attn)) for block in blocks]
    groups = [attention.num_key_value_groups for attention in attentions]
    try:
        for attention in attentions:
            # Hugging Face repeats K and V so many times; here each query head has its own already.
            attention.num_key_value_groups = 1
        yield
    finally:
        for attention, group in zip(attentions, groups, strict=True):
            attention.num_key_value_groups = group
