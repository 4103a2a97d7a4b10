"""Where along a path gradients are taken: the methods' points, and the quadrature rules that sample an integral."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.bridge.batching import is_whole

Rule = Literal["midpoint", "gauss-legendre", "right", "left"]
#: `EAP`: one gradient, at the clean run (Syed et al. 2310.10348). `EAP-IG-inputs`, `EAP-IG-activations`: averaged over the path of the
#: embeddings, or of each layer's own outputs (Hanna et al. 2403.17806). `clean-corrupted`: the mean of the two ends. `exact`: patching.
#: `expected-gradients`: at α ~ U(0, 1), drawn for each example and pass (Erion et al. 1906.10670). `learned`:
#: masks by gradient descent (`attribution.learned`). The last four are presets.
Method = Literal[
    "EAP-IG-inputs", "EAP", "EAP-IG-activations", "clean-corrupted", "exact", "expected-gradients", "atp*", "learned", "eap", "eap-ig",
    "relp", "gim",
]  # fmt: skip
#: α and weight of every point; α is one number, or one for each row.
Points = Sequence[tuple[float | Float[Tensor, " rows"], float]]
INTEGRATED = ("EAP-IG-inputs", "EAP-IG-activations")
DEFAULT_STEPS = 5
#: Expected gradients take as few as one point: they are right in the mean, whatever their number.
SAMPLED = "expected-gradients"
#: Starts from EAP-IG along the embeddings, whose points it takes.
LEARNED = "learned"
#: Far beyond what any path needs. A Gauss–Legendre rule of `m` points takes a matrix of m² numbers to find.
MOST_STEPS = 1000


def path_points(method: Method, rule: Rule, steps: int) -> Points:
    """Points α and weights of a gradient method; α = 0 is the corrupt end, 1 the clean one. Of drawn points, the mean α.

    Raises ValueError on an unknown rule, or a number of steps that `quadrature` refuses.
    """
    integral = quadrature(rule, steps)
    fixed: dict[str, Points] = {
        "EAP": [(1.0, 1.0)],
        "atp*": [(1.0, 1.0)],
        "clean-corrupted": [(0.0, 0.5), (1.0, 0.5)],
        SAMPLED: [(0.5, 1 / steps)] * steps,
    }
    return fixed.get(method, integral)


def quadrature(rule: Rule, steps: int) -> list[tuple[float, float]]:
    """Points α in [0, 1] and their weights, which sum to 1: `[(α, weight), …]` of length `steps`.

    - "midpoint": α = (k + ½)/m, error O(m⁻²);  "gauss-legendre": exact for polynomials of degree 2m − 1;
    - "right": α = (k + 1)/m, so one step is plain EAP at the clean input;
    - "left": α = k/m, the grid of the reference EAP-IG code.

    Raises ValueError on an unknown rule, or a number of steps that is not whole or not in 1 … 1000.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"attribute: unknown rule {rule!r}; choose one of {', '.join(get_args(Rule))}")
    if not is_whole(steps) or steps < 1:
        raise ValueError(f"attribute: ig_steps must be a whole number of at least 1, got {steps}")
    if steps > MOST_STEPS:
        raise ValueError(f"attribute: ig_steps is {steps}; a path takes at most {MOST_STEPS} points, of which 5 to 50 are usual")
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        # numpy's rule is for [−1, 1]; the path is [0, 1].
        return [((x + 1) / 2, w / 2) for x, w in zip(nodes.tolist(), weights.tolist(), strict=True)]
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return [((k + offset) / steps, 1 / steps) for k in range(steps)]
