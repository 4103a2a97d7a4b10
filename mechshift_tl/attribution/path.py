"""The integration path from corrupt to clean embeddings, and the quadrature rules that sample it."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Rule = Literal["midpoint", "gauss-legendre", "right", "left"]


def quadrature(rule: Rule, steps: int) -> list[tuple[float, float]]:
    """Points α in [0, 1] and their weights, which sum to 1: `[(α, weight), …]` of length `steps`.

    - "midpoint": α = (k + ½)/m, error O(m⁻²);  "gauss-legendre": exact for polynomials of degree 2m − 1;
    - "right": α = (k + 1)/m, so one step is plain EAP at the clean input;
    - "left": α = k/m, the grid of the reference EAP-IG code.

    α = 0 is the corrupt embedding, 1 the clean one. Raises ValueError on an unknown rule or fewer than one step.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"attribute: unknown rule {rule!r}; choose one of {', '.join(get_args(Rule))}")
    if steps < 1:
        raise ValueError(f"attribute: ig_steps must be at least 1, got {steps}")
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return [((x + 1) / 2, w / 2) for x, w in zip(nodes.tolist(), weights.tolist(), strict=True)]
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return [((k + offset) / steps, 1 / steps) for k in range(steps)]
