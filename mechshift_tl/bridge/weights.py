"""How analyses read the weights, and gather the activations, of a model that a device map spreads over several devices.

Layers may run on several devices, and weights may be kept in CPU memory or on disk until their module runs (accelerate's hooks fetch them).

1. A weight is read by `weight_of` or `bias_of`. It is fetched if it is kept elsewhere, and moved to the device where it is used. Only the
   caller holds it, so its memory is free when the caller ends.
2. Activations are `gathered` on the batch's device (`model.cfg.device`), where tokens go in and logits come out. Whatever joins layers is
   computed there. A hook moves what it puts into the model to the device of what it replaces.
3. Autograd keeps the weights of a forward until its backward. `refetch_in_backward` makes it keep the places of fetched weights instead,
   and fetch them again.

A model that lies on one device is read directly, without copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from mechshift_tl.bridge.protocol import Component, HookedModel, is_native

#: The projection of an attention that each of its matrices is read off.
PROJECTIONS = {"W_Q": "q", "W_K": "k", "W_V": "v", "W_O": "o"}


def weight_of(owner: Component, name: str, device: torch.device | str | None = None) -> Tensor:
    """`owner.name`, a weight of one of a bridge's components, detached, on `device` if given; fetched if it is kept elsewhere."""
    with _fetched(getattr(owner, PROJECTIONS[name]) if name in PROJECTIONS else owner):
        found = getattr(owner, name).detach()
    return found if device is None else found.to(device)


def bias_of(owner: Component, device: torch.device | str | None = None) -> Tensor | None:
    """A component's bias, as `weight_of` reads it; None where it has none."""
    return None if getattr(owner, "bias", None) is None else weight_of(owner, "bias", device)


def named_weights(model: HookedModel) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every parameter, each once, wherever it is kept; one at a time is fetched."""
    inner = cast(PreTrainedModel, model.original_model)
    head = inner.get_output_embeddings() if not is_native(model) and getattr(inner.config, "tie_word_embeddings", False) else None
    tied = {id(p) for p in head.parameters()} if head is not None else set()
    # A list: fetching a weight replaces parameters while the generator would still walk over them.
    for name, parameter in list(model.named_parameters()):
        if not parameter.is_meta:
            yield name, parameter
        elif id(parameter) not in tied or head is None:
            path, _, attribute = name.rpartition(".")
            module = inner.get_submodule(path)
            with align_module_device(module):
                yield name, getattr(module, attribute)


def weightless(model: HookedModel) -> bool:
    """Whether the model has shapes but no weights. Weights that a device map keeps on disk count as weights."""
    first = next(model.parameters())
    return isinstance(first, FakeTensor) or (first.is_meta and not _kept_elsewhere(model))


def gathered(kept: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Activations on `device`. Those that are there already are not copied."""
    return {name: tensor.to(device) for name, tensor in kept.items()}


@contextmanager
def refetch_in_backward(model: HookedModel) -> Iterator[None]:
    """Use around a forward: autograd keeps no fetched weights, and the backward fetches them again.

    Each weight is then read twice. Without this, the fetched weights of all layers would be in memory at once.
    """
    places = _kept_elsewhere(model)
    if not places:
        yield
        return

    def pack(tensor: Tensor) -> object:
        return _place_of(tensor, places) or tensor

    def unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        module, name, offset, size, stride = kept
        with align_module_device(module):
            fetched = getattr(module, name).detach()
        return fetched.as_strided(size, stride, fetched.storage_offset() + offset)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _fetched(component: Component) -> AbstractContextManager[object]:
    """Inside, the component's own weights are there, if anything keeps them elsewhere: not when a forward has them there already."""
    module = component.original_component
    if module is None or not any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return nullcontext()
    return align_module_device(module)


def _kept_elsewhere(model: HookedModel) -> list[tuple[nn.Module, str]]:
    """Module and name of every weight that is fetched when its module runs."""
    inner = model.original_model
    modules = [module for module in inner.modules() if has_offloaded_params(module)] if hasattr(inner, "_hf_hook") else []
    return [(module, name) for module in modules for name, _ in module.named_parameters(recurse=False)]


def _place_of(tensor: Tensor, places: list[tuple[nn.Module, str]]) -> tuple[nn.Module, str, int, torch.Size, tuple[int, ...]] | None:
    """Module and name of the fetched weight that `tensor` is a view of, and the view's offset, size and stride; None if it is of none."""
    # Autograd saves views such as W_Q, not the stored weight itself. A view begins somewhere within the weight's memory.
    at = tensor.data_ptr()
    for module, name in places:
        weight = getattr(module, name)
        if not weight.is_meta and weight.data_ptr() <= at < weight.data_ptr() + weight.nbytes:
            return module, name, (at - weight.data_ptr()) // weight.element_size(), tensor.size(), tensor.stride()
    return None
