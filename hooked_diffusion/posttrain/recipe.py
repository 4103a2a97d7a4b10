"""A training recipe and the rows it trains on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from jaxtyping import Bool, Int
from torch import Tensor

from hooked_diffusion.seeds import check_seed


@dataclass(frozen=True)
class Rows:
    """Token rows of one length: `tokens (batch, pos)`, and `is_answer (batch, pos)`, True at the part that a task asks for."""

    tokens: Int[Tensor, "batch pos"]
    is_answer: Bool[Tensor, "batch pos"]


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run. Weights and data come beside them.

    - `objective`: "next_token" is the ordinary causal loss. "masked_diffusion" is DiffuLLaMA's: masks with probability t ~ U(t_min, 1),
      cross-entropy on the masked tokens weighted by 1/t, read one position earlier (shift 1), while attention opens from causal to full.
    - `steps`, `warmup`: in optimiser steps. `stop`: the step to end at, when that is before the schedule's end.
    - `learning_rate`: of the matrices (Muon) and of all else (AdamW). `weight_decay`: of the matrices, per unit of learning rate.
    - `seed`: of all draws; step s draws from (seed, s).
    - `anneal_steps`: the steps over which later positions become visible, with rising probability.
    - `answer_only`: the share of rows in [0, 1] whose masks fall on the answer alone.
    - `t_min`: the lowest noise level, in (0, 1).
    - `prompt_weight`: the weight of prompt tokens in the causal loss.

    Raises ValueError, naming the field, on an impossible value.
    """

    objective: Literal["next_token", "masked_diffusion"]
    steps: int
    learning_rate: float = 2e-3
    warmup: int = 100
    seed: int = 0
    anneal_steps: int = 0
    answer_only: float = 0.9
    t_min: float = 1e-3
    prompt_weight: float = 0.1
    weight_decay: float = 0.3
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.objective not in ("next_token", "masked_diffusion"):
            raise ValueError(f"Recipe: unknown objective {self.objective!r}; choose next_token or masked_diffusion")
        if self.steps < 1:
            raise ValueError(f"Recipe: steps must be at least 1, got {self.steps}")
        if not 0 <= self.answer_only <= 1:
            raise ValueError(f"Recipe: answer_only is a share in [0, 1], got {self.answer_only}")
        if not 0 < self.t_min < 1:
            raise ValueError(f"Recipe: t_min lies in (0, 1), got {self.t_min}")
        check_seed(self.seed, "Recipe: seed")

    @property
    def last_step(self) -> int:
        """The step that the run ends at: `stop`, or the schedule's end."""
        return min(self.steps, self.stop or self.steps)

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a JSON side file."""
        return asdict(self)
