"""Small hook helpers that the passes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

#: Where the input writer's output enters the residual stream, embeddings and positions together.
EMBED = "blocks.0.hook_resid_pre"
Kept = dict[str, Tensor]
Hooks = list[tuple[str, Callable]]


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Parameters take no gradient inside; what they took before is restored."""
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, value in wanted:
            parameter.requires_grad_(value)


def keep(names: Sequence[str], into: Kept) -> Hooks:
    """Hooks that store what passes and hand it on: only a tensor that a hook returns lies on the gradient path."""

    def hook_for(name: str) -> Callable:
        def hook_fn(tensor: Tensor, hook: Any) -> Tensor:
            into[name] = tensor
            return tensor

        return hook_fn

    return [(name, hook_for(name)) for name in names]


def observe(names: Sequence[str], into: Kept) -> Hooks:
    """Hooks that store a detached view and change nothing."""

    def hook_for(name: str) -> Callable:
        def hook_fn(tensor: Tensor, hook: Any) -> None:
            into[name] = tensor.detach()

        return hook_fn

    return [(name, hook_for(name)) for name in names]
