"""Gradients at K and V per query head, which no hook of a grouped-query model holds.

With pattern A = softmax(S), z[h] = A[h]·v[g(h)] and S[h] = rot(q[h])·rot(k[g(h)])ᵀ/√d_head:

    ∂m/∂v[h] = A[h]ᵀ ∂m/∂z[h]          ∂m/∂rot(k)[h] = (∂m/∂S[h])ᵀ rot(q[h]) / √d_head

and ∂m/∂k[h] is the latter rotated back. Summed over a group they equal the gradients of the shared K and V. Models that normalise their
keys (Qwen3) are refused: there the latter is the gradient at the normalised key.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

LIVE = ("attn.hook_attn_scores", "attn.hook_z")
SEEN = ("attn.hook_k", "attn.hook_v", "attn.hook_pattern", "attn.hook_rot_q", "attn.hook_cos", "attn.hook_sin")


def check_ungrouped(model: Any) -> None:
    """Raise ValueError on a model whose keys pass a norm of their own."""
    if hasattr(model.blocks[0].attn, "hook_k_normed"):
        raise ValueError(f"{model.cfg.model_name}: keys are normalised per head, so kv='ungrouped' is not known; use kv='grouped'")


def key_value_gradients(attn: str, seen: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[str, Float[Tensor, "b pos head d_head"]]:
    """∂m/∂k and ∂m/∂v per query head at one layer (`attn` is its hook prefix)."""
    query, pattern = seen[f"{attn}.hook_rot_q"], seen[f"{attn}.hook_pattern"]
    at_scores, at_z = gradients[f"{attn}.hook_attn_scores"], gradients[f"{attn}.hook_z"]
    at_z = at_z.reshape(query.shape)
    value = einsum(pattern, at_z, "b h q k, b q h e -> b k h e")
    rotated = einsum(at_scores, query, "b h q k, b q h e -> b k h e") * query.shape[-1] ** -0.5
    return {"k": rotate_back(rotated, seen[f"{attn}.hook_cos"], seen[f"{attn}.hook_sin"]), "v": value}


def rotate_back(
    gradient: Float[Tensor, "b pos head d_head"], cos: Float[Tensor, "#b pos d_head"], sin: Float[Tensor, "#b pos d_head"]
) -> Float[Tensor, "b pos head d_head"]:
    """Transpose of the rotary map x ↦ x·cos + rotate_half(x)·sin with rotate_half(x₁, x₂) = (−x₂, x₁)."""
    cos, sin = cos[:, :, None], sin[:, :, None]
    first, second = (gradient * sin).chunk(2, -1)
    return gradient * cos + torch.cat([second, -first], -1)
