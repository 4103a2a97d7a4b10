"""The norm and the projection of single readers, computed outside the model in float32, for a residual that only they read.

TransformerLens can give a head its own residual only by copying the stream for every head. Here, only the few readers that need another
residual are computed again, and their results replace the model's own.
"""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechshift_tl.bridge.protocol import Attention, Norm
from mechshift_tl.bridge.weights import bias_of, weight_of


def is_identity(norm: Norm) -> bool:
    """Whether the norm hands on what it gets, as in a model without norms."""
    return isinstance(norm.original_component, nn.Identity)


def centers(norm: Norm) -> bool:
    """LayerNorm subtracts the mean; RMSNorm and the norms of a model without norms do not."""
    return not is_identity(norm) and not norm.uses_rms_norm


def norm_weight(norm: Norm, device: torch.device | str | None = None) -> Float[Tensor, " d"]:
    """The factor of x̂ in the norm, float32: its weight; 1 + weight where an offset is stored (Gemma); 1 without a weight (OLMo) or norm.

    On `device`, or where the norm keeps it.
    """
    if getattr(norm, "weight", None) is None:
        return torch.ones(norm.config.d_model, device=device or norm.config.device)
    return weight_of(norm, "weight", device).float() + float(norm.uses_weight_offset)


def epsilon_of(norm: Norm) -> float:
    """The number that the norm adds to the mean square: the module's `variance_epsilon` or `eps`, or else the config's."""
    module = norm.original_component
    own = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    return norm.config.eps if own is None else float(own)


def normed(residual: Float[Tensor, "*rows pos d"], norm: Norm, eps: float) -> Float[Tensor, "*rows pos d"]:
    """The norm's output for `residual`: RMSNorm, or LayerNorm, which also centres and has a bias; `residual` itself without a norm."""
    if is_identity(norm):
        return residual.float()
    # As Hugging Face's norms do: the mean square of half precision numbers would lose most of its digits.
    x = residual.float()
    if centers(norm):
        x = x - x.mean(-1, keepdim=True)
    out = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * norm_weight(norm, x.device)
    bias = bias_of(norm, x.device) if centers(norm) else None
    return out if bias is None else out + bias.float()


def projected(
    normalized: Float[Tensor, "rows pos d"], attn: Attention, kind: str, heads: Int[Tensor, " rows"]
) -> Float[Tensor, "rows pos d_head"]:
    """Each row's q, k or v (`kind`), of the one head or KV head that `heads` names for it."""
    weights = weight_of(attn, f"W_{kind.upper()}", normalized.device)[heads].float()
    out = einsum(normalized, weights, "rows pos d, rows d e -> rows pos e")
    bias = bias_of(getattr(attn, kind), normalized.device)
    if bias is None:
        return out
    per_head = rearrange(bias.float(), "(head e) -> head e", e=out.shape[-1])
    return out + per_head[heads][:, None]


def placed(
    tensor: Float[Tensor, "rows pos head d_head"], rows: Int[Tensor, " m"], heads: Int[Tensor, " m"], values: Float[Tensor, "m pos d_head"]
) -> Float[Tensor, "rows pos head d_head"]:
    """A copy of `tensor` that holds `values[i]` at row `rows[i]`, head `heads[i]`."""
    # The model's own tensor may be kept by another hook.
    tensor = tensor.clone()
    tensor[rows, :, heads] = values.to(tensor)
    return tensor
