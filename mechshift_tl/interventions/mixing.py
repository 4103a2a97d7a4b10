"""One forward in which every edge is live to some degree, differentiable in these degrees.

A reader v sees, of every writer u, a mixture of its live output and of the one that replaces it, by the edge's mask m(u, v) in [0, 1]:

    input(v) = base(v) + Σ_u m(u, v) (live u − replaced u)

Masks of 1 give the clean run, masks of 0 the base, and masks of 0 and 1 the run of a circuit (`patching`). Each row may have its own.

1. The base is that of `patching`. Every reader gets its own mixture; q, k and v are projected from one residual each.
2. A norm only scales what is projected, n(x) W = x̄ W' / scale(x) with x̄ = x − mean(x) in a LayerNorm, so no normed copy is made.
3. The differences live − replaced of all writers lie in one tensor. The forward adds rows to it, and the backward sums their gradients in
   another; autograd would keep a copy for every layer. A token goes from each operation that adds rows to all that read them, so that
   autograd comes back to a writer after all of its readers.
4. Under causal attention nothing differs before the first token at which clean and corrupt rows do. There, nothing is mixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.bridge.alignment import is_causal
from mechshift_tl.bridge.narrow import narrowed, tokenwise
from mechshift_tl.bridge.norms import centers, epsilon_of, is_identity, norm_weight
from mechshift_tl.bridge.protocol import HookedModel, Norm, components_of
from mechshift_tl.bridge.weights import bias_of, weight_of
from mechshift_tl.graph import Graph, repeated
from mechshift_tl.interventions.patching import Base, keys_per_head, projection
from mechshift_tl.interventions.reader_hooks import KINDS, ReaderHooks
from mechshift_tl.readouts import Batch


def mixed_logits(
    model: HookedModel, batch: Batch, graph: Graph, masks: Float[Tensor, "rows n_writers n_readers"], base: Base
) -> Float[Tensor, "b k d_vocab"]:
    """Aligned logits at the targets (float32) under `masks`, one per row or one for all; differentiable with respect to them.

    One forward of the clean rows, under their mask. The model's weights should take no gradient meanwhile (`gradients.frozen`).
    """
    run = _MixedRun(model, graph, masks, base, _first_that_differs(model, batch, base))
    # As in `patched_logits`: somebody's hooks must see everything run, and idle modules run on one token, not on none.
    idle = run.idle() if batch.narrow else ()
    one = torch.zeros(1, dtype=torch.long, device=base.final.device)
    with keys_per_head(model, graph), model.hooks(fwd_hooks=run.hooks()), narrowed(idle, one):
        logits = batch.logits(model, "clean")
    # The graph of the token holds the differences; did these hold the token still, neither would ever be freed.
    del run.differences.token
    return logits


def _first_that_differs(model: HookedModel, batch: Batch, base: Base) -> int:
    """The first position at which a writer's live output can differ from the one that replaces it; the last one where none can."""
    if not base.own or not is_causal(model):
        return 0
    differs = (batch.clean != batch.corrupt).any(0)
    return int(differs.int().argmax()) if differs.any() else len(differs) - 1


