"""The headline of a study on prompts that no model was asked to read correctly: does the screen make circuits alike?

A pool holds prompts that every model reads correctly. This takes the same prompts and, beside them, those that were drawn with them and
screened out: together they are the first prompts of the draw as it comes.

1. Go through the draw from its start, to the pool's last prompt, or until `MOST` prompts were screened out.
2. Score the edges of each model on those screened out. The pool's prompts have scores already.
3. Take the headline with them and without them, on the sample and on the same draws of its prompts, so that the change is paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.select import Selection
from mechshift_tl.compare.headline import Headline, headline
from mechshift_tl.intervals import Interval, drawn_examples, interval
from mechshift_tl.plotting import COLOURS, QUIET, ROLE_NAMES, SYMBOLS, style
from mechshift_tl.readouts import readouts
from mechshift_tl.study.measurement import Measurement
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.tasks.examples import Example, Examples
from mechshift_tl.tasks.task import ExampleStream

#: Prompts screened out that are scored at most: where a model reads few prompts correctly, a part of the draw says enough.
MOST = 60
FIGURES = {"jaccard": "edge overlap J", "early_shift": "early shift"}


@dataclass(frozen=True)
class ScreenRow:
    """One figure of the ARM and the model `role`: `figure` is "jaccard" or "early_shift", over prompts `screened` and `unscreened`.

    `change` = unscreened − screened, with its interval over prompts, paired.
    """

    role: str
    figure: str
    screened: float
    unscreened: float
    change: float
    over: Interval

    @property
    def moved(self) -> bool:
        """Whether the interval of the change leaves out 0."""
        return self.over.low > 0 or self.over.high < 0


@dataclass(frozen=True)
class Unscreened(JsonArtefact):
    """A study's headline with and without the screen. `n` prompts were drawn, of which `n_out` were screened out."""

    KIND: ClassVar[str] = "unscreened"

    rows: tuple[ScreenRow, ...]
    n: int
    n_out: int

    def finding(self) -> str:
        """Whether the screen moves a figure, each with its change."""
        if not self.n_out:
            return f"All of the {self.n} prompts drawn are read correctly by every model: the screen leaves nothing out."
        changes = "; ".join(
            f"ARM ~ {ROLE_NAMES[row.role]} {FIGURES[row.figure]} {row.unscreened:.3f} instead of {row.screened:.3f} "
            f"(change {row.change:+.3f} "
            f"[{row.over.low:+.3f}, {row.over.high:+.3f}])"
            for row in self.rows
        )
        moved = any(row.moved for row in self.rows)
        verdict = "Supported: the screen moves the headline" if moved else "Not supported that the screen moves the headline"
        return f"{verdict}. With the {self.n_out} of {self.n} prompts that some model reads wrongly: {changes}."

    def to_dataframe(self) -> pd.DataFrame:
        """One row per model and figure: role, figure, screened, unscreened, change, low, high (95 % over prompts), n, n_out."""
        rows = []
        for row in self.rows:
            values = {name: value for name, value in asdict(row).items() if name != "over"}
            rows.append(values | {"low": row.over.low, "high": row.over.high, "n": self.n, "n_out": self.n_out})
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """The change of each figure with its interval; 0 is marked: the screen moves nothing."""
        figure = go.Figure()
        for row in self.rows:
            bars = {"array": [row.over.high - row.change], "arrayminus": [row.change - row.over.low], "symmetric": False}
            mark = {"color": COLOURS.get(row.role), "symbol": SYMBOLS.get(row.role), "size": 11}
            figure.add_scatter(
                x=[row.change], y=[f"{FIGURES[row.figure]}, {row.role}"], error_x=bars, mode="markers", marker=mark, showlegend=False
            )
        figure.add_vline(x=0, line={"color": QUIET, "width": 1, "dash": "dot"})
        figure.update_xaxes(title_text=f"change without the screen ({self.n_out} of {self.n} prompts screened out)")
        return style(figure, 90 + 40 * max(1, len(self.rows)))

    def _repr_html_(self) -> str:
        return card("Unscreened", self.finding(), self.to_dataframe())


def unscreened(parts: TaskParts) -> Unscreened:
    """The headline of a task without its screen. Cost: an attribution of at most `MOST` prompts per model, and the draws' circuits."""
    config = parts.config
    kept, out = _draw(parts)
    scores = {role: _with(parts, role, one.select(kept), out) for role, one in parts.scores.items()} if len(out) else {}
    n = len(kept) + len(out)
    chosen = Selection(config.edges)
    rows = []
    for role in scores:
        if role == "arm":
            continue
        both = list(_both(scores["arm"], scores[role], len(kept), chosen, config.cut, config.n_boot // 2, config.seed))
        rows += [_row(role, name, both) for name in FIGURES]
    return Unscreened(tuple(rows), n, len(out))


def _draw(parts: TaskParts) -> tuple[list[int], Examples]:
    """The prompts of the draw's beginning: indices of those in the pool, and those that were screened out."""
    pool: Mapping[Example, int] = {example: i for i, example in enumerate(parts.pool.examples)}
    drawn = ExampleStream(parts.task, parts.tokenizer, parts.config.seed).up_to(parts.pool.tried)
    kept, out = [], []
    for i, example in enumerate(drawn):
        if example in pool:
            kept.append(pool[example])
        else:
            out.append(i)
        if len(kept) == len(pool) or len(out) == MOST:
            break
    return kept, drawn.select(out)


def _with(parts: TaskParts, role: str, scores: EdgeScores, out: Examples) -> EdgeScores:
    """A model's scores of the pool's prompts, and behind them of those screened out."""
    parts.progress(f"edge scores of the {ROLE_NAMES[role]} on {len(out)} prompts screened out")
    rows = readouts(parts.models[role], out, seed=parts.config.seed)
    return scores.joined(attribute_edges(parts.models[role], rows, parts.config.attribution))


def _both(
    arm: EdgeScores, other: EdgeScores, n_kept: int, chosen: Selection, cut: int | None, n_boot: int, seed: int
) -> Iterator[tuple[Headline, Headline]]:
    """The headline over the screened prompts, which come first, and over all: on the sample, then on each draw."""
    n = arm.n_examples
    for drawn in [torch.arange(n), *(drawn_examples(n, n_boot, seed) if n_boot else ())]:
        if len(screened := drawn[drawn < n_kept]):
            first, second = (headline(arm.resample(one), other.resample(one), chosen, cut) for one in (screened, drawn))
            yield first, second


def _row(role: str, figure: str, both: list[tuple[Headline, Headline]]) -> ScreenRow:
    (screened, whole), *_ = ((getattr(a, figure), getattr(b, figure)) for a, b in both)
    changes = [getattr(b - a, figure) for a, b in both[1:]]
    return ScreenRow(role, figure, screened, whole, whole - screened, interval(changes))


UNSCREENED = Measurement(
    "unscreened", "Without the screen", "Do overlap and early shift change when prompts that a model reads wrongly are kept?",
    "unscreened.json", Unscreened.load, unscreened, of_method=True,
)  # fmt: skip
