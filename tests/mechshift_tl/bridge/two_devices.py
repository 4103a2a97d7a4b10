"""Two devices on one machine: the CPU, and `elsewhere`, which computes on the CPU but keeps to itself as an accelerator does.

`elsewhere` is PyTorch's own PrivateUse1 backend, registered from Python. Its tensors are wrappers; an operation that mixes them with others
raises, except where CUDA too takes what lies on the CPU: numbers without dimensions, indices, and copies. Autograd gives it a thread of its
own and checks the device of every gradient. A backend is registered for a whole process, so tests import this in a process of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
ELSEWHERE = "elsewhere:0"
#: What may read from another device than it writes to.
COPIES = (aten.copy_.default, aten._to_copy.default)
#: What takes indices from the CPU.
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
FACTORIES = {
    "empty.memory_format": aten.empty.memory_format, "empty_strided": aten.empty_strided.default,
    "arange.start_step": aten.arange.start_step,
}  # fmt: skip


class Elsewhere(Tensor):
    """A tensor that says it lies on `elsewhere`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        found = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(ELSEWHERE),
        )
        found.inner = inner
        return found

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        _check_devices(func, args, kwargs)
        if func is aten.copy_.default:
            _unwrap(args[0]).copy_(_unwrap(args[1]))
            return args[0]
        device = kwargs.get("device")
        inner_args, inner_kwargs = tree_map(_unwrap, (args, kwargs | ({} if device is None else {"device": "cpu"})))
        out = func(*inner_args, **inner_kwargs)
        if device is not None and torch.device(device).type == "cpu":
            return out
        return return_and_correct_aliasing(func, args, kwargs, tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) else x, out))


def _unwrap(value: Any) -> Any:
    return value.inner if isinstance(value, Elsewhere) else value


def _check_devices(func: Any, args: Any, kwargs: Any) -> None:
    if func in COPIES:
        return
    looked_at = (args[0], args[2:], kwargs) if func in INDEXING and isinstance(args[0], Elsewhere) else (args, kwargs)
    sized = [tensor for tensor in tree_leaves(looked_at) if isinstance(tensor, Tensor) and tensor.ndim]
    if len({isinstance(tensor, Elsewhere) for tensor in sized}) > 1:
        raise RuntimeError(f"{func}: expected all tensors on one device, got {[str(tensor.device) for tensor in sized]}")


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """What `copy_` is to a backend where nothing is dispatched to Python: an index given as a list becomes a tensor there."""
    _unwrap(target).copy_(_unwrap(source))
    return target


def register() -> torch.library.Library:
    """Make `elsewhere` a device of this process, for as long as what is returned lives."""
    _setup_privateuseone_for_python_backend("elsewhere")
    library = torch.library.Library("aten", "IMPL")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    for name, overload in FACTORIES.items():
        library.impl(
            name, lambda *args, overload=overload, **kwargs: Elsewhere(overload(*args, **kwargs | {"device": "cpu"})), "PrivateUse1"
        )
    return library
