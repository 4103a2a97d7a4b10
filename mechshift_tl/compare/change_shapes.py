"""The shapes that a change over training may have, seen at a few checkpoints.

The axis is log10 of the training tokens. The start, which has no logarithm, stands one median gap before the first checkpoint behind it. A
shape rises from 0 to 1 along the axis; a statistic follows `before + change · shape`.

- **constant**: no change.
- **step**: the whole change lies in the gap between two neighbouring checkpoints. Nothing tells where in it, so one step stands for a gap.
- **ramp**: the change runs linearly along the axis, and no gap holds more than `MOST` of it. A faster one looks like a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Kind = Literal["constant", "step", "ramp"]
KINDS: tuple[Kind, ...] = ("constant", "step", "ramp")
#: The most of a ramp that lies between two neighbouring checkpoints; places in each gap at which a ramp may begin and end.
MOST, PLACES = 0.4, 4
LEAST = 5


@dataclass(frozen=True, eq=False)
class Shapes:
    """Every shape that a change over `tokens` is held against.

    - `tokens`, `axis (checkpoints,)`: training tokens, ascending, and where they stand.
    - `kinds (shapes,)`: index into `KINDS`; `rise (shapes, checkpoints)`: in [0, 1], 0 throughout for the constant.
    - `start`, `end (shapes,)`: between which places of the axis the change lies; NaN for the constant.
    """

    tokens: Float[Tensor, " checkpoints"]
    axis: Float[Tensor, " checkpoints"]
    kinds: Int[Tensor, " shapes"]
    rise: Float[Tensor, "shapes checkpoints"]
    start: Float[Tensor, " shapes"]
    end: Float[Tensor, " shapes"]

    @classmethod
    def of(cls, tokens: Sequence[float]) -> Shapes:
        """Of checkpoints at `tokens`. Raises ValueError on fewer than 5 of them, and where they do not ascend from 0 or more."""
        at = torch.tensor([float(one) for one in tokens], dtype=torch.float64)
        if len(at) < LEAST or at[0] < 0 or (at.diff() <= 0).any():
            raise ValueError(f"checkpoints at {list(tokens)} tokens: give at least {LEAST}, ascending from 0 or more")
        axis = log_axis(at)
        ends = torch.cat([_steps(axis), _ramps(axis)])
        rise = _rise(axis, ends)
        n_steps = len(axis) - 1
        kinds = torch.tensor([0] + [1] * n_steps + [2] * (len(ends) - n_steps))
        nothing = torch.full((1,), torch.nan, dtype=torch.float64)
        start, end = (torch.cat([nothing, ends[:, i]]) for i in (0, 1))
        return cls(at, axis, kinds, torch.cat([torch.zeros_like(rise[:1]), rise]), start, end)

    def places(self, shares: Float[Tensor, " n"]) -> Float[Tensor, "shapes n"]:
        """The places of the axis by which each of `shares` of the change has happened."""
        return self.start[:, None] + shares * (self.end - self.start)[:, None]

    def at_tokens(self, place: float) -> float:
        """The tokens at a place of the axis: linear in the first gap after 0, logarithmic behind it; NaN stays NaN."""
        i = int((self.axis[1:-1] <= place).sum())
        share = (place - self.axis[i].item()) / (self.axis[i + 1] - self.axis[i]).item()
        low, high = self.tokens[i].item(), self.tokens[i + 1].item()
        return low + share * (high - low) if low == 0 else low * (high / low) ** share


def log_axis(tokens: Float[Tensor, " checkpoints"]) -> Float[Tensor, " checkpoints"]:
    """log10 of ascending tokens; 0 stands one median gap before the rest."""
    if tokens[0] > 0:
        return tokens.log10()
    rest = tokens[1:].log10()
    return torch.cat([rest[:1] - rest.diff().median(), rest])


def _steps(axis: Float[Tensor, " checkpoints"]) -> Float[Tensor, "steps 2"]:
    return torch.stack([axis[:-1], axis[1:]], 1)


def _ramps(axis: Float[Tensor, " checkpoints"]) -> Float[Tensor, "ramps 2"]:
    """Every pair of places that lie far enough apart for the change to show at several checkpoints."""
    inside = torch.arange(PLACES, dtype=axis.dtype) / PLACES
    places = torch.cat([(axis[:-1, None] + axis.diff()[:, None] * inside).flatten(), axis[-1:]])
    first, last = torch.triu_indices(len(places), len(places), 1)
    pairs = torch.stack([places[first], places[last]], 1)
    most = _rise(axis, pairs).diff(dim=1).amax(1)
    return pairs[most <= MOST + 1e-9]  # rounding must not leave out what is exactly that


def _rise(axis: Float[Tensor, " checkpoints"], ends: Float[Tensor, "shapes 2"]) -> Float[Tensor, "shapes checkpoints"]:
    """The share of the change that each checkpoint has behind it."""
    return ((axis - ends[:, :1]) / (ends[:, 1:] - ends[:, :1])).clamp(0, 1)
