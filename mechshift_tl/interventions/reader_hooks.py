"""The hooks of a forward in which every reader sees a residual of its own, in the order in which the forward meets them.

What readers see is up to the subclass: a circuit's live edges (`patching`), or edges that are live to some degree (`mixing`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial

from torch import Tensor

from mechshift_tl.bridge.hooks import Hooks, as_hook
from mechshift_tl.graph import Graph

#: What a head reads.
KINDS = ("q", "k", "v")


class ReaderHooks(ABC):
    """One method per place where a forward is watched or overwritten; None leaves the tensor as it is."""

    graph: Graph

    def hooks(self) -> Hooks:
        """Hooks in the order in which the forward meets them."""
        found: Hooks = []
        for i in range(self.graph.n_layers):
            found.append((f"blocks.{i}.hook_resid_pre", as_hook(partial(self._enter, layer=i))))
            found += [(f"blocks.{i}.attn.hook_{kind}", as_hook(partial(self._project, layer=i, kind=kind))) for kind in KINDS]
            found.append((f"blocks.{i}.attn.hook_z", as_hook(partial(self._heads, layer=i))))
            if self.graph.mlps:
                found.append((f"blocks.{i}.ln2.hook_in", as_hook(partial(self._middle, layer=i))))
                found.append((f"blocks.{i}.hook_mlp_out", as_hook(partial(self._mlp, layer=i))))
        return [*found, ("ln_final.hook_in", as_hook(self._final))]

    @abstractmethod
    def _enter(self, tensor: Tensor, layer: int) -> Tensor | None:
        """The residual at a layer's start."""

    @abstractmethod
    def _project(self, tensor: Tensor, layer: int, kind: str) -> Tensor | None:
        """What heads read of one kind."""

    @abstractmethod
    def _heads(self, tensor: Tensor, layer: int) -> Tensor | None:
        """What heads write."""

    @abstractmethod
    def _middle(self, tensor: Tensor, layer: int) -> Tensor | None:
        """The residual in front of a layer's MLP."""

    @abstractmethod
    def _mlp(self, tensor: Tensor, layer: int) -> Tensor | None:
        """What the MLP writes."""

    @abstractmethod
    def _final(self, tensor: Tensor) -> Tensor | None:
        """The residual in front of the logits."""
