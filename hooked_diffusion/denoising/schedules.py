"""How many positions a step commits.

n positions are masked when the steps of a block begin, `left` are still masked, and the steps are 0 … S − 1. The numbers are those of ten
masks in four steps:

- "even" (LLaDA): n // S per step, plus 1 in the first n mod S steps: 3, 3, 2, 2.
- "time_grid" (Dream): times fall linearly from 1 to eps. The step from time t to s commits ⌊left · (1 − s/t)⌋, the last step all that is
  left: 2, 2, 2, 4. With S = n the first step commits nothing and the last step two.
- "rounded" (dllm): times fall linearly from 1 to 0. A step commits round(left · (1 − s/t)), half to even. Steps that would commit nothing
  are moved to the end: 2, 3, 2, 3.
- "bernoulli" (Dream's `origin`, DiffuLLaMA with eps = 0, dllm's stochastic transfer): as many as come up of `left` coins of probability
  1 − s/t; the last step commits all. With `select="random"` every position has a coin of its own.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from hooked_diffusion.denoising.settings import Schedule


def quota(schedule: Schedule, n: int, left: int, step: int, steps: int, eps: float = 1e-3, generator: Generator | None = None) -> int:
    """How many positions `step` of `steps` commits, in [0, left]; n were masked at the start, `left` are masked now.

    Only "bernoulli" draws from `generator`.
    """
    if schedule == "even":
        planned = n // steps + (step < n % steps)
    elif schedule == "bernoulli":
        coins = torch.rand(left, generator=generator) < _transfer_fractions(steps, eps)[step]
        planned = left if step == steps - 1 else int(coins.sum())
    elif schedule == "time_grid":
        # Single precision, as Dream computes it: the floor of a product that is whole in exact arithmetic depends on it.
        planned = left if step == steps - 1 else int(left * _transfer_fractions(steps, eps)[step])
    else:
        planned = _rounded_plan(n, steps)[step]
    return min(planned, left)


def commits_per_step(schedule: Schedule, n: int, steps: int, eps: float = 1e-3) -> list[int]:
    """`[steps]`: how many each step commits of n masks; they sum to n. With "bernoulli" it is one draw."""
    plan: list[int] = []
    for step in range(steps):
        plan.append(quota(schedule, n, n - sum(plan), step, steps, eps))
    return plan


@lru_cache
def _transfer_fractions(steps: int, eps: float) -> Float[Tensor, " steps"]:
    times = torch.linspace(1, eps, steps + 1)
    return 1 - times[1:] / times[:-1]


@lru_cache
def _rounded_plan(n: int, steps: int) -> tuple[int, ...]:
    left, plan = n, []
    for t in range(steps, 0, -1):
        # Python rounds halves to even, as dllm does; rounding up must not commit more than is left.
        commits = min(left, round(left * (1 - ((t - 1) / steps) / (t / steps))))
        plan.append(commits)
        left -= commits
    busy = [commits for commits in plan if commits]
    return (*busy, *[0] * (steps - len(busy)))
