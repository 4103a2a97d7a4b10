"""What a computation would cost, found by running it on tensors without data (`mechshift_tl.planning.weightless`).

Every operation passes `DryRun`, which

1. adds its floating-point operations by PyTorch's own formulas (`torch.utils.flop_counter`): matrix products and attention alone;
2. counts the bytes of each storage when it first appears, and takes them off when it is freed: the peak is the tensor memory that the
   computation needs beside the model;
3. answers 1, or true everywhere, when code asks a tensor for values it has not got or writes them over a real one: checks for finite
   values pass, and no token is left out.

Python code is the code that will run, so the figures follow it when it changes. Scratch memory inside one operation is not seen; gradients
that meet are summed into a tensor of their own, where a real run adds them in place: at the logits, one tensor more.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mechshift_tl.bridge.protocol import HookedModel

#: What is said in place of values.
ANSWERS: dict[Any, Callable[[Tensor], Any]] = {
    torch.ops.aten._local_scalar_dense.default: lambda tensor: 1.0 if tensor.dtype.is_floating_point else 1,
    torch.ops.aten.nonzero.default: lambda tensor: torch.ones(tensor.shape).nonzero(),
}


@dataclass(frozen=True)
class Usage:
    """Floating-point operations (a multiply and an add are two), and peak bytes of tensors beside the model's own."""

    flops: int
    peak_bytes: int


def dry_run(model: HookedModel, run: Callable[[], object]) -> Usage:
    """What `run()`, some computation on a weightless `model`, would cost. Takes about 0.1 ms per operation, whatever the sizes."""
    with DryRun(model) as counted:
        run()
    return Usage(counted.flops, counted.peak)


class DryRun(TorchDispatchMode):
    """The counting mode; see the module docstring."""

    def __init__(self, model: HookedModel) -> None:
        super().__init__()
        own = (*model.parameters(), *model.buffers())
        self.held = {tensor.untyped_storage()._cdata: 0 for tensor in own}
        self.flops = self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run one operation and count it."""
        if func in ANSWERS and isinstance(args[0], FakeTensor):
            return ANSWERS[func](args[0])
        if _writes_unknowns(func, args):
            return args[0].fill_(1)
        made = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=made)
        for tensor in (made,) if isinstance(made, Tensor) else tree_leaves(made):
            if isinstance(tensor, FakeTensor):
                self._hold(tensor.untyped_storage())
        return made

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.held:
            self.held[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self.held.pop(key, 0)


def _writes_unknowns(func: Any, args: tuple) -> bool:
    """Whether an operation in place puts values that are not there into a tensor that has its own."""
    if not func._schema.is_mutable or not isinstance(args[0], Tensor) or isinstance(args[0], FakeTensor):
        return False
    return any(isinstance(other, FakeTensor) for other in tree_leaves(args[1:]))