class _MixedRun(ReaderHooks):
    """The hooks of one mixed forward."""

    def __init__(self, model: HookedModel, graph: Graph, masks: Tensor, base: Base, start: int) -> None:
        self.model, self.graph, self.base, self.start = model, graph, base, start
        self.differences = _Differences(base.final[:, start:], len(graph.writers))
        # Per layer the columns of its heads and of its MLP, then the logits: one split, so that the backward joins them once.
        self.masks = masks.to(base.final).split([*[graph.readers_per_layer - 1, 1] * graph.n_layers, 1], 2)

    def idle(self) -> Iterator[torch.nn.Module]:
        """Projections whose outputs are overwritten. A narrow batch runs the end of the last layer at its targets alone anyway."""
        *blocks, last = components_of(self.model).blocks
        for block in blocks:
            yield from tokenwise(block, (*KINDS, "o"))
        yield from tokenwise(last, KINDS[1:])

    def _enter(self, tensor: Tensor, layer: int) -> Tensor:
        """The layer's residual input: the base. What its heads read is mixed here, and kept for `_project`."""
        if layer == 0:
            self._write(0, (tensor - self.base.writers.input)[:, None, self.start :])
        writers = self.graph.writers_before_attention(layer)
        self.read = self._mixed(2 * layer, writers, self.base.pre[layer])
        self.scale = _scale(components_of(self.model).blocks[layer].ln1, self.read)
        return self.base.pre[layer].to(tensor)

    def _project(self, tensor: Tensor, layer: int, kind: str) -> Tensor:
        """q, k or v `(b, pos, head, d_head)` of every head, each from its own residual; the base's where nothing differs."""
        block, heads = components_of(self.model).blocks[layer], self.graph.n_heads if kind == "q" else self.graph.n_kv_readers
        first = {"q": 0, "k": self.graph.n_heads, "v": self.graph.n_heads + self.graph.n_kv_readers}[kind]
        mine = slice(first, first + heads)
        weight, bias = projection(block, kind, list(range(heads)), heads, self.read.device)
        gain, shift = norm_weight(block.ln1, self.read.device), bias_of(block.ln1, self.read.device)
        values = self.read[:, mine] @ _folded(block.ln1, gain[:, None] * weight) * self.scale[:, mine]
        if shift is not None:
            values = values + shift.float()[None] @ weight
        if isinstance(bias, Tensor):
            values = values + bias[:, None]
        kept = repeated(self.base.heads[f"blocks.{layer}.attn.hook_{kind}"], heads, 2)[:, : self.start]
        return torch.cat([kept, values.transpose(1, 2).to(tensor)], 1)

    def _heads(self, tensor: Tensor, layer: int) -> None:
        replaced = self.base.writers.z[layer]
        live = (tensor.to(replaced).reshape(replaced.shape) - replaced)[:, self.start :]
        weight = weight_of(components_of(self.model).blocks[layer].attn, "W_O", replaced.device).float()
        self._write(self.graph.writers_before_attention(layer), live.transpose(1, 2) @ weight)

    def _middle(self, tensor: Tensor, layer: int) -> Tensor:
        # An MLP also reads the heads of its own layer.
        writers = self.graph.writers_before_attention(layer) + self.graph.n_heads
        return self._placed(self._mixed(2 * layer + 1, writers, self.base.mid[layer]), self.base.mid[layer]).to(tensor)

    def _mlp(self, tensor: Tensor, layer: int) -> None:
        live = tensor.to(self.base.final) - self.base.writers.mlp[layer]
        self._write(self.graph.writers_before_attention(layer + 1) - 1, live[:, None, self.start :])

    def _final(self, tensor: Tensor) -> Tensor:
        return self._placed(self._mixed(-1, len(self.graph.writers), self.base.final), self.base.final).to(tensor)

    def _write(self, first: int, differences: Float[Tensor, "b m pos d"]) -> None:
        held = self.differences
        held.token = _Write.apply(held.token, held, first, differences.flatten(2))

    def _mixed(self, part: int, writers: int, base: Float[Tensor, "b pos d"]) -> Float[Tensor, "b reader pos d"]:
        """What each reader of one part of the masks sees of the first `writers` writers."""
        held = self.differences
        mask = self.masks[part][:, :writers]
        return _Mix.apply(held.token, held, mask, base[:, self.start :].flatten(1)).unflatten(2, (-1, base.shape[-1]))

    def _placed(self, mixed: Float[Tensor, "b 1 pos d"], base: Float[Tensor, "b pos d"]) -> Float[Tensor, "b pos d"]:
        return torch.cat([base[:, : self.start], mixed[:, 0]], 1)


class _Differences:
    """live − replaced of every writer, `values (b, n_writers, pos · d)`, and the gradients that the backward gathers for them."""

    def __init__(self, like: Float[Tensor, "b pos d"], writers: int) -> None:
        self.values = like.new_zeros(len(like), writers, like[0].numel())
        self.gradients: Tensor | None = None
        self.token = like.new_zeros(()).requires_grad_()


class _Write(torch.autograd.Function):
    """Put differences into their rows. Comes back with the gradients that all of their readers have added up there."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, held: _Differences, first: int, differences: Float[Tensor, "b m n"]) -> Tensor:
        ctx.held, ctx.rows = held, slice(first, first + differences.shape[1])
        held.values[:, ctx.rows] = differences
        return token.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None, None, ctx.held.gradients[:, ctx.rows]


class _Mix(torch.autograd.Function):
    """base + maskᵀ · differences, per reader."""

    @staticmethod
    def forward(
        ctx: Any, token: Tensor, held: _Differences, mask: Float[Tensor, "rows w reader"], base: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b reader n"]:
        ctx.held = held
        ctx.save_for_backward(mask)
        values = held.values[:, : mask.shape[1]]
        return torch.baddbmm(base[:, None], mask.mT.expand(len(values), -1, -1), values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        held, (mask,), (gradient,) = ctx.held, ctx.saved_tensors, gradients
        if held.gradients is None:
            held.gradients = torch.zeros_like(held.values)
        writers = mask.shape[1]
        held.gradients[:, :writers].baddbmm_(mask.expand(len(gradient), -1, -1), gradient)
        of_mask = held.values[:, :writers] @ gradient.mT
        return gradient.new_zeros(()), None, of_mask.sum_to_size(mask.shape), None


def _scale(norm: Norm, residual: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows 1"]:
    """1 / scale of RMSNorm or LayerNorm; 1 without a norm."""
    if is_identity(norm):
        return torch.ones_like(residual[..., :1])
    if centers(norm):
        residual = residual - residual.mean(-1, keepdim=True)
    square = torch.linalg.vector_norm(residual, dim=-1, keepdim=True).square() / residual.shape[-1]
    return (square + epsilon_of(norm)).rsqrt()


def _folded(norm: Norm, weight: Float[Tensor, "head d d_head"]) -> Float[Tensor, "head d d_head"]:
    """The weights with a LayerNorm's centring: (x − mean(x)) W = x (W − mean of W over its rows)."""
    return weight - weight.mean(1, keepdim=True) if centers(norm) else weight
