"""Taking the sampler's hand: positions that may not commit, and tokens that must.

- `freeze` says where a step may not commit, though it could; the schedule's number goes to the other open positions.
- `force` says which tokens a step commits whatever the model proposes, −1 where it is free; beyond the schedule's number, in any block.

Both are a tensor that holds for every step (`freeze`) or a mapping from step index to tensors (`force`), or a function of the
`DenoisingStep`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_diffusion.denoising.step import DenoisingStep

FREE = -1
Freeze = Bool[Tensor, "batch pos"] | Callable[[DenoisingStep], Bool[Tensor, "batch pos"]] | None
Force = Mapping[int, Int[Tensor, "batch pos"]] | Callable[[DenoisingStep], Int[Tensor, "batch pos"]] | None


@dataclass(frozen=True)
class Steering:
    """What the caller decides instead of the sampler; the default decides nothing."""

    freeze: Freeze = None
    force: Force = None

    def frozen(self, step: DenoisingStep) -> Bool[Tensor, "batch pos"]:
        """True where this step may not commit. Raises ValueError on a mask of another shape or type."""
        if self.freeze is None:
            return torch.zeros_like(step.masked)
        mask = self.freeze if isinstance(self.freeze, Tensor) else self.freeze(step)
        if mask.dtype != torch.bool or mask.shape != step.masked.shape:
            raise ValueError(
                f"freeze is boolean and shaped like the canvas {tuple(step.masked.shape)}, got {tuple(mask.shape)} of {mask.dtype}"
            )
        return mask.to(step.masked.device)

    def forced(self, step: DenoisingStep, d_vocab: int) -> Int[Tensor, "batch pos"]:
        """The tokens this step must commit, −1 where it is free.

        Raises ValueError on another shape, an id outside the vocabulary, and where nothing is masked any more.
        """
        tokens = self.force.get(step.index) if isinstance(self.force, Mapping) else self.force and self.force(step)
        if tokens is None:
            return torch.full_like(step.canvas, FREE)
        tokens = tokens.to(step.canvas)
        if tokens.shape != step.canvas.shape:
            raise ValueError(f"force at step {step.index} is shaped like the canvas {tuple(step.canvas.shape)}, got {tuple(tokens.shape)}")
        if tokens.min() < FREE or tokens.max() >= d_vocab:
            raise ValueError(f"force at step {step.index} holds ids outside −1 … {d_vocab - 1}")
        late = ((tokens != FREE) & ~step.masked).nonzero()
        if len(late):
            row, pos = late[0].tolist()
            raise ValueError(
                f"force at step {step.index}: row {row} is not masked at position {pos}; only a masked position can be committed"
            )
        return tokens
