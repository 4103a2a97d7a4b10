"""The gradient of the metric at every reader's residual input, averaged over the integration path.

The reference implementation copies the residual stream once per head and per q, k, v, so that each reader has an input to differentiate.
All copies hold the same vector, so none is needed. With x̂ = r·x the normalised residual (r the inverse scale), n = w∘x̂ (+ b) the norm's
output and q[h] = W_Q[h]ᵀ n (+ bias), the gradient of the metric m at the residual input of head h's q is

    J_normᵀ W_Q[h] ∂m/∂q[h]  =  r·w∘(W_Q[h] ∂m/∂q[h])  −  (r/d)·x̂·⟨∂m/∂q[h], q[h] − q₀[h]⟩

where q₀ is q at x̂ = 0 (its biases), because ⟨x̂, w∘W_Q ∂m/∂q⟩ = ⟨q − q₀, ∂m/∂q⟩. LayerNorm also subtracts the first term's mean over d.
So:

1. per path point (`gradients`), the metric is differentiated at q, k, v, the MLPs' inputs and the unembedding's input;
2. per head Σ r·∂m/∂q is kept in head space and, per point, the scalar (r/d)·⟨∂m/∂q, q − q₀⟩ beside that point's x̂;
3. after the path, once per layer, the sum goes through W_Q with w (and LayerNorm's mean) folded in, minus the rank-one terms.

MLPs and logits have one reader each, so their two terms are summed directly. Positions of all rows are flattened into `tok`.
Under the backward rule "norms" (`rules`) r is a constant, so the rank-one terms are left out: `frozen`.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.ungrouped import Split
from mechshift_tl.bridge.hooks import Kept
from mechshift_tl.bridge.norms import centers, is_identity, norm_weight
from mechshift_tl.bridge.protocol import Block, HookedModel, Norm, components_of
from mechshift_tl.bridge.weights import bias_of, weight_of
from mechshift_tl.graph import Graph, repeated

KINDS = "qkv"
NORM_HOOKS = ("hook_scale", "hook_in")
Tokens = slice | Tensor


class ReaderPath:
    """All readers downstream of a path, while it is walked: `add` each point, then ask for a layer's `attention`, an `mlp`, the `logits`.

    `after` is the first stage downstream: 2·layer for attention, 2·layer + 1 for an MLP. Memory: (H + 2·KV)·d_head + d floats per token
    and layer, and d more for every point. `frozen`: the norms' scales are constants.
    """

    def __init__(self, model: HookedModel, graph: Graph, after: int = 0, *, frozen: bool = False) -> None:
        layers = range(graph.n_layers)
        self.attention = {i: AttentionReaders(components_of(model).blocks[i], i, graph, frozen) for i in layers if after <= 2 * i}
        self.mlp = {
            i: SingleReader(components_of(model).blocks[i].ln2, f"blocks.{i}.ln2", f"blocks.{i}.mlp.hook_in", frozen)
            for i in layers
            if graph.mlps and after <= 2 * i + 1
        }
        self.logits = SingleReader(components_of(model).ln_final, "ln_final", "unembed.hook_in", frozen)

    @property
    def all(self) -> list[AttentionReaders | SingleReader]:
        """Every norm's readers."""
        return [*self.attention.values(), *self.mlp.values(), self.logits]

    @property
    def wanted(self) -> list[str]:
        """Hooks at which the metric must be differentiated."""
        return [name for readers in self.all for name in readers.wanted]

    @property
    def watched(self) -> list[str]:
        """Hooks whose activations `add` needs, too."""
        return [name for readers in self.all for name in readers.watched]

    @property
    def splits(self) -> list[Split]:
        """Layers whose K and V gradients are wanted per query head."""
        return [split for readers in self.attention.values() for split in readers.splits]

    def add(self, seen: Kept, gradients: Kept, weight: float) -> None:
        """Add one point of the path with its quadrature weight."""
        for readers in self.all:
            readers.add(seen, gradients, weight)


