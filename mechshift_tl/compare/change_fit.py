"""How well each shape of a change fits a statistic that was measured at every checkpoint.

1. Noise: the covariance over draws of the prompts, the same prompts at every checkpoint. It is shrunk a little towards its diagonal, and no
   checkpoint is trusted beyond `LEAST_SD` of the median one: a statistic may be exact at the start.
2. Training itself wobbles, beside what prompts explain. Its standard deviation is not known: each of `WOBBLES` is tried, and averaged over.
3. Levels before and after are fitted by generalised least squares. Each fitted level costs ½ log(checkpoints), as in BIC (Schwarz 1978).
4. The places of a step or a ramp are averaged over, so a kind with many shapes has no advantage from having many. Kinds begin alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.compare.change_shapes import KINDS, Kind, Shapes

#: The weight of the covariance's diagonal; the least standard deviation, as a share of the median one.
SHRINK, LEAST_SD = 0.2, 0.5
#: Standard deviations of the wobble, as multiples of the prompts' median one.
WOBBLES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, eq=False)
class Fit:
    """Every shape fitted under every wobble, for any number of statistics measured with the same noise.

    `noise (checkpoints, checkpoints)`: their covariance, positive definite.
    """

    shapes: Shapes
    noise: Float[Tensor, "checkpoints checkpoints"]

    @classmethod
    def of(cls, shapes: Shapes, draws: Float[Tensor, "draws checkpoints"]) -> Fit:
        """With the noise that draws of the prompts show. Raises ValueError where a statistic does not vary at all."""
        covariance = draws.double().T.cov()
        variance = covariance.diagonal()
        middle = variance[variance > 0].median() if (variance > 0).any() else variance.new_zeros(())
        if not middle > 0:
            raise ValueError("a change cannot be told from noise: the statistic is the same on every draw of the prompts")
        own = variance.clamp(min=LEAST_SD**2 * middle)
        noise = (1 - SHRINK) * covariance
        return cls(shapes, noise - noise.diagonal().diag() + own.diag())

    @property
    def sd(self) -> float:
        """The prompts' standard deviation at the median checkpoint, in the statistic's unit."""
        return self.noise.diagonal().median().sqrt().item()

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """By wobble and shape, what turns values into levels `(…, 2, T)` and into their misfit `(…, T, T)`; by wobble, log |noise|."""
        one = torch.eye(len(self.noise), dtype=torch.float64)
        noise = self.noise + (torch.tensor(WOBBLES, dtype=torch.float64) * self.sd)[:, None, None] ** 2 * one
        inverse = noise.inverse()[:, None]
        design = torch.stack([torch.ones_like(self.shapes.rise), self.shapes.rise], -1)
        weighted = design.mT @ inverse
        normal = weighted @ design
        # The constant has no second level: it is 0 whatever stands here, but 0 has no inverse.
        normal[:, self.shapes.kinds == 0, 1, 1] = 1
        to_levels = normal.inverse() @ weighted
        return to_levels, inverse - weighted.mT @ to_levels, noise.logdet()

    def levels(self, values: Float[Tensor, "n checkpoints"]) -> Float[Tensor, "wobbles shapes levels n"]:
        """The level before and the change, of every shape."""
        return self._parts[0] @ values.T

    def weights(self, values: Float[Tensor, "n checkpoints"]) -> Float[Tensor, "wobbles shapes n"]:
        """The posterior weight of every wobble and shape; they sum to 1 for each of `n`."""
        _, to_misfit, logdet = self._parts
        # Every shape has a level of its own, so a common one may go first: squares of small numbers keep their digits.
        apart = values - values.mean(1, keepdim=True)
        misfit = to_misfit.flatten(2) @ (apart[:, :, None] * apart[:, None, :]).flatten(1).T
        kinds = self.shapes.kinds
        fitted = torch.where(kinds == 0, 1.0, 2.0) * log(values.shape[1])
        among = torch.bincount(kinds, minlength=len(KINDS))[kinds].double().log()
        log_weight = -(misfit + logdet[:, None, None] + fitted[:, None]) / 2 - among[:, None]
        return log_weight.flatten(0, 1).softmax(0).view_as(log_weight)

    def wobble(self, weights: Float[Tensor, "wobbles shapes n"]) -> Float[Tensor, " n"]:
        """The wobble's standard deviation, in the statistic's unit: the root of its mean square."""
        squares = torch.tensor(WOBBLES, dtype=torch.float64) ** 2
        return self.sd * (squares @ weights.sum(1)).sqrt()

    def of_kinds(self, weights: Float[Tensor, "wobbles shapes n"]) -> dict[Kind, Float[Tensor, " n"]]:
        """The probability of each kind."""
        return {kind: weights[:, self.shapes.kinds == i].sum((0, 1)) for i, kind in enumerate(KINDS)}
