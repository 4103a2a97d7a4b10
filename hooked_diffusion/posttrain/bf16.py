"""Matrix products in bfloat16, everything else in float32: twice as fast on a CPU with AVX512-BF16, same master weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        # One matrix product: a batch of small ones is slower. Kept in bfloat16, as backward multiplies in it too.
        flat, weight = x.reshape(-1, x.shape[-1]).bfloat16(), weight.bfloat16()
        ctx.save_for_backward(flat, weight)
        ctx.shape = x.shape
        return (flat @ weight.T).float().view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        flat, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1]).bfloat16()
        # Beneath LoRA the weight is frozen: its gradient would be a third of the work, for nothing.
        of_input, of_weight = ctx.needs_input_grad
        return (grad @ weight).float().view(ctx.shape) if of_input else None, (grad.T @ flat).float() if of_weight else None


class _Bf16Linear(nn.Linear):
    def forward(self, input: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        product = _Product.apply(input, self.weight)
        return product if self.bias is None else product + self.bias


def is_fast(device: torch.device) -> bool:
    """Whether a device multiplies fast in bfloat16. Every device does, except a CPU that has no instructions for it."""
    # On such a CPU a bfloat16 product takes many times as long as one in float32.
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


@contextmanager
def bf16_products(model: nn.Module) -> Iterator[nn.Module]:
    """While open, every `nn.Linear` of `model` multiplies in bfloat16; their classes are restored on leaving."""
    # By class, not by a wrapper: names, optimiser state and checkpoints stay those of the model.
    # `type(…) is`, not `isinstance`: a subclass may do more than multiply, and would lose it.
    linears = [m for m in model.modules() if type(m) is nn.Linear]
    for module in linears:
        module.__class__ = _Bf16Linear
    try:
        yield model
    finally:
        for module in linears:
            module.__class__ = nn.Linear
