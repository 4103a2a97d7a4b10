"""What the readers ask for: the gradient of the metric at every reader's residual input, averaged over the integration path.

The reference implementation copies the residual stream once per head and per q, k, v, so that each reader has an input to differentiate.
All copies hold the same vector, so none is needed. With x̂ = r·x the normalised residual (r the inverse scale), n = w∘x̂ (+ b) the norm's
output and q[h] = W_Q[h]ᵀ n (+ bias), the gradient of the metric m at the residual input of head h's q is

    J_normᵀ W_Q[h] ∂m/∂q[h]  =  r·w∘(W_Q[h] ∂m/∂q[h])  −  (r/d)·x̂·⟨∂m/∂q[h], q[h] − q₀[h]⟩

where q₀ is q at x̂ = 0 (its biases), because ⟨x̂, w∘W_Q ∂m/∂q⟩ = ⟨q − q₀, ∂m/∂q⟩. LayerNorm also subtracts the first term's mean over d. So:

1. per path point, run the plain model from the interpolated embedding with frozen parameters, and differentiate the metric at q, k, v, the
   MLPs' inputs and the unembedding's input: a forward and an activation-only backward;
2. per head keep Σ r·∂m/∂q in head space and, per point, the scalar (r/d)·⟨∂m/∂q, q − q₀⟩ beside that point's x̂;
3. after the path, once per layer, apply W_Q and w, and subtract the rank-one terms (`AttentionPath.block`).

MLPs and logits have one reader each, so their full gradient is averaged directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.hooks import EMBED, Kept, keep, observe
from mechshift_tl.attribution.metrics import Metric, evaluate
from mechshift_tl.attribution.ungrouped import LIVE as UNGROUPED_LIVE
from mechshift_tl.attribution.ungrouped import SEEN as UNGROUPED_SEEN
from mechshift_tl.attribution.ungrouped import key_value_gradients
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Batch, aligned_logits

KINDS = ("q", "k", "v")


@dataclass
class AttentionPath:
    """One layer's q, k, v readers over the path.

    `sums[kind] (b, pos, reader, d_head)` is Σ weight·r·∂m/∂q; `scalars (b, pos, reader)` and `normalized (b, pos, d)` hold one entry per
    point.
    """

    sums: dict[str, Float[Tensor, "b pos reader d_head"]] = field(default_factory=dict)
    scalars: list[Float[Tensor, "b pos reader"]] = field(default_factory=list)
    normalized: list[Float[Tensor, "b pos d"]] = field(default_factory=list)

    def add(self, gradients: dict[str, Tensor], values: dict[str, Tensor], scale: Tensor, normalized: Tensor, weight: float) -> None:
        """Add one path point: gradients and bias-free values of q, k, v `(b, pos, reader, d_head)`, the norm's scale and output."""
        inverse = (weight / scale.float())[..., None]
        scalars = []
        for kind in KINDS:
            gradient = gradients[kind].float() * inverse
            self.sums[kind] = gradient + self.sums[kind] if kind in self.sums else gradient
            scalars.append((gradient * values[kind].float()).sum(-1) / normalized.shape[-1])
        self.scalars.append(torch.cat(scalars, -1))
        self.normalized.append(normalized.float())

    def block(self, block: Any, graph: Graph) -> Float[Tensor, "reader b pos d"]:
        """Gradients at the residual input of the layer's readers, in the graph's order (all q, all k, all v)."""
        parts = [einsum(self.sums[kind], _weights(block, kind, graph), "b pos r e, r d e -> r b pos d") for kind in KINDS]
        main = torch.cat(parts) * _weight(block.ln1)
        if _centers(block.ln1):
            main -= main.mean(-1, keepdim=True)
        rank_one = einsum(torch.stack(self.scalars), torch.stack(self.normalized), "m b pos r, m b pos d -> r b pos d")
        return main - rank_one


@dataclass
class ReaderPath:
    """The readers of the whole model over the path: per layer `attention` and `mlp (b, pos, d)`; `logits (b, pos, d)`."""

    attention: list[AttentionPath]
    mlp: list[Float[Tensor, "b pos d"]]
    logits: Float[Tensor, "b pos d"]


def integrate(
    model: Any,
    graph: Graph,
    batch: Batch,
    metric: Metric,
    ends: tuple[Float[Tensor, "b pos d"], Float[Tensor, "b pos d"]],
    points: Sequence[tuple[float, float]],
) -> ReaderPath:
    """Average the readers' gradients over `points` (α, weight) between `ends` = (clean, corrupt) embeddings; α = 1 is clean.

    The objective is the sum over rows of metric × positions read, so that rows may be pooled over batches.
    """
    layers = range(graph.n_layers)
    path = ReaderPath([AttentionPath() for _ in layers], [torch.zeros(()) for _ in layers], torch.zeros(()))
    clean, corrupt = ends
    for alpha, weight in points:
        live, seen, gradients = _differentiate(model, graph, batch, metric, corrupt + alpha * (clean - corrupt))
        for i in layers:
            attn = f"blocks.{i}.attn"
            values, slopes = _attention_point(model.blocks[i], graph, attn, live, seen, gradients)
            path.attention[i].add(slopes, values, *_norm(f"blocks.{i}.ln1", seen), weight)
            name = f"blocks.{i}.mlp.hook_in"
            path.mlp[i] = path.mlp[i] + weight * through_norm(gradients[name], model.blocks[i].ln2, *_norm(f"blocks.{i}.ln2", seen))
        final = through_norm(gradients["unembed.hook_in"], model.ln_final, *_norm("ln_final", seen))
        path.logits = path.logits + weight * final
    return path


