"""Where a run stands (`DenoisingStep`), and what a caller decides instead of the sampler (`Steering`).

- `freeze` says where a step may not commit. The step still commits as many positions as the schedule says, among the other open ones.
- `force` says which tokens a step commits, whatever the model proposes; −1 leaves a position free. Forced tokens come on top of the
  schedule's number, and may lie in any block.

`freeze` is one tensor for every step, `force` a mapping from step index to tensors; each may also be a function of the `DenoisingStep`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DenoisingStep:
    """One step of a run, before it commits anything.

    - `index`, `steps`: which step it is, from 0, of how many.
    - `canvas (batch, pos)`: the tokens so far, the mask id where masked.
    - `masked (batch, pos)`: where the canvas is masked.
    - `open (batch, pos)`: where this step may commit: the masks of its block and of the blocks before.
    - `block (batch,)`: which block each row is at, from 0.
    - `noise (batch,)`: the noise level, the share of the row's masks that are still masked, in [0, 1]; 0 in a row without masks.
    """

    index: int
    steps: int
    canvas: Int[Tensor, "batch pos"]
    masked: Bool[Tensor, "batch pos"]
    open: Bool[Tensor, "batch pos"]
    block: Int[Tensor, " batch"]
    noise: Float[Tensor, " batch"]


#: Stands for "no token" where a position is not forced.
FREE = -1
Freeze = Bool[Tensor, "batch pos"] | Callable[[DenoisingStep], Bool[Tensor, "batch pos"]] | None
Force = Mapping[int, Int[Tensor, "batch pos"]] | Callable[[DenoisingStep], Int[Tensor, "batch pos"]] | None


@dataclass(frozen=True)
class Steering:
    """The decisions that a caller makes in place of the sampler; by default there are none."""

    freeze: Freeze = None
    force: Force = None

    def frozen(self, step: DenoisingStep) -> Bool[Tensor, "batch pos"]:
        """`(batch, pos)`: True where this step may not commit. Raises ValueError on a mask of another shape or type."""
        if self.freeze is None:
            return torch.zeros_like(step.masked)
        mask = self.freeze if isinstance(self.freeze, Tensor) else self.freeze(step)
        if mask.dtype != torch.bool or mask.shape != step.masked.shape:
            raise ValueError(
                f"freeze is boolean and shaped like the canvas {tuple(step.masked.shape)}, got {tuple(mask.shape)} of {mask.dtype}"
            )
        return mask.to(step.masked.device)

    def forced(self, step: DenoisingStep, d_vocab: int) -> Int[Tensor, "batch pos"]:
        """`(batch, pos)`: the tokens that this step must commit, −1 where a position is free.

        Raises ValueError on another shape, on an id outside the vocabulary, and at a position that is not masked.
        """
        # `self.force and …` leaves None as None: nothing is forced.
        found = self.force.get(step.index) if isinstance(self.force, Mapping) else self.force and self.force(step)
        if found is None:
            return torch.full_like(step.canvas, FREE)
        tokens = found.to(step.canvas)
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


#: The sampler decides everything.
NOT_STEERED = Steering()
