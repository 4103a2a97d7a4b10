"""A walk along a path: the model runs with one activation replaced, and every metric is differentiated at the wanted hooks.

A `Source` is where the path runs: the embeddings, or one layer's own outputs, from their corrupt to their clean value. Everything before it
keeps the clean run's values; only what comes after it has a gradient. Parameters are frozen, so the backward computes activations alone.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.metrics import Metric
from mechshift_tl.attribution.path import Points
from mechshift_tl.attribution.rules import RuleHooks
from mechshift_tl.attribution.ungrouped import Split
from mechshift_tl.bridge.hooks import EMBED, Kept, capture, inject
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.bridge.weights import gathered, refetch_in_backward
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.outputs import WriterOutputs
from mechshift_tl.readouts import Batch


@dataclass(frozen=True)
class Source:
    """A path from `corrupt` to `clean` at the hook `name`.

    `writers` are the rows that it moves; `after` is the first reader stage downstream: 2·layer for attention, 2·layer + 1 for an MLP.
    """

    name: str
    clean: Float[Tensor, "b pos *d"]
    corrupt: Float[Tensor, "b pos *d"]
    writers: slice
    after: int

    def at(self, alpha: float | Float[Tensor, " b"]) -> Float[Tensor, "b pos *d"]:
        """The activation at α, one number or one for each row."""
        if isinstance(alpha, Tensor):
            alpha = alpha.to(self.clean).view(-1, *[1] * (self.clean.ndim - 1))
        return self.corrupt + alpha * (self.clean - self.corrupt)


def sources(clean: WriterOutputs, corrupt: WriterOutputs, graph: Graph, *, activations: bool) -> list[Source]:
    """The embeddings' path, which moves every writer; or one path per layer's heads and per MLP besides, each moving its own writers."""
    if not activations:
        return [Source(EMBED, clean.input, corrupt.input, slice(0, len(graph.writers)), 0)]
    paths = [Source(EMBED, clean.input, corrupt.input, slice(0, 1), 0)]
    for i in range(graph.n_layers):
        first = graph.writers_before_attention(i)
        heads, mlp = slice(first, first + graph.n_heads), slice(first + graph.n_heads, first + graph.n_heads + 1)
        paths.append(Source(f"blocks.{i}.attn.hook_z", clean.z[i], corrupt.z[i], heads, 2 * i + 1))
        if graph.mlps:
            paths.append(Source(f"blocks.{i}.hook_mlp_out", clean.mlp[i], corrupt.mlp[i], mlp, 2 * i + 2))
    return paths


def walk(
    model: HookedModel,
    batch: Batch,
    metrics: Sequence[Metric],
    clean_logits: Float[Tensor, "b k d_vocab"],
    source: Source,
    points: Points,
    wanted: Sequence[str],
    watched: Sequence[str] = (),
    splits: Sequence[Split] = (),
    rules: RuleHooks | None = None,
) -> Generator[tuple[float, Kept, list[Kept]], None, None]:
    """Per point of the path its weight, the activations at `wanted` and `watched`, and per metric the gradients at `wanted`, in float32.

    The objective is the sum over rows of metric × positions read, so that rows may be pooled over batches. Several metrics share the
    forward. `splits` add the gradients at K and V per query head; under `rules` the gradients are theirs, zero where a rule stops them.
    The model keeps its hooks until the generator is closed.
    """
    seen: Kept = {}
    live: Kept = {}
    at: Kept = {}
    asked = [*wanted, *(name for split in splits for name in split.wanted)]
    shared = [name for split in splits for name in split.shared]
    rules = RuleHooks() if rules is None else rules
    kept = [*capture([*asked, *shared], live, live=True), *capture(watched, seen)]
    hooks = [*rules.front, *inject(source.name, at), *kept, *rules.behind]
    with torch.enable_grad(), model.hooks(fwd_hooks=hooks):
        for alpha, weight in points:
            # A leaf: the graph begins here, and nothing before this point has a gradient.
            at[source.name] = source.at(alpha).detach().requires_grad_(True)
            # Around the forward alone: that is when autograd decides what it saves.
            with refetch_in_backward(model):
                logits = batch.logits(model)
            gradients: list[Kept] = []
            found: Kept = {}
            for i, metric in enumerate(metrics):
                # The graph is needed once more for the next metric, and for the splits' own backward passes.
                again = bool(splits) or i + 1 < len(metrics)
                found = _differentiate(
                    _objective(metric, logits, batch, clean_logits), live, asked, retain_graph=again, cut=bool(rules.behind)
                )
                for split in splits:
                    found |= split.gradients(live, found)
                # Sums over the path are taken in float32, whatever the model's precision.
                gradients.append(gathered({name: found[name].float() for name in (*wanted, *shared)}, batch.clean.device))
            observed = gathered(seen | {name: tensor.detach() for name, tensor in live.items()}, batch.clean.device)
            yield weight, observed, gradients
            for kept in (observed, seen, live, found, *gradients):
                kept.clear()  # the next point's forward needs the room
            del logits


def _objective(metric: Metric, logits: Tensor, batch: Batch, clean_logits: Tensor) -> Float[Tensor, ""]:
    """The number that is differentiated. Raises ValueError on a metric that has no gradient, such as accuracy."""
    objective = (metric.values(logits, batch, clean_logits) * batch.k).sum()
    if not objective.requires_grad:
        raise ValueError(f"metric {metric.name!r} has no gradient; choose one that has, or method='exact'")
    return objective


def _differentiate(objective: Tensor, live: Kept, names: Sequence[str], *, retain_graph: bool, cut: bool) -> Kept:
    """The gradients at `names`; where the graph is `cut`, those that the objective does not reach are zero."""
    at = [live[name] for name in names]
    gradients = torch.autograd.grad(objective, at, retain_graph=retain_graph, allow_unused=cut)
    return {name: x.new_zeros(x.shape) if g is None else g for name, x, g in zip(names, at, gradients, strict=True)}
