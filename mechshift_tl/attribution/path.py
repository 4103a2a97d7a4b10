"""Where along a path gradients are taken: the methods' points, and the quadrature rules that sample an integral."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from mechshift_tl.bridge.batching import is_whole

Rule = Literal["midpoint", "gauss-legendre", "right", "left"]
#: `EAP`: one gradient, at the clean run (Syed et al. 2310.10348). `EAP-IG-inputs`, `EAP-IG-activations`: averaged over the path of the
#: embeddings, or of each layer's own outputs (Hanna et al. 2403.17806). `clean-corrupted`: the mean of the two ends. `exact`: patching.
Method = Literal["EAP-IG-inputs", "EAP", "EAP-IG-activations", "clean-corrupted", "exact"]
Points = list[tuple[float, float]]
INTEGRATED = ("EAP-IG-inputs", "EAP-IG-activations")
DEFAULT_STEPS = 5
#: Far beyond what any path needs. A Gauss–Legendre rule of `m` points takes a matrix of m² numbers to find.
MOST_STEPS = 1000


def path_points(method: Method, rule: Rule, steps: int) -> Points:
    """Points α and weights of a gradient method; α = 0 is the corrupt end, 1 the clean one.

    Raises ValueError on an unknown rule, or a number of steps that `quadrature` refuses.
    """
    integral = quadrature(rule, steps)
    return {"EAP": [(1.0, 1.0)], "clean-corrupted": [(0.0, 0.5), (1.0, 0.5)]}.get(method, integral)


def quadrature(rule: Rule, steps: int) -> Points:
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
