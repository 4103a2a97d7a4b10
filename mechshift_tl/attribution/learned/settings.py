"""`MaskSettings`: how masks are learned."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.seeds import check_seed, step_generator
from mechshift_tl.bridge.batching import is_whole

#: What a step makes smaller for every example: "deficit", |1 − faithfulness|, as CMD counts it; "squared", its square, which shuns circuits
#: far from the model; "metric", − the metric, which rewards circuits that do better than the model, as CPR does.
Loss = Literal["deficit", "squared", "metric"]
Objective = Literal["all sizes"] | int


@dataclass(frozen=True)
class MaskSettings:
    """How masks are learned.

    - `steps`: gradient steps, each a forward and a backward of one batch; `rows` of a batch, as far as memory holds them.
    - `learning_rate`: of Adam, falling linearly to 0; `temperature`: of the masks, in the scores' unit.
    - `objective`: "all sizes", drawn anew for every row and step between the shares `smallest` and `largest` of what is masked; or one
      number of edges or nodes.
    - `loss`: "deficit", "squared" or "metric".
    - `spread`: how far apart the start's ranks are: rank r starts at −spread · log r.

    Raises ValueError on values outside their ranges.
    """

    steps: int = 120
    rows: int = 16
    learning_rate: float = 0.1
    temperature: float = 0.5
    objective: Objective = "all sizes"
    loss: Loss = "squared"
    smallest: float = 0.003
    largest: float = 0.2
    spread: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "rows"):
            if not is_whole(value := getattr(self, name)) or value < 1:
                raise ValueError(f"learn_masks: {name} is {value!r}; give a whole number of at least 1")
        for name in ("learning_rate", "temperature", "spread"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise ValueError(f"learn_masks: {name} is {value!r}; give a finite number above 0")
        if self.objective != "all sizes" and not (is_whole(self.objective) and self.objective >= 1):
            raise ValueError(f"learn_masks: objective is {self.objective!r}; give 'all sizes', or one number of edges")
        if self.loss not in get_args(Loss):
            raise ValueError(f"learn_masks: loss is {self.loss!r}; choose one of {', '.join(get_args(Loss))}")
        if not 0 < self.smallest < self.largest < 1:
            raise ValueError(f"learn_masks: sizes run from {self.smallest} to {self.largest}; give shares with 0 < smallest < largest < 1")
        check_seed(self.seed)

    def sizes(self, step: int, rows: int, of: int) -> Float[Tensor, " rows"]:
        """How many of `of` edges are live in each row at a step: one size in each of `rows` equal parts of the scale of their roots.

        Areas over sizes weigh a size by its share; on a log scale, sizes too small for any circuit to work would fill half of the draws.
        """
        if self.objective != "all sizes":
            return torch.full((rows,), float(self.objective))
        generator = step_generator(self.seed, step)
        place = (torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)) / rows
        return of * (self.smallest**0.5 + place * (self.largest**0.5 - self.smallest**0.5)).square()

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.learning_rate * (1 - step / self.steps)

    def to_dict(self) -> dict[str, object]:
        """Every setting, as JSON values."""
        return asdict(self)
