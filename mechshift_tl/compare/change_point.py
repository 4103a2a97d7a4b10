"""When over training a statistic changed, and how: abruptly, gradually, or so that nobody can tell.

    change_point("edge overlap", tokens, values, draws)

`change_shapes` says what a step and a ramp are, `change_fit` how they are fitted, `change_power` what a design can tell at all. An answer
stands where its kind has a probability of at least 0.95:

- **abrupt**: a step. The whole change lies between two neighbouring checkpoints; nothing tells more than that.
- **gradual**: a ramp. No gap between neighbouring checkpoints holds more than two fifths of the change.
- **cannot tell**: neither, or nothing changed as far as so many prompts and checkpoints can show.

The change-point is where half of the change has happened. It is given wherever a change as such is sure, of whatever kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.compare.change_fit import Fit
from mechshift_tl.compare.change_power import SURE, smallest_change
from mechshift_tl.compare.change_shapes import LEAST, Kind, Shapes
from mechshift_tl.plotting import INK, QUIET, plain, style

CANNOT_TELL = "cannot tell"
ANSWERS: dict[Kind, str] = {"step": "abrupt", "ramp": "gradual"}
#: The fewest draws that a covariance of some checkpoints is taken from.
LEAST_DRAWS = 20
#: Places in a gap that a step is spread over, since nothing tells where in it the step lies.
SPREAD = 9


@dataclass(frozen=True)
class ChangePoint(JsonArtefact):
    """What became of one statistic over training.

    - `name`; `tokens`, `values`: of the checkpoints at which it is known.
    - `probability`: of "constant", "step" and "ramp", summing to 1; empty where too little is known, and `why` says what.
    - `answer`: "abrupt", "gradual" or "cannot tell".
    - `at`, `low`, `high`: training tokens by which half of the change has happened, with its 95 % interval; NaN unless a change is sure.
    - `before`, `change`: the level before, and by how much it changed, means over all shapes with a change.
    - `sd`: of the prompts' noise at the median checkpoint; `wobble`: of what training adds to it, which no shape explains.
    - `smallest_change`: of which steps and ramps are told apart in 97 % of simulations with this noise.
    - `places`, `weights`: where half of the change may lie, on the axis of `change_shapes.log_axis`, and how probable each place is.
    """

    KIND: ClassVar[str] = "change point"

    name: str
    tokens: tuple[float, ...]
    values: tuple[float, ...]
    probability: dict[str, float]
    answer: str
    at: float = nan
    low: float = nan
    high: float = nan
    before: float = nan
    change: float = nan
    sd: float = nan
    wobble: float = nan
    smallest_change: float = nan
    why: str = ""
    places: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether a change, of whatever kind, is sure."""
        return bool(self.probability) and self.probability["constant"] <= 1 - SURE

    def finding(self) -> str:
        """The answer in a sentence, with its figures."""
        if not self.probability:
            return f"{self.name}: {CANNOT_TELL} ({self.why})."
        shown = f"a change of {_signed(self.change)} is as good as no change" if not self.changed else f"a change of {_signed(self.change)}"
        where = f" around {_count(self.at)} tokens [{_count(self.low)}, {_count(self.high)}]" if self.changed else ""
        sure = ", ".join(f"{name} {p:.2f}" for name, p in self.probability.items())
        can = "no size that was tried" if self.smallest_change == torch.inf else f"{self.smallest_change:.3g}"
        return f"{self.name}: {self.answer}; {shown}{where} (probability: {sure}; a step is told from a ramp from a change of {can} on)."

    def to_dataframe(self) -> pd.DataFrame:
        """One row: name, answer, at, low, high (tokens), before, change, sd, wobble, smallest_change, probabilities, checkpoints."""
        sure = {f"p_{kind}": self.probability.get(kind, nan) for kind in ("constant", "step", "ramp")}
        columns = ("name", "answer", "at", "low", "high", "before", "change", "sd", "wobble", "smallest_change")
        return pd.DataFrame([{name: getattr(self, name) for name in columns} | sure | {"checkpoints": len(self.tokens)}])

    def figure(self) -> go.Figure:
        """The statistic over tokens, with the interval of its change-point shaded."""
        figure = go.Figure(
            go.Scatter(x=list(self.tokens), y=list(self.values), mode="lines+markers", line_color=INK, name=plain(self.name))
        )
        if self.changed:
            figure.add_vrect(x0=self.low, x1=self.high, fillcolor=QUIET, opacity=0.15, line_width=0)
        figure.update_xaxes(title_text="training tokens")
        figure.update_yaxes(title_text=plain(self.name))
        return style(figure, 280)

    def _repr_html_(self) -> str:
        return card("ChangePoint", self.finding(), self.to_dataframe())


