"""Small hook helpers that the passes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hooked_diffusion.gradients import NamedHooks

#: Where the input writer's output enters the residual stream, embeddings and positions together.
EMBED = "blocks.0.hook_resid_pre"
Kept = dict[str, Tensor]
Hooks = NamedHooks


def capture(names: Sequence[str], into: Kept, *, live: bool = False) -> Hooks:
    """Hooks that store what passes, detached; `live` tensors stay on the gradient path, so they are handed on as they were stored."""

    def hook_for(name: str) -> Callable:
        def hook_fn(tensor: Tensor, hook: Any) -> Tensor | None:
            into[name] = tensor if live else tensor.detach()
            return tensor if live else None

        return hook_fn

    return [(name, hook_for(name)) for name in names]


def inject(name: str, values: Kept) -> Hooks:
    """A hook that puts `values[name]`, as it then is, in place of what passes, on its device and in its dtype."""

    def hook_fn(tensor: Tensor, hook: Any) -> Tensor:
        return values[name].to(tensor).reshape(tensor.shape)

    return [(name, hook_fn)]
