"""Hooks that the passes share, and whether somebody else has hooks on a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from hooked_diffusion.gradients import HookFunction, NamedHooks
from mechshift_tl.bridge.protocol import HookedModel

#: Where the input writer's output enters the residual stream, embeddings and positions together.
EMBED = "blocks.0.hook_resid_pre"
Kept = dict[str, Tensor]
Hooks = NamedHooks
#: What builds a model leaves hooks of its own on it, which are a part of the model.
LIBRARIES = ("transformer_lens", "transformers", "accelerate", "torch")


def capture(names: Sequence[str], into: Kept, *, live: bool = False, take: Callable[[Tensor], Tensor] = Tensor.detach) -> Hooks:
    """Hooks that store what `take` makes of what passes, by default the tensor, detached; with `live`, the tensor on the gradient path."""

    def hook_for(name: str) -> HookFunction:
        def hook_fn(tensor: Tensor, hook: HookPoint) -> Tensor | None:
            # A gradient is taken for this very object, so the model goes on with it. It is an object of its own: an identity in a norm's
            # place hands on the residual stream's, whose gradient is that of all later readers.
            into[name] = tensor.view_as(tensor) if live else take(tensor)
            return into[name] if live else None

        return hook_fn

    return [(name, hook_for(name)) for name in names]


def inject(name: str, values: Kept) -> Hooks:
    """A hook that puts `values[name]`, as it then is, in place of what passes, on its device and in its dtype."""

    def hook_fn(tensor: Tensor, hook: HookPoint) -> Tensor:
        # Looked up at each call: a path changes the value between two forwards. Some models (OPT) flatten rows and positions here.
        return values[name].to(tensor).reshape(tensor.shape)

    return [(name, hook_fn)]


def as_hook(function: Callable[[Tensor], Tensor | None]) -> HookFunction:
    """`function` as a hook: TransformerLens passes the hook point as well, by name."""
    return lambda tensor, hook: function(tensor)


def has_hooks(model: HookedModel) -> bool:
    """Whether somebody has hooks on the model, of TransformerLens or of PyTorch. Those of the libraries that built it do not count."""
    if any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values()):
        return True
    return any(_is_foreign(hook) for module in model.original_model.modules() for hook in _torch_hooks(module))


def _torch_hooks(module: nn.Module) -> list[Callable[..., object]]:
    # A hook point's own list was looked at; what it registers with PyTorch is a wrapper.
    if isinstance(module, HookPoint):
        return []
    kinds = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return [hook for hooks in kinds for hook in hooks.values()]


def _is_foreign(hook: Callable[..., object]) -> bool:
    function = hook.func if isinstance(hook, partial) else hook
    # An object that is called has the module of its class.
    module: str = getattr(function, "__module__", None) or type(function).__module__
    return module.partition(".")[0] not in LIBRARIES
