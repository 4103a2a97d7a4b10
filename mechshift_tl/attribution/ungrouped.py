"""Gradients at K and V per query head. No hook of a grouped-query model holds them: its gradient is a sum over the group's query heads.

With S the attention scores and z the heads' outputs, ∂m/∂k of a KV head is the sum over its query heads h of (∂S[h]/∂k)ᵀ ∂m/∂S[h], and
∂m/∂v the sum of (∂z[h]/∂v)ᵀ ∂m/∂z[h]. Each term is computed alone: ∂m/∂S, zero but at one head of every group, goes back through the
model's own graph from the scores to k; ∂m/∂z from z to v. What lies between (rotation, a norm of the keys, scale, cap, mask) is the
model's, so this works for any architecture that scores keys by heads, and the terms sum to the gradients of the shared K and V.

Cost: as many backward passes through these two products as a group has heads; none through projections, MLPs or norms of the residual.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.bridge.hooks import Kept


@dataclass(frozen=True)
class Split:
    """One layer whose K and V are split by query head. `attn`: its attention's hook prefix; `group_size`: query heads per K/V head."""

    attn: str
    group_size: int

    @property
    def wanted(self) -> list[str]:
        """Hooks at which the metric must be differentiated."""
        return [f"{self.attn}.hook_attn_scores", f"{self.attn}.hook_z"]

    @property
    def shared(self) -> list[str]:
        """Hooks of the shared K and V, which must lie on the gradient path."""
        return [f"{self.attn}.hook_k", f"{self.attn}.hook_v"]

    def gradients(self, live: Kept, found: Kept) -> dict[str, Float[Tensor, "b pos head d_head"]]:
        """∂m/∂k and ∂m/∂v per query head under the names of `shared`, from those `found` at `wanted`, while the graph is alive."""
        heads_at = (1, 2)  # scores (b, head, query, key); z (b, pos, head, d_head)
        parts = zip(self.shared, self.wanted, heads_at, strict=True)
        return {shared: self._by_member(live[shared], live[asked], found[asked], axis) for shared, asked, axis in parts}

    def _by_member(self, shared: Tensor, asked: Tensor, gradient: Tensor, axis: int) -> Float[Tensor, "b pos head d_head"]:
        if gradient.ndim == 3:
            # Some architectures give z with its heads already joined.
            gradient = gradient.unflatten(-1, (shared.shape[2] * self.group_size, -1))
        alone = gradient.new_zeros(self.group_size, *gradient.shape)
        for member in range(self.group_size):
            mine: list[slice | int | Tensor] = [slice(None)] * 4
            # Heads of one group are neighbours, so every `group_size`-th head is the same member of its group.
            mine[axis] = slice(member, None, self.group_size)
            alone[member][tuple(mine)] = gradient[tuple(mine)]
        # Batched: one call runs the backward of every member.
        (parts,) = torch.autograd.grad(asked, shared, alone.reshape(-1, *asked.shape), retain_graph=True, is_grads_batched=True)
        return parts.movedim(0, 3).flatten(2, 3)
