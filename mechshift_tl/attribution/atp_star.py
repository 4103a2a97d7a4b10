"""AtP* (Kramár et al. 2403.00745): attribution patching with two corrections, GradDrop and QK.

**GradDrop.** A gradient may be small because two ways through the network cancel. So it is taken once for every layer with that layer's
outputs left out of the way back, and the score's size is the mean of the sizes over the layers that leave a gradient:

    |score| = Σ_ℓ |score without layer ℓ| / (L − 1)       per example; L instead of L − 1 for the input and for edges into the logits

The paper's scores have no sign. Here they have that of Σ_ℓ score without ℓ, so that positive still means support.

**QK.** A softmax is far from linear. So an edge into q or k moves the attention pattern as far as it really moves, and only from there on
the gradient is trusted. With q' read from the residual less Δu, and k' likewise at all positions together,

    score(u → q) = ⟨softmax(S(q, k)) − softmax(S(q', k)), ∂m/∂pattern⟩

S is taken to be linear in q and in k, which it is but for norms of queries and keys, and for caps. Where a model does not show S,
log softmax(S) serves: it differs by one number per query, which no softmax sees, but ends where the softmax underflows. The paper moves
one key at a time.

Cost per row: L forwards with their backwards, one more forward, and per layer the queries and keys of every earlier writer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.gradients import HookFunction
from mechshift_tl.attribution.exact import Written
from mechshift_tl.bridge.hooks import Hooks, Kept, capture
from mechshift_tl.bridge.norms import normed
from mechshift_tl.bridge.protocol import HookedModel, components_of, is_native
from mechshift_tl.bridge.weights import weight_of
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.outputs import WriterOutputs
from mechshift_tl.readouts import Batch


class Dropped:
    """Scores of one metric with each layer left out: their sum, and the sum of their sizes, row by row."""

    def __init__(self) -> None:
        self.signed: Float[Tensor, "rows 1 *scores"] | None = None
        self.sizes: Float[Tensor, "rows 1 *scores"] | None = None

    def add(self, scores: Float[Tensor, "rows 1 *scores"]) -> None:
        """Add the scores without one layer."""
        self.signed = scores.clone() if self.signed is None else self.signed.add_(scores)
        self.sizes = scores.abs() if self.sizes is None else self.sizes.add_(scores.abs())

    def put(self, place: tuple[int | slice, ...], scores: Float[Tensor, "drops ..."]) -> None:
        """Put scores without each of the layers in the place of those that were added."""
        assert self.signed is not None and self.sizes is not None
        self.signed[place], self.sizes[place] = scores.sum(0), scores.abs().sum(0)

    def mean(self, layers: Float[Tensor, " scores"], per_row: bool) -> Float[Tensor, "rows 1 *scores"]:
        """Signed sizes; `layers` counts those that leave the last axis a gradient. Rows are summed unless they are kept apart."""
        assert self.signed is not None and self.sizes is not None
        found = self.signed.sign() * self.sizes / layers.clamp_min(1)
        return found if per_row else found.sum(0, keepdim=True)


def pattern_hooks(graph: Graph) -> list[str]:
    """Hooks of the attention patterns."""
    return [f"blocks.{layer}.attn.hook_pattern" for layer in range(graph.n_layers)]


def check_scores_seen(model: HookedModel) -> None:
    """Raise ValueError on a model whose attention scores cannot be differentiated at hooked queries and keys."""
    if is_native(model):
        raise ValueError(
            f"attribute: method 'atp*' differentiates attention scores at queries and keys; TransformerLens' own attention "
            f"({model.cfg.model_name}) hands on neither. Choose 'eap-ig' or 'relp'"
        )


def correct_qk(
    model: HookedModel, graph: Graph, batch: Batch, deltas: WriterOutputs, slopes: Sequence[Sequence[Kept]], found: Sequence[Dropped]
) -> None:
    """Put the corrected scores of all edges into q and k into `found`, one per metric; `slopes`: ∂m/∂pattern per dropped layer, metric."""
    for i in range(len(batch)):
        row = _Row.of(model, graph, batch, deltas, i)
        for layer in range(graph.n_layers):
            moved = row.patterns_moved(layer)
            first, end = graph.attention_readers(layer).start, graph.writers_before_attention(layer)
            for metric, dropped in enumerate(found):
                slope = torch.stack([one[metric][f"blocks.{layer}.attn.hook_pattern"][i] for one in slopes])
                for kind, start in (("q", first), ("k", first + graph.n_heads)):
                    met = einsum(moved[kind], slope, "writer head q k, drop head q k -> drop writer head")
                    readers = graph.n_heads if kind == "q" else graph.n_kv_readers
                    # Query heads that share a reader: what it moves is what they all move.
                    met = rearrange(met, "drop writer (reader member) -> drop writer reader member", reader=readers).sum(-1)
                    dropped.put((i, 0, slice(0, end), slice(start, start + readers)), met)


@dataclass(frozen=True)
class _Row:
    """One row's clean run: residuals, queries and keys as leaves, and the attention patterns that follow from them."""

    model: HookedModel
    graph: Graph
    written: Written
    clean: Kept
    live: Kept

    @classmethod
    def of(cls, model: HookedModel, graph: Graph, batch: Batch, deltas: WriterOutputs, i: int) -> _Row:
        clean: Kept = {}
        live: Kept = {}
        hooks = capture([f"blocks.{layer}.hook_resid_pre" for layer in range(graph.n_layers)], clean)
        for layer in range(graph.n_layers):
            hooks += _leaves(f"blocks.{layer}.attn", live)
        with torch.enable_grad(), model.hooks(fwd_hooks=hooks):
            batch.rows(slice(i, i + 1)).logits(model)
        where = torch.ones_like(batch.clean[i], dtype=torch.bool)
        return cls(model, graph, Written(model, graph, deltas, i, where), clean, live)

    def patterns_moved(self, layer: int) -> dict[str, Float[Tensor, "writer head q k"]]:
        """By how much each earlier writer's edges into all queries, and into all keys, move the pattern: clean − patched."""
        block, attn = components_of(self.model).blocks[layer], f"blocks.{layer}.attn"
        residual = self.clean[f"blocks.{layer}.hook_resid_pre"]
        by = self.written.by(torch.arange(self.graph.writers_before_attention(layer)))
        inputs = normed(residual - by, block.ln1, self.model.cfg.eps) - normed(residual, block.ln1, self.model.cfg.eps)
        moved = {
            kind: einsum(inputs, weight_of(block.attn, f"W_{kind.upper()}", inputs.device).float(), "w p d, h d e -> w p h e")
            for kind in "qk"
        }
        scores = self.live.get(f"{attn}.hook_attn_scores")
        if scores is None:
            # What is hidden has P = 0; the bound keeps its logarithm finite, and gives it no slope.
            scores = self.live[f"{attn}.hook_pattern"].float().clamp_min(torch.finfo(torch.float32).tiny).log()
        by_query = _slopes(scores, self.live[f"{attn}.hook_q"], 3, 1)[:, 0]
        shifts = {"q": einsum(moved["q"], by_query, "w q h e, k q h e -> w h q k")}
        members = self.graph.n_heads // self.graph.n_kv_heads
        by_key = [_slopes(scores, self.live[f"{attn}.hook_k"], 2, members, member)[:, 0] for member in range(members)]
        shifts["k"] = einsum(moved["k"], torch.stack(by_key), "w k g e, m q k g e -> w g m q k").flatten(1, 2)
        clean = scores.detach().float()
        return {kind: clean.softmax(-1) - (clean + shift).softmax(-1) for kind, shift in shifts.items()}


