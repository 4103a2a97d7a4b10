"""The shared prefix: under causal attention, the tokens before the first one at which the clean and the corrupt row differ.

Such a token is the same at every point of the path, and later tokens see only its keys and values. So its keys and values are kept from the
clean run, and the walk skips it in every projection and MLP, unless it is read. No writer differs there, so no score is lost: the result is
exact. It saves much: two thirds of an IOI prompt whose subject is replaced are shared prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from jaxtyping import Bool
from torch import Tensor

from mechshift_tl.bridge.alignment import is_causal
from mechshift_tl.bridge.hooks import Hooks, Kept
from mechshift_tl.bridge.narrow import narrowed, tokenwise
from mechshift_tl.bridge.protocol import HookedModel, components_of
from mechshift_tl.readouts import Batch

#: Share of a batch's tokens from which leaving them out pays for picking the others.
WORTHWHILE = 0.2


class SharedPrefix:
    """The shared prefix of one batch. `hooks` keep its keys and values from a run; `left_out` skips it during the walk.

    Nothing is skipped where it is not `wanted`, where the batch is not narrow, where attention is not causal, and where it would save
    little.
    """

    def __init__(self, model: HookedModel, batch: Batch, *, wanted: bool) -> None:
        self.model, self.rows = model, len(batch)
        read = batch.predicting(model)  # a metric may weigh what is read there by what is read elsewhere
        tokens = _before_the_first_change(batch).scatter(1, read, False)
        self.tokens, self.moved = (chosen.flatten().nonzero()[:, 0] for chosen in (tokens, ~tokens))
        self.pays = wanted and batch.narrow and is_causal(model) and len(self.tokens) >= WORTHWHILE * tokens.numel()
        self.kept: Kept = {}

    @property
    def names(self) -> list[str]:
        """Names of the hooks that hold keys and values."""
        return [f"blocks.{i}.attn.hook_{kind}" for i in range(self.model.cfg.n_layers) for kind in "kv"] if self.pays else []

    def hooks(self) -> Hooks:
        """Hooks that keep keys and values from a run whose first rows are the batch's clean ones."""

        def keeping(name: str) -> Callable:
            def hook_fn(tensor: Tensor, hook: object) -> None:
                # Clean and corrupt rows run in one batch, the clean ones first.
                self.kept[name] = tensor[: self.rows].flatten(0, 1)[self.tokens.to(tensor.device)].detach()

            return hook_fn

        return [(name, keeping(name)) for name in self.names]

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Inside, the model skips the shared prefix; later tokens see the keys and values that were kept."""

        def filling(name: str) -> Callable:
            def hook_fn(tensor: Tensor, hook: object) -> Tensor:
                return tensor.flatten(0, 1).index_copy(0, self.tokens.to(tensor.device), self.kept[name]).view_as(tensor)

            return hook_fn

        *blocks, last = components_of(self.model).blocks
        with ExitStack() as stack:
            if self.pays:
                parts = [part for block in blocks for part in tokenwise(block, ("q", "k", "v", "o", "mlp"))]
                stack.enter_context(narrowed([*parts, *tokenwise(last, ("k", "v"))], self.moved))
                stack.enter_context(self.model.hooks(fwd_hooks=[(name, filling(name)) for name in self.names]))
            yield


def _before_the_first_change(batch: Batch) -> Bool[Tensor, "b pos"]:
    differs = batch.clean != batch.corrupt
    if batch.clean_mask is not None and batch.corrupt_mask is not None:
        differs |= batch.clean_mask != batch.corrupt_mask
    # True from the first difference on; its opposite is what comes before.
    return differs.cummax(1).values.logical_not()
