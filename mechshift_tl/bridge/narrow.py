"""Runs only those parts of a model that affect the result.

After the last attention no position sees another. So the last layer's queries, its output projection, its MLP and the unembedding matter
only at positions that predict a target. The outputs at other positions reach no logit and no gradient, so the result stays exact.

Token-wise modules (`tokenwise`) run on the selected tokens only; their outputs are scattered into zeros. PyTorch's module hooks do this, so
TransformerLens' hooks see all positions, with 0 at the others. Only the unembedding's output holds the selected positions alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakSet

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from hooked_diffusion.gradients import HookFunction
from mechshift_tl.bridge.protocol import Block, Component, HookedModel, components_of, module_of

#: Hooks that do the same to every token: they may stand inside a part that runs on some tokens only.
TOKENWISE: WeakSet[HookFunction] = WeakSet()


@contextmanager
def only_at(model: HookedModel, positions: Int[Tensor, "b k"], length: int, *, last_layer: bool) -> Iterator[None]:
    """Inside, `model` unembeds only `positions` of its `length` tokens and returns `(b, k, d_vocab)`.

    With `last_layer`, the last layer's queries, output projection and MLP are 0 at other positions; a part with hooks inside runs
    everywhere.
    """

    def pick(_: object, inputs: tuple[Tensor, ...]) -> tuple[object, ...]:
        residual = inputs[0]
        at = positions.to(residual.device)[..., None].expand(len(residual), -1, residual.shape[-1])  # one row may have become several
        return residual.gather(1, at), *inputs[1:]

    with ExitStack() as stack:
        stack.callback(module_of(components_of(model).unembed).register_forward_pre_hook(pick).remove)
        if last_layer:
            rows = torch.arange(len(positions), device=positions.device)[:, None]
            read = (rows * length + positions).unique()  # read twice, a position would get its gradient twice
            stack.enter_context(narrowed(tokenwise(components_of(model).blocks[-1], ("q", "o", "mlp")), read))
        yield


def tokenwise(block: Block, names: Iterable[str]) -> Iterator[torch.nn.Module]:
    """The layer's "q", "k", "v", "o" projections and its "mlp", as far as they are separate modules without hooks inside."""
    for name in names:
        part = getattr(block if name == "mlp" else block.attn, name, None)
        if part is not None and part.name is not None and _is_alone(part):  # a part without a name is bound to the whole layer
            yield module_of(part)


def _is_alone(part: Component) -> bool:
    """Whether the part has no hooks inside but token-wise ones. Other hooks would miss the positions that it does not run on."""
    inside = (point for name, point in part.named_modules() if isinstance(point, HookPoint) and name not in ("hook_in", "hook_out"))
    return all(handle.user_hook in TOKENWISE for point in inside for handle in (*point.fwd_hooks, *point.bwd_hooks))


@contextmanager
def narrowed(modules: Iterable[torch.nn.Module], index: Int[Tensor, " tok"]) -> Iterator[None]:
    """Each of `modules` maps `(b, pos, d)` to `(b, pos, e)`, but runs on the tokens `index` of the flattened `b · pos` alone."""
    shapes: list[torch.Size] = []

    def gather(_: object, inputs: tuple[Tensor, ...]) -> tuple[object, ...]:
        shapes.append(inputs[0].shape)
        # One long row: the module still gets (batch, pos, d).
        return inputs[0].flatten(0, 1)[index.to(inputs[0].device)][None], *inputs[1:]

    def scatter(_: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # The modules run one after another, so the last shape is that of the module which ends now.
        rows, length, _ = shapes.pop()
        everywhere = output.new_zeros(rows * length, output.shape[-1])
        # Not in place: autograd must see where the outputs went.
        return everywhere.index_copy(0, index.to(output.device), output[0]).unflatten(0, (rows, length))

    handles = [handle for module in modules for handle in (module.register_forward_pre_hook(gather), module.register_forward_hook(scatter))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