def _leaves(attn: str, live: Kept) -> Hooks:
    """Hooks that make queries and keys leaves, keep scores and pattern, and end the graph behind them."""

    def leaf(name: str) -> HookFunction:
        def hook_fn(tensor: Tensor, hook: object) -> Tensor:
            live[name] = tensor.detach().requires_grad_(True)
            return live[name]

        return hook_fn

    kept = capture([f"{attn}.hook_attn_scores", f"{attn}.hook_pattern"], live, live=True)
    cut: Hooks = [(f"{attn}.hook_pattern", lambda tensor, hook: tensor.detach())]
    return [*((f"{attn}.hook_{kind}", leaf(f"{attn}.hook_{kind}")) for kind in "qk"), *kept, *cut]


def _slopes(
    scores: Float[Tensor, "1 head q k"], of: Tensor, axis: int, members: int, member: int = 0
) -> Float[Tensor, "place 1 pos head e"]:
    """∂scores/∂`of`, for each place on `axis` of the scores alone, and for every `members`-th head from `member` on."""
    places = scores.shape[axis]
    chosen = scores.new_zeros(places, *scores.shape)
    for place in range(places):
        at: list[int | slice] = [place, slice(None), slice(member, None, members), slice(None), slice(None)]
        at[axis + 1] = place
        chosen[tuple(at)] = 1
    (found,) = torch.autograd.grad(scores, of, chosen, retain_graph=True, is_grads_batched=True)
    return found.float()
