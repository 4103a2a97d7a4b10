"""(c) The published method, done literally: TransformerLens' hooks on a residual stream that is copied for every reader.

As in the EAP-IG code of Hanna et al.: one run of each side gives the writers' differences, kept as one tensor `(b, pos, writer, d)` with
every head's result in the residual's width; then per path point a forward in which each layer gives every head its own copy of the
residual for q, k and v, and a backward whose hooks score all writers so far against each layer's copies.

Two versions, both in one batch of all prompts. `split_hooks` is TransformerLens 4's own: results per head by one product, and parameters
frozen. `published` does what the published code does on the TransformerLens it was written for (2 and 3): each head's result is
(z · W_O).sum over d_head, a broadcast product `(b, pos, head, d_head, d)`, and the backward also fills the parameters' gradients, which
nothing reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.gradients import frozen
from mechshift_tl.attribution.metrics import logit_diff
from mechshift_tl.attribution.path import quadrature
from mechshift_tl.bridge.hooks import EMBED, Hooks
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Batch, Readouts, aligned_logits

FLAGS = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")


def split_hooks(model: Any, readouts: Readouts, ig_steps: int) -> Float[Tensor, "n_writers n_readers"]:
    """Scores of every edge of a TransformerLens bridge, per KV head; on a model without groups, per query head."""
    with frozen(model):
        return _scores(model, readouts, ig_steps, [])


def published(model: Any, readouts: Readouts, ig_steps: int) -> Float[Tensor, "n_writers n_readers"]:
    """The same scores with the published code's arithmetic: broadcast results, gradients of all parameters."""
    with frozen(model):
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        scores = _scores(model, readouts, ig_steps, broadcast_results(model))
        for parameter in model.parameters():
            parameter.grad = None
    return scores


def _scores(model: Any, readouts: Readouts, ig_steps: int, results: Hooks) -> Float[Tensor, "n_writers n_readers"]:
    (batch,) = readouts.batches(readouts.clean.numel())
    graph = Graph.of(model)
    scores = torch.zeros(len(graph.writers), len(graph.readers))
    with split(model):
        written, clean, corrupt = differences(model, graph, batch, results)
        for alpha, _ in quadrature("midpoint", ig_steps):
            point = (corrupt + alpha * (clean - corrupt)).requires_grad_(True)
            embedded = (EMBED, lambda tensor, hook, point=point: point)
            with model.hooks(fwd_hooks=[embedded, *results], bwd_hooks=score_hooks(graph, written, scores)):
                value = logit_diff(batch.at_targets(aligned_logits(model, batch.clean)), batch.answer_ids, batch.foil_ids)
                value.sum().backward()
    return scores / (ig_steps * len(readouts))


def broadcast_results(model: Any) -> Hooks:
    """Hooks that put every head's result, as a broadcast product, in the place of TransformerLens' own."""

    def pair(attn: Any) -> tuple[Callable, Callable]:
        kept: dict[str, Tensor] = {}

        def keep_z(z: Tensor, hook: Any) -> Tensor:
            kept["z"] = z
            return z

        def product(result: Tensor, hook: Any) -> Tensor:
            return (kept["z"].reshape(*result.shape[:-1], -1, 1) * attn.W_O).sum(-2)

        return keep_z, product

    names = ("hook_z", "hook_result")
    return [
        (f"blocks.{layer}.attn.{name}", hook)
        for layer, block in enumerate(model.blocks)
        for name, hook in zip(names, pair(block.attn), strict=True)
    ]


@contextmanager
def split(model: Any) -> Iterator[None]:
    """TransformerLens' flags for a residual copied per reader and for results per head, off again afterwards."""
    try:
        for flag in FLAGS:
            getattr(model, f"set_{flag}")(True)
        yield
    finally:
        for flag in FLAGS:
            getattr(model, f"set_{flag}")(False)


@torch.no_grad()
def differences(model: Any, graph: Graph, batch: Batch, results: Hooks) -> tuple[Float[Tensor, "b pos n_writers d"], Tensor, Tensor]:
    """Clean − corrupt output of every writer, and the clean and corrupt embeddings."""
    written = torch.zeros(*batch.clean.shape, len(graph.writers), model.cfg.d_model)
    ends = []
    for tokens, sign in ((batch.clean, 1), (batch.corrupt, -1)):
        model.run_with_hooks(tokens, fwd_hooks=[*results, *_writer_hooks(graph, written, sign, ends)])
    return written, ends[0], ends[1]


def _writer_hooks(graph: Graph, written: Tensor, sign: int, ends: list[Tensor]) -> Hooks:
    def add(columns: slice) -> Callable:
        def hook_fn(tensor: Tensor, hook: Any) -> None:
            written[:, :, columns] += sign * tensor.reshape(*tensor.shape[:2], -1, tensor.shape[-1])
            if columns.start == 0:
                ends.append(tensor)

        return hook_fn

    hooks: Hooks = [(EMBED, add(slice(0, 1)))]
    for layer in range(graph.n_layers):
        heads = graph.writers_before_attention(layer)
        mlp = heads + graph.n_heads
        hooks += [(f"blocks.{layer}.attn.hook_result", add(slice(heads, mlp)))]
        hooks += [(f"blocks.{layer}.hook_mlp_out", add(slice(mlp, mlp + 1)))]
    return hooks


def score_hooks(graph: Graph, written: Float[Tensor, "b pos n_writers d"], scores: Tensor) -> Hooks:
    """Backward hooks on every reader's input that add its scores."""

    def add(n_writers: int, columns: slice) -> Callable:
        def hook_fn(gradient: Tensor, hook: Any) -> None:
            readers = gradient.reshape(*gradient.shape[:2], -1, gradient.shape[-1])
            scores[:n_writers, columns] += einsum(written[:, :, :n_writers], readers, "b pos u d, b pos v d -> u v")

        return hook_fn

    hooks = []
    for layer in range(graph.n_layers):
        before, readers, mlp = graph.writers_before_attention(layer), graph.attention_readers(layer), graph.mlp_reader(layer)
        start = readers.start
        for kind, n in (("q", graph.n_heads), ("k", graph.n_kv_heads), ("v", graph.n_kv_heads)):
            hooks.append((f"blocks.{layer}.attn.hook_{kind}_input", add(before, slice(start, start + n))))
            start += n
        hooks.append((f"blocks.{layer}.hook_mlp_in", add(before + graph.n_heads, slice(mlp, mlp + 1))))
    last = len(graph.readers) - 1
    return [*hooks, (f"blocks.{graph.n_layers - 1}.hook_resid_post", add(len(graph.writers), slice(last, last + 1)))]
