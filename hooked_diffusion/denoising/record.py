"""The record of a denoising run, as tensors: every canvas, the step at which each position was committed, and its probability."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DenoisingRecord:
    """Canvases, masks and commits of one run. Raises ValueError, naming the tensor, when their shapes do not agree.

    - `canvases (steps + 1, batch, pos)`: token ids; canvas k is what step k starts from, the last one is the result.
    - `masked (steps + 1, batch, pos)`: where each canvas is masked; `mask_positions` is the first of them.
    - `commit_step (batch, pos)`: the step that wrote the position last; −1 where no step did, or a later one masked it again.
    - `confidence (batch, pos)`: probability of the token at its commit, by the model at temperature 1, in [0, 1]; 1 where it was given,
      0 where a mask was left (frozen, or when masks go by token).
    - `visible (batch, pos)`: False at padding.
    """

    canvases: Int[Tensor, "steps_plus_1 batch pos"]
    masked: Bool[Tensor, "steps_plus_1 batch pos"]
    commit_step: Int[Tensor, "batch pos"]
    confidence: Float[Tensor, "batch pos"]
    visible: Bool[Tensor, "batch pos"]

    def __post_init__(self) -> None:
        row = self.canvases.shape[1:]
        for name, tensor, shape in (
            ("masked", self.masked, self.canvases.shape),
            ("commit_step", self.commit_step, row),
            ("confidence", self.confidence, row),
            ("visible", self.visible, row),
        ):
            if tensor.shape != shape:
                raise ValueError(f"{type(self).__name__}: {name} is {tuple(tensor.shape)}, the canvases are {tuple(shape)}")

    @property
    def tokens(self) -> Int[Tensor, "batch pos"]:
        """The denoised canvas, `(batch, pos)`."""
        return self.canvases[-1]

    @property
    def steps(self) -> int:
        """Denoising steps; steps that commit nothing count too."""
        return len(self.canvases) - 1

    @property
    def mask_positions(self) -> Bool[Tensor, "batch pos"]:
        """Where the first canvas is masked, `(batch, pos)`."""
        return self.masked[0]

    @property
    def attention_mask(self) -> Bool[Tensor, "batch pos"] | None:
        """`(batch, pos)`: what `token_logits` needs to see the canvases as the run did; None when every position is visible."""
        return None if self.visible.all() else self.visible

    def masked_at(self, step: int) -> Bool[Tensor, "batch pos"]:
        """`(batch, pos)`: where the canvas that `step` starts from is masked. `step` = `steps` gives the masks of the result.

        Raises IndexError on a step outside the run.
        """
        if not 0 <= step <= self.steps:
            raise IndexError(f"step {step} lies outside 0 … {self.steps}")
        return self.masked[step]
