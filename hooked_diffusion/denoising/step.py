"""Where a denoising run stands: what hooks and steering get to see of a step."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DenoisingStep:
    """One step of a run, before it commits anything.

    - `index`, `steps`: which step it is, from 0, of how many.
    - `canvas (batch, pos)`: the tokens so far, the mask id where masked.
    - `masked (batch, pos)`: where the canvas is masked; `open` is the part of it that this step may commit (its block and those before).
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