def through_norm(
    gradient: Float[Tensor, "b pos d"], norm: Any, scale: Float[Tensor, "b pos 1"], normalized: Float[Tensor, "b pos d"]
) -> Float[Tensor, "b pos d"]:
    """Jᵀ·gradient for RMSNorm or LayerNorm: from the norm's output to its residual input."""
    weighted = gradient.float() * _weight(norm)
    if _centers(norm):
        weighted = weighted - weighted.mean(-1, keepdim=True)
    normalized = normalized.float()
    return (weighted - normalized * (weighted * normalized).mean(-1, keepdim=True)) / scale.float()


def _differentiate(model: Any, graph: Graph, batch: Batch, metric: Metric, embedding: Tensor) -> tuple[Kept, Kept, Kept]:
    """One forward from `embedding` and one backward: what lies on the gradient path, what was observed, and the gradients."""
    ungrouped = graph.n_kv_readers != graph.n_kv_heads
    names = ("attn.hook_q", *(UNGROUPED_LIVE if ungrouped else ("attn.hook_k", "attn.hook_v")), "mlp.hook_in")
    wanted = [f"blocks.{i}.{name}" for i in range(graph.n_layers) for name in names] + ["unembed.hook_in"]
    seen_names = ["ln1.hook_scale", "ln1.hook_normalized", "ln2.hook_scale", "ln2.hook_normalized", *(UNGROUPED_SEEN if ungrouped else ())]
    watched = [f"blocks.{i}.{name}" for i in range(graph.n_layers) for name in seen_names]
    live: Kept = {}
    seen: Kept = {}

    def inject(tensor: Tensor, hook: Any) -> Tensor:
        return embedding.detach().requires_grad_(True)

    observers = observe([*watched, "ln_final.hook_scale", "ln_final.hook_normalized"], seen)
    with torch.enable_grad(), model.hooks(fwd_hooks=[(EMBED, inject), *keep(wanted, live), *observers]):
        logits = batch.at_targets(aligned_logits(model, batch.clean)).float()
        values = evaluate(metric, logits, batch.answer_ids, batch.foil_ids)
        objective = (values * batch.answer_ids.shape[1]).sum()
        gradients = torch.autograd.grad(objective, [live[name] for name in wanted])
    return live, seen, dict(zip(wanted, gradients, strict=True))


def _attention_point(
    block: Any, graph: Graph, attn: str, live: Kept, seen: Kept, gradients: Kept
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Bias-free values and gradients of a layer's q, k, v at one path point, each `(b, pos, reader, d_head)`."""
    values = {"q": live[f"{attn}.hook_q"]}
    slopes = {"q": gradients[f"{attn}.hook_q"]}
    if graph.n_kv_readers == graph.n_kv_heads:
        values |= {kind: live[f"{attn}.hook_{kind}"] for kind in "kv"}
        slopes |= {kind: gradients[f"{attn}.hook_{kind}"] for kind in "kv"}
    else:
        repeats = graph.n_heads // graph.n_kv_heads
        values |= {kind: seen[f"{attn}.hook_{kind}"].repeat_interleave(repeats, 2) for kind in "kv"}
        slopes |= key_value_gradients(attn, seen, gradients)
    values = {kind: value.detach() - _at_zero(block, kind, graph) for kind, value in values.items()}
    return values, slopes


def _weights(block: Any, kind: str, graph: Graph) -> Float[Tensor, "reader d d_head"]:
    """W_Q, W_K or W_V per reader, K and V repeated when ungrouped."""
    weights = getattr(block.attn, f"W_{kind.upper()}").detach().float()
    readers = graph.n_heads if kind == "q" else graph.n_kv_readers
    return weights.repeat_interleave(readers // weights.shape[0], 0)


def _at_zero(block: Any, kind: str, graph: Graph) -> Float[Tensor, "reader d_head"] | float:
    """What q, k or v would be at x̂ = 0: the projection's bias, and the norm's bias through the projection."""
    readers = graph.n_heads if kind == "q" else graph.n_kv_readers
    total: Tensor | float = 0.0
    bias = getattr(getattr(block.attn, kind), "bias", None)
    if bias is not None:
        per_head = rearrange(bias.detach(), "(head e) -> head e", e=block.attn.W_Q.shape[-1])
        total = per_head.repeat_interleave(readers // per_head.shape[0], 0)
    norm_bias = getattr(block.ln1, "bias", None)
    if norm_bias is not None:
        total = total + einsum(norm_bias.detach().float(), _weights(block, kind, graph), "d, r d e -> r e")
    return total


def _norm(name: str, seen: Kept) -> tuple[Tensor, Tensor]:
    return seen[f"{name}.hook_scale"], seen[f"{name}.hook_normalized"]


def _weight(norm: Any) -> Float[Tensor, " d"]:
    return norm.weight.detach().float()


def _centers(norm: Any) -> bool:
    """LayerNorm subtracts the mean, RMSNorm does not."""
    return not norm.uses_rms_norm
