"""What a design can tell: the share of right answers on simulated changes, over the size of the change.

Steps and ramps are drawn from the shapes of the design, each as often; their noise is that of the prompts, with as much wobble of the
training beside it as the trajectory itself shows. The smallest change at which both kinds are recognised in 97 % of the simulations is what
the design can tell; a change of a smaller size may well end as "cannot tell".
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.compare.change_fit import Fit
from mechshift_tl.compare.change_shapes import KINDS, Kind
from mechshift_tl.intervals import seeded

#: How probable a kind must be for an answer. How often a simulated one must be recognised: above 0.95, for a few hundred tell it roughly.
SURE, RECOGNISED = 0.95, 0.97
#: Sizes of a change that are tried, in standard deviations of the prompts' noise at the median checkpoint; simulations of each.
SIZES, SIMULATED = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 25, 30), 200


def simulated(fit: Fit, kind: Kind, size: float, n: int, *, wobble: float = 0, seed: int = 0) -> Float[Tensor, "n checkpoints"]:
    """`n` trajectories of a kind whose change has `size`, with the measured noise and a wobble; both in the statistic's unit."""
    generator, shapes = seeded(seed), fit.shapes
    rows = shapes.rise[shapes.kinds == KINDS.index(kind)]
    chosen = rows[torch.randint(len(rows), (n,), generator=generator)]
    covariance = fit.noise + wobble**2 * torch.eye(len(fit.noise), dtype=torch.float64)
    noise = torch.randn(n, len(covariance), generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    return size * chosen + noise


def recognised(fit: Fit, kind: Kind, size: float, *, wobble: float = 0, seed: int = 0) -> float:
    """The share of simulated trajectories, in [0, 1], of which the right kind is sure."""
    found = fit.of_kinds(fit.weights(simulated(fit, kind, size, SIMULATED, wobble=wobble, seed=seed)))
    return (found[kind] >= SURE).double().mean().item()


def smallest_change(fit: Fit, wobble: float = 0, seed: int = 0) -> float:
    """The smallest change, in the statistic's unit, of which steps and ramps are both recognised; infinity where none of `SIZES` is."""
    for size in SIZES:
        if all(recognised(fit, kind, size * fit.sd, wobble=wobble, seed=seed) >= RECOGNISED for kind in ("step", "ramp")):
            return size * fit.sd
    return torch.inf
