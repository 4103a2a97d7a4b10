"""Gradients that go back to the first residual stream and touch no parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from hooked_diffusion.threads import in_one_thread

#: The token embeddings, just before the residual stream. Backward hooks see a gradient from here on.
EMBEDDINGS = "embed.hook_out"


#: A TransformerLens hook: it gets a tensor and the hook point, and returns a tensor that replaces it, or None.
HookFunction = Callable[..., Tensor | None]
NamedHooks = list[tuple[str | Callable[[str], bool], HookFunction]]


class WithParameters(Protocol):
    """Anything whose weights can be listed: a module or a bridge."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every weight."""
        ...

    def named_parameters(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and value of every weight; a weight with two names comes once, unless `remove_duplicate` is False."""
        ...


class HookedModule(WithParameters, Protocol):
    """A model that takes TransformerLens hooks for a while."""

    def hooks(self, fwd_hooks: NamedHooks = ..., bwd_hooks: NamedHooks = ...) -> AbstractContextManager[object]:
        """Inside, the named hooks are on the model."""
        ...


@contextmanager
def frozen(model: WithParameters) -> Iterator[None]:
    """Inside, parameters take no gradient, and no other thread can enter the model (`ModelInUse`). At the end all is as it was before."""
    with in_one_thread(model):
        yield from _frozen(model)


def _frozen(model: WithParameters) -> Iterator[None]:
    # A parameter that a device map keeps elsewhere becomes a new object at every forward. Only its name stays the same.
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    away = any(p.is_meta for p, _ in wanted)
    by_name = {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)} if away else {}
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters(remove_duplicate=False) if away else ():
            parameter.requires_grad_(by_name[name])
        for parameter, value in wanted:
            parameter.requires_grad_(value)


@contextmanager
def from_embeddings(model: HookedModule) -> Iterator[list[Tensor]]:
    """Inside, a forward records gradients from the token embeddings on; the list receives the embeddings, the leaf to differentiate for.

    Parameters are frozen meanwhile. Hooks that were added before act on the embeddings first.
    """
    leaves: list[Tensor] = []

    def cut(embeddings: Tensor, hook: HookPoint) -> Tensor:
        # A leaf: the graph begins here, and the weights of the embedding are no part of it.
        leaves.append(embeddings.detach().requires_grad_())
        return leaves[-1]

    # `enable_grad` because the caller may be under `no_grad`, as the denoising loop is.
    with torch.enable_grad(), frozen(model), model.hooks(fwd_hooks=[(EMBEDDINGS, cut)]):
        yield leaves
