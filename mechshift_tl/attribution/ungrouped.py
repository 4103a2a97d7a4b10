"""Gradients at K and V per query head, which no hook of a grouped-query model holds.

With pattern A = softmax(S), z[h] = A[h]·v[g(h)] and S[h] = rot(q[h])·rot(k[g(h)])ᵀ/√d_head:

    ∂m/∂v[h] = A[h]ᵀ ∂m/∂z[h]          ∂m/∂rot(k)[h] = (∂m/∂S[h])ᵀ rot(q[h]) / √d_head

and ∂m/∂k[h] is the latter rotated back. Where keys pass a norm of their own before the rotation (Qwen3), it is taken through that norm's
Jacobian as well. Summed over a group they equal the gradients of the shared K and V.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.graph import Graph

LIVE = ("hook_attn_scores", "hook_z")
SEEN = ("hook_k", "hook_v", "hook_pattern", "hook_rot_q", "hook_cos", "hook_sin")
SEEN_OF_NORM = ("k_norm.hook_scale", "k_norm.hook_normalized")


def seen_names(block: Any) -> tuple[str, ...]:
    """Hooks of a layer's attention whose activations are needed."""
    return (*SEEN, *(SEEN_OF_NORM if _normalises_keys(block) else ()))


def key_value_gradients(
    block: Any, attn: str, graph: Graph, seen: dict[str, Tensor], gradients: dict[str, Tensor]
) -> tuple[Float[Tensor, "b pos head d_head"], Float[Tensor, "b pos head d_head"]]:
    """∂m/∂k and ∂m/∂v per query head at one layer (`attn` is its hook prefix), float32."""
    query, pattern = seen[f"{attn}.hook_rot_q"].float(), seen[f"{attn}.hook_pattern"].float()
    at_scores, at_z = gradients[f"{attn}.hook_attn_scores"], gradients[f"{attn}.hook_z"].reshape(query.shape)
    value = einsum(pattern, at_z, "b h q k, b q h e -> b k h e")
    rotated = einsum(at_scores, query, "b h q k, b q h e -> b k h e") * query.shape[-1] ** -0.5
    key = rotate_back(rotated, seen[f"{attn}.hook_cos"].float(), seen[f"{attn}.hook_sin"].float())
    if _normalises_keys(block):
        key = _through_key_norm(key, block, attn, graph, seen)
    return key, value


def rotate_back(
    gradient: Float[Tensor, "b pos head d_head"], cos: Float[Tensor, "#b pos d_head"], sin: Float[Tensor, "#b pos d_head"]
) -> Float[Tensor, "b pos head d_head"]:
    """Transpose of the rotary map x ↦ x·cos + rotate_half(x)·sin with rotate_half(x₁, x₂) = (−x₂, x₁)."""
    cos, sin = cos[:, :, None], sin[:, :, None]
    first, second = (gradient * sin).chunk(2, -1)
    return gradient * cos + torch.cat([second, -first], -1)


def _normalises_keys(block: Any) -> bool:
    return hasattr(block.attn, "hook_k_normed")


def _through_key_norm(
    gradient: Float[Tensor, "b pos head d_head"], block: Any, attn: str, graph: Graph, seen: dict[str, Tensor]
) -> Float[Tensor, "b pos head d_head"]:
    """Jᵀ·gradient for the RMSNorm that every KV head's keys pass."""
    b, pos = gradient.shape[:2]
    scale, normalized = (
        seen[f"{attn}.k_norm.{name}"].float().reshape(b, pos, graph.n_kv_heads, -1).repeat_interleave(graph.n_heads // graph.n_kv_heads, 2)
        for name in ("hook_scale", "hook_normalized")
    )
    weighted = gradient * block.attn.k_norm.weight.detach().float()
    return (weighted - normalized * (weighted * normalized).mean(-1, keepdim=True)) / scale