def change_point(
    name: str,
    tokens: Sequence[float],
    values: Sequence[float],
    draws: Float[Tensor, "draws checkpoints"],
    *,
    seed: int = 0,
) -> ChangePoint:
    """How `values`, measured after each of `tokens`, changed; `draws` are the same on draws of the prompts, the same prompts in each row.

    Checkpoints without a value, and draws without one at some checkpoint, are left out. Too few of either is an answer: cannot tell.
    `seed`: of the simulations behind `smallest_change`. Raises ValueError where tokens do not ascend or the sizes differ.
    """
    if len(tokens) != len(values) or draws.shape[1] != len(values):
        raise ValueError(f"{name}: {len(tokens)} tokens, {len(values)} values, draws of {draws.shape[1]} checkpoints; give as many of each")
    known = torch.tensor([not isnan(value) for value in values])
    kept = draws.double()[:, known]
    kept = kept[~kept.isnan().any(1)]
    at, found = ([one for one, is_known in zip(of, known.tolist(), strict=True) if is_known] for of in (tokens, values))
    base = ChangePoint(name, tuple(map(float, at)), tuple(map(float, found)), {}, CANNOT_TELL)
    if len(found) < LEAST or len(kept) < LEAST_DRAWS:
        return _unknown(base, f"{len(found)} checkpoints and {len(kept)} draws; {LEAST} and {LEAST_DRAWS} are needed")
    try:
        fit = Fit.of(Shapes.of(at), kept)
    except ValueError as error:
        if not (kept.var(0) > 0).any():
            return _unknown(base, str(error))
        raise
    return _judged(base, fit, seed)


def _unknown(base: ChangePoint, why: str) -> ChangePoint:
    return replace(base, why=why)


def _judged(base: ChangePoint, fit: Fit, seed: int) -> ChangePoint:
    values = torch.tensor([base.values], dtype=torch.float64)
    weights = fit.weights(values)
    probability = {kind: one.item() for kind, one in fit.of_kinds(weights).items()}
    answer = next((said for kind, said in ANSWERS.items() if probability[kind] >= SURE), CANNOT_TELL)
    before, change = _levels(fit, values, weights)
    places, sure = _places(fit.shapes, weights[..., 0].sum(0))
    wobble = fit.wobble(weights).item()
    found = replace(
        base, probability=dict(probability), answer=answer, before=before, change=change, sd=fit.sd, wobble=wobble,
        smallest_change=smallest_change(fit, wobble, seed),
    )  # fmt: skip
    if not found.changed:
        return found
    low, at, high = (fit.shapes.at_tokens(one) for one in _quantiles(places, sure, (0.025, 0.5, 0.975)))
    return replace(found, at=at, low=low, high=high, places=tuple(places.tolist()), weights=tuple(sure.tolist()))


def _levels(fit: Fit, values: Tensor, weights: Tensor) -> tuple[float, float]:
    """The level before and the change, means over every shape with a change."""
    moved = weights[..., 0] * (fit.shapes.kinds > 0)
    before, change = ((fit.levels(values)[:, :, i, 0] * moved).sum() / moved.sum() for i in (0, 1))
    return before.item(), change.item()


def _places(shapes: Shapes, weights: Float[Tensor, " shapes"]) -> tuple[Float[Tensor, " places"], Float[Tensor, " places"]]:
    """Where half of the change may lie, ascending, with probabilities that sum to 1."""
    inside = (torch.arange(SPREAD, dtype=torch.float64) + 0.5) / SPREAD
    steps, ramps = shapes.kinds == 1, shapes.kinds == 2
    places = torch.cat([shapes.places(inside)[steps].flatten(), shapes.places(torch.tensor([0.5], dtype=torch.float64))[ramps, 0]])
    spread = torch.cat([(weights[steps, None] / SPREAD).expand(-1, SPREAD).flatten(), weights[ramps]])
    # Ramps share their middles.
    distinct, where = places.round(decimals=9).unique(return_inverse=True)
    summed = torch.zeros_like(distinct).index_add(0, where, spread)
    return distinct, summed / summed.sum()


def _quantiles(places: Tensor, weights: Tensor, at: Sequence[float]) -> list[float]:
    reached = weights.cumsum(0)
    return [places[min(len(places) - 1, int((reached < one).sum()))].item() for one in at]


def _signed(change: float) -> str:
    return f"{change:+.3g}".replace("-", "−")


def _count(tokens: float) -> str:
    """`12 000`, to three digits: more would claim a precision that there is not."""
    return f"{float(f'{tokens:.3g}'):,.0f}".replace(",", " ")
