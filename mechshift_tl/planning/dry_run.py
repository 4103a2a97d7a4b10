"""The cost of a computation, found by running it on tensors without data.

`weightless` makes a model whose tensors have shapes and dtypes, and no memory. Every operation on them passes `DryRun`, which

1. adds its floating-point operations by PyTorch's own formulas (`torch.utils.flop_counter`): matrix products and attention alone;
2. counts the bytes of each storage when it first appears, and takes them off when it is freed: the peak is the tensor memory that the
   computation needs beside the model;
3. answers 1, or true everywhere, when code asks for values that a tensor does not have, or writes such values into a real tensor. So checks
   for finite values pass, and no token is left out.

The code is the code that will run, so the figures follow when it changes. Two things differ from a real run. Scratch memory inside one
operation is not seen. Gradients that meet are summed into a new tensor, which a real run avoids: at the logits, one tensor more.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoModelForCausalLM, PretrainedConfig

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


def weightless(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """A plain causal TransformerLens bridge of the config's native class, over tensors without data.

    What its forward returns has the right shape and no values.
    """
    # Fake tensors say that they lie on the CPU but are backed by the meta device. So code that looks at a tensor's device runs as it would
    # with weights; TransformerLens refuses to hand out weights that are openly on the meta device.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        # A key/value cache would be counted as memory.
        model.config.use_cache = False
        return build_bridge_from_module(model, type(model).__name__, hf_config=model.config, tokenizer=None, model_name=config.model_type)


def dry_run(model: HookedModel, run: Callable[[], object]) -> Usage:
    """The cost of `run()`, a computation on a weightless `model`. Takes about 0.1 ms per operation, whatever the sizes."""
    with DryRun(model) as counted:
        run()
    return Usage(counted.flops, counted.peak)


class DryRun(TorchDispatchMode):
    """The counting mode; see the module docstring."""

    def __init__(self, model: HookedModel) -> None:
        super().__init__()
        own = (*model.parameters(), *model.buffers())
        # The model's own storages count 0 and are known, so they are never counted as made.
        self.held = {tensor.untyped_storage()._cdata: 0 for tensor in own}
        self.flops = self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run one operation and count it."""
        # Asked for values that are not there.
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
            # The storage and not the tensor: views of one storage free nothing before the last of them is gone.
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self.held.pop(key, 0)


def _writes_unknowns(func: Any, args: tuple) -> bool:
    """Whether an operation in place writes values that do not exist into a tensor that has values of its own."""
    if not func._schema.is_mutable or not isinstance(args[0], Tensor) or isinstance(args[0], FakeTensor):
        return False
    return any(isinstance(other, FakeTensor) for other in tree_leaves(args[1:]))
