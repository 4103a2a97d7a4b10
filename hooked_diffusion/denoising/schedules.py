"""How many positions a step commits.

With n masks when the (block's) steps begin, `left` still masked and steps 0 … S − 1:

- "even" (LLaDA): n // S per step, plus 1 in the first n mod S steps. Ten masks in four steps: 3, 3, 2, 2.
- "time_grid" (Dream): times fall linearly from 1 to eps; the step from t to s commits ⌊left · (1 − s/t)⌋, the last one all that is left:
  2, 2, 2, 4. With S = n step 0 commits nothing and the last step two.
- "rounded" (dllm): times fall linearly from 1 to 0; round(left · (1 − s/t)), half to even; steps that would commit nothing are moved to the
  end: 2, 3, 2, 3.
- "bernoulli" (Dream's `origin`, DiffuLLaMA with eps = 0, dllm's stochastic transfer): a coin of probability 1 − s/t for each one left, the
  last step all of them. With `select="random"` that is a coin for each position.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from hooked_diffusion.denoising.settings import Schedule


def quota(schedule: Schedule, n: int, left: int, step: int, steps: int, eps: float = 1e-3, generator: Generator | None = None) -> int:
    """Positions that `step` of `steps` commits, in [0, left], when n were masked at the start and `left` are masked now.

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
    """The whole plan for n masks, `(steps,)`; it sums to n. A draw of it when the schedule is "bernoulli"."""
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
        commits = min(left, round(left * (1 - ((t - 1) / steps) / (t / steps))))
        plan.append(commits)
        left -= commits
    busy = [commits for commits in plan if commits]
    return (*busy, *[0] * (steps - len(busy)))
