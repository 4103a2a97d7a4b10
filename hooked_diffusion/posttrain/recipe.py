"""A training recipe: settings that do not depend on one another, and the known recipes as presets of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from hooked_diffusion.seeds import check_seed
from hooked_diffusion.spec import Attention, DiffusionSpec

Objective = Literal["next_token", "masked_diffusion"]
Weighting = Literal["none", "1/t", "cart"]
Average = Literal["rows", "tokens", "masks"]
OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["linear", "cosine", "constant_with_warmup"]


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run. Weights and data come beside them.

    - `objective`: "next_token" is the ordinary causal loss; "masked_diffusion" replaces tokens by masks and asks for them.
    - `steps`, `warmup`: in optimiser steps. `stop`: the step to end at, when that is before the schedule's end.
    - `attention`: whom a position sees, as in `DiffusionSpec`; with "block", `block_length` positions see each other.
    - `anneal_steps`: the steps over which later positions become visible, with rising probability; 0 shows them at once.
    - `logit_shift`: 1 reads the token at p from the logits at p − 1, 0 from those at p.
    - `weighting`: of a masked token's cross-entropy. "1/t" makes the loss a bound on −log p(x); "cart" is Dream's ½ Σ p (1 − p)^(d − 1)
      over the unmasked tokens of its text, d positions away, with p = `cart_p`; "none" is 1.
    - `average`: what counts alike: "rows" (texts), "tokens" (that could be masked), or "masks" (tokens that are).
    - `t_min`: the lowest noise level, in (0, 1); t is uniform from there to 1.
    - `answer_only`: the share of texts in [0, 1] whose masks fall on the answer alone: 1 is supervised fine-tuning, 0 masks everything.
    - `prompt_weight`: the weight of prompt tokens in the causal loss; 0 is supervised fine-tuning.
    - `optimizer`: "muon" moves the hidden matrices by Muon and all else by AdamW. `weight_decay`: of the hidden matrices, per unit of
      learning rate. `clip`: the largest norm of a step's gradient, None for any.
    - `schedule`: one of transformers' learning rates, after a linear warm-up.
    - `seed`: of all draws; step s draws from (seed, s).

    Raises ValueError, naming the field, on an impossible value.
    """

    objective: Objective
    steps: int
    learning_rate: float = 1e-4
    warmup: int = 100
    seed: int = 0
    attention: Attention = "full"
    block_length: int | None = None
    anneal_steps: int = 0
    logit_shift: Literal[0, 1] = 1
    weighting: Weighting = "1/t"
    cart_p: float = 0.3
    average: Average = "tokens"
    t_min: float = 1e-3
    answer_only: float = 1.0
    prompt_weight: float = 0.0
    optimizer: OptimizerName = "adamw"
    weight_decay: float = 0.0
    clip: float | None = 1.0
    schedule: Schedule = "linear"
    stop: int | None = None

    def __post_init__(self) -> None:
        choices = (
            ("objective", self.objective, Objective), ("weighting", self.weighting, Weighting), ("average", self.average, Average),
            ("optimizer", self.optimizer, OptimizerName), ("schedule", self.schedule, Schedule),
        )  # fmt: skip
        for name, value, allowed in choices:
            if value not in get_args(allowed):
                raise ValueError(f"Recipe: {name} is {value!r}; choose {', '.join(get_args(allowed))}")
        for name, least in (("steps", 1), ("warmup", 0), ("anneal_steps", 0), ("stop", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise ValueError(f"Recipe: {name} is {value!r}; give a whole number of at least {least}")
        for name in ("answer_only", "prompt_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Recipe: {name} is a share in [0, 1], got {getattr(self, name)}")
        for name in ("t_min", "cart_p"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"Recipe: {name} lies in (0, 1), got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"Recipe: {name} is {value}; give a number above 0")
        if self.objective == "next_token" and (self.attention, self.logit_shift) != ("causal", 1):
            raise ValueError("Recipe: next_token needs attention='causal' and logit_shift=1; any other model sees its answer")
        if self.anneal_steps and self.attention != "full":
            raise ValueError(f"Recipe: anneal_steps opens attention from causal to full, but attention is {self.attention!r}; give 0")
        check_seed(self.seed, "Recipe: seed")
        self.spec(0)

    @property
    def last_step(self) -> int:
        """The step that the run ends at: `stop`, or the schedule's end."""
        return min(self.steps, self.stop or self.steps)

    @property
    def diffuses(self) -> bool:
        """Whether tokens are replaced by masks."""
        return self.objective == "masked_diffusion"

    def spec(self, mask_token_id: int | None, *, mask_is_reused: bool = False, tail: tuple[int, ...] = ()) -> DiffusionSpec:
        """How the trained model is read. Raises ValueError on attention that cannot be."""
        mask = mask_token_id if self.diffuses else None
        return DiffusionSpec(
            self.attention, self.logit_shift, mask, mask_is_reused and self.diffuses, tail=tail, block_length=self.block_length
        )

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a JSON side file."""
        return asdict(self)


#: The known recipes, as published: objective, direction, shift, weight, average. Steps, rate and seed are the run's own.
PRESETS: dict[str, Recipe] = {
    "diffullama": Recipe("masked_diffusion", 1, average="masks", anneal_steps=10_000),
    "dream": Recipe("masked_diffusion", 1, weighting="cart", average="masks"),
    "llada": Recipe("masked_diffusion", 1, logit_shift=0),
    "a2d": Recipe("masked_diffusion", 1, logit_shift=0, schedule="cosine"),
    "block": Recipe("masked_diffusion", 1, logit_shift=1, attention="block", block_length=32),
    "ar": Recipe("next_token", 1, attention="causal"),
}


def preset(name: str, steps: int, **changes: object) -> Recipe:
    """A known recipe for a run of `steps`, with the fields that `changes` names replaced. Raises ValueError on an unknown name or field."""
    if name not in PRESETS:
        raise ValueError(f"unknown recipe {name!r}; choose {', '.join(PRESETS)}")
    unknown = changes.keys() - PRESETS[name].to_dict().keys()
    if unknown:
        raise ValueError(f"recipe {name!r} has no field {', '.join(sorted(unknown))}; it has {', '.join(PRESETS[name].to_dict())}")
    known = PRESETS[name]
    # Ten thousand steps of annealing belong to runs of that length; a shorter run opens attention in its first tenth.
    shorter = {"anneal_steps": min(known.anneal_steps, steps // 10), "warmup": min(known.warmup, steps // 10)}
    return replace(known, steps=steps, **(shorter | changes))  # type: ignore[arg-type]