class AttentionReaders:
    """One layer's q, k, v readers: all q, all k, all v, as the graph orders them."""

    def __init__(self, block: Block, layer: int, graph: Graph, frozen: bool) -> None:
        self.frozen = frozen
        self.block, self.graph, self.attn, self.norm = block, graph, f"blocks.{layer}.attn", f"blocks.{layer}.ln1"
        separate = graph.n_kv_readers // graph.n_kv_heads
        self.splits = [Split(self.attn, separate)] if separate > 1 else []
        self.wanted = [f"{self.attn}.hook_{kind}" for kind in ("q" if self.splits else KINDS)]
        self.watched = _watched(self.norm, block.ln1)
        self.at_zero = _at_zero(block, graph)
        self.sums: Float[Tensor, "tok reader d_head"] | None = None
        self.scalars: list[Float[Tensor, "tok reader"]] = []
        self.normalized: list[Float[Tensor, "tok d"]] = []

    def add(self, seen: Kept, gradients: Kept, weight: float) -> None:
        """Add one point: Σ weight·r·∂m/∂(q, k, v) and the rank-one term's factors."""
        slopes = torch.cat([gradients[f"{self.attn}.hook_{kind}"] for kind in KINDS], 2).flatten(0, 1)
        scale, normalized = _norm_at(self.norm, seen, self.block.ln1)
        # The quadrature weight goes in here, once for both terms of the formula.
        inverse = (weight / scale)[..., None]
        self.sums = slopes * inverse if self.sums is None else self.sums.addcmul_(slopes, inverse)
        if self.frozen:
            return
        values = self._values(seen)
        # ⟨∂m/∂q, q − q₀⟩ of the formula: q without what the biases add.
        values = values if self.at_zero is None else values - self.at_zero.to(values.device)
        # In place: `cat` made `slopes` a copy, and this is its last use.
        self.scalars.append(slopes.mul_(values).sum(-1) * (inverse[..., 0] / normalized.shape[-1]))
        self.normalized.append(normalized)

    def block_of(self, tokens: Tokens, out: Float[Tensor, "reader tok d"]) -> None:
        """Write to `out` the gradients at the residual input of the layer's readers, on the chosen tokens."""
        assert self.sums is not None
        sums, start = self.sums[tokens].transpose(0, 1), 0
        for kind in KINDS:
            weights = _weights(self.block, kind, self.graph, out.device)
            mine = slice(start, start := start + len(weights))
            torch.bmm(sums[mine], weights.mT, out=out[mine])
        out *= norm_weight(self.block.ln1, out.device)
        if centers(self.block.ln1):
            out -= out.mean(-1, keepdim=True)
        if self.frozen:
            return
        # One product for the rank-one terms of all points: (tok, reader, point) times (tok, point, d).
        rank_one = torch.stack([one[tokens] for one in self.scalars], -1), torch.stack([one[tokens] for one in self.normalized], 1)
        out.transpose(0, 1).baddbmm_(*rank_one, alpha=-1)

    def _values(self, seen: Kept) -> Float[Tensor, "tok reader d_head"]:
        values = (repeated(seen[f"{self.attn}.hook_{kind}"].float(), self._readers(kind), 2) for kind in KINDS)
        return torch.cat(list(values), 2).flatten(0, 1)

    def _readers(self, kind: str) -> int:
        """How many readers of one kind the layer has."""
        return self.graph.n_heads if kind == "q" else self.graph.n_kv_readers


class SingleReader:
    """The one reader behind a norm: an MLP's input, or the unembedding's."""

    def __init__(self, norm: Norm, name: str, hook: str, frozen: bool) -> None:
        self.norm, self.name, self.hook, self.frozen = norm, name, hook, frozen
        self.wanted, self.watched = [hook], _watched(name, norm)
        self.weight = norm_weight(norm)
        self.sums: Float[Tensor, "tok d"] | None = None

    def add(self, seen: Kept, gradients: Kept, weight: float) -> None:
        """Add one point: weight·r·(w∘∂m/∂n − x̂·⟨x̂, w∘∂m/∂n⟩/d)."""
        slope = gradients[self.hook].reshape(-1, len(self.weight)) * self.weight.to(gradients[self.hook].device)
        scale, normalized = _norm_at(self.name, seen, self.norm)
        inverse = weight / scale
        along = None if self.frozen else (slope * normalized).mean(-1, keepdim=True).mul_(inverse)
        self.sums = slope.mul_(inverse) if self.sums is None else self.sums.addcmul_(slope, inverse)
        if along is not None:
            self.sums.addcmul_(normalized, along, value=-1)

    def block_of(self, tokens: Tokens, out: Float[Tensor, "1 tok d"]) -> None:
        """Write to `out` the gradient at the reader's residual input, on the chosen tokens; LayerNorm takes out its mean (x̂ has none)."""
        assert self.sums is not None
        out[0] = self.sums[tokens]
        if centers(self.norm):
            out -= out.mean(-1, keepdim=True)


def _watched(name: str, norm: Norm) -> list[str]:
    """The hooks of a norm that `_norm_at` reads."""
    return [f"{name}.{hook}" for hook in NORM_HOOKS[int(is_identity(norm)) :]]


def _norm_at(name: str, seen: Kept, norm: Norm) -> tuple[Float[Tensor, "tok 1"], Float[Tensor, "tok d"]]:
    """A norm's scale and x̂ at one point. x̂ is computed from the norm's input, which autograd keeps anyway; no second tensor is kept.

    Where there is no norm, nothing is divided and no rank-one term exists: scale 1 and x̂ = 0.
    """
    if is_identity(norm):
        residual = seen[f"{name}.{NORM_HOOKS[1]}"].float().flatten(0, -2)
        return torch.ones_like(residual[:, :1]), torch.zeros_like(residual)
    scale, residual = (seen[f"{name}.{hook}"].float().flatten(0, -2) for hook in NORM_HOOKS)
    if centers(norm):
        residual = residual - residual.mean(-1, keepdim=True)
    return scale, residual / scale


def _weights(block: Block, kind: str, graph: Graph, device: torch.device | None = None) -> Float[Tensor, "reader d d_head"]:
    """W_Q, W_K or W_V per reader, K and V repeated when ungrouped."""
    weights = weight_of(block.attn, f"W_{kind.upper()}", device).float()
    return repeated(weights, graph.n_heads if kind == "q" else graph.n_kv_readers, 0)


def _at_zero(block: Block, graph: Graph) -> Float[Tensor, "reader d_head"] | None:
    """q, k and v at x̂ = 0: the projections' biases, plus the norm's bias through the projections. None without biases."""
    biases, norm_bias = {kind: bias_of(getattr(block.attn, kind)) for kind in KINDS}, bias_of(block.ln1)
    if norm_bias is None and all(bias is None for bias in biases.values()):
        return None
    parts = []
    for kind, bias in biases.items():
        weights = _weights(block, kind, graph, None if norm_bias is None else norm_bias.device)
        total = weights.new_zeros(weights.shape[0], weights.shape[2])
        if bias is not None:
            total = total + repeated(rearrange(bias.to(weights), "(head e) -> head e", e=weights.shape[-1]), len(weights), 0)
        parts.append(total if norm_bias is None else total + norm_bias.float() @ weights)
    return torch.cat(parts)
