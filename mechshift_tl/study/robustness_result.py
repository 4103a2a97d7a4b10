"""`Robustness`: one table of what moves a study's headline, beside the interval over prompts of the headline itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan, nan
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.intervals import Interval
from mechshift_tl.plotting import COLOURS, ROLE_NAMES, SYMBOLS, faded, plain, style

#: What changes the prompts alone: a conclusion must not depend on it.
SEEDS = ("seed", "prompts")
#: The figures of a line, and their axes.
FIGURES = {"jaccard": "edge overlap J with the ARM", "early_shift": "early shift, all edges", "tau": "τ by id, faithful size"}
#: Of a figure that nothing drew anew.
UNKNOWN = Interval(nan, nan, nan, 0)


@dataclass(frozen=True)
class Baseline:
    """The headline of the ARM and `role` as the study's settings have it: J, early shift (over all edges), τ (NaN where none was given).

    Each has its 95 % interval over prompts, `_over`.
    """

    role: str
    jaccard: float
    jaccard_over: Interval
    early_shift: float
    early_shift_over: Interval
    tau: float = nan
    tau_over: Interval = UNKNOWN


@dataclass(frozen=True)
class Change:
    """The headline of the ARM and `role` with one thing changed: `factor` set to `setting`."""

    factor: str
    setting: str
    role: str
    jaccard: float
    early_shift: float
    tau: float = nan


@dataclass(frozen=True)
class Robustness(JsonArtefact):
    """What moves the headline. `skipped`: factor → why the task cannot vary it; `n`: prompts of every line."""

    KIND: ClassVar[str] = "robustness"

    baselines: tuple[Baseline, ...]
    changes: tuple[Change, ...]
    skipped: dict[str, str]
    n: int

    @property
    def seed_and_model(self) -> tuple[float, float] | None:
        """How far other prompts move J of ARM and MDM at most, and how far it lies from J of ARM and control; None without either."""
        base = {one.role: one for one in self.baselines}
        moves = [abs(c.jaccard - base[c.role].jaccard) for c in self.changes if c.role == "mdm" and c.factor in SEEDS]
        moves = [move for move in moves if not isnan(move)]
        if not {"mdm", "control"} <= base.keys() or not moves:
            return None
        return max(moves), abs(base["control"].jaccard - base["mdm"].jaccard)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per factor, setting and model; the study's own settings first.

        For each of `FIGURES`: the value, its change, and whether it leaves the baseline's 95 % over prompts (`_low` … `_high`).
        """
        rows = []
        for base in self.baselines:
            own = Change("as it is", "", base.role, base.jaccard, base.early_shift, base.tau)
            rows += [_row(base, one) for one in (own, *(change for change in self.changes if change.role == base.role))]
        return pd.DataFrame(rows).assign(n=self.n)

    def finding(self) -> str:
        """The failure sign first: whether the seed moves the overlap as much as the model does. Then what leaves its interval."""
        return " ".join([*self._seed_or_model(), self._movers(), *self._left_out()])

    def _seed_or_model(self) -> list[str]:
        if self.seed_and_model is None:
            return ["Without a control, or without other prompts, the overlap's dependence on the seed cannot be held against the model's."]
        seed, model = self.seed_and_model
        if seed >= model:
            says = "Failure sign present: overlap moves with the seed as much as with the model"
        else:
            says = "Not supported that overlap moves with the seed as much as with the model"
        return [f"{says}: other prompts move ARM ~ MDM by up to {seed:.3f}; from MDM to control it moves by {model:.3f}."]

    def _movers(self) -> str:
        frame = self.to_dataframe()
        texts = []
        for name, label in (("jaccard", "J"), ("early_shift", "the early shift"), ("tau", "τ")):
            if frame[name].isna().all():
                continue
            rows = frame[frame[f"{name}_leaves"]]
            moved = [f"{row['factor']} {row['setting']} ({row['role']} {row[f'{name}_change']:+.3f})" for _, row in rows.iterrows()]
            under = f"{label} leaves its 95 % over prompts under {', '.join(moved)}"
            texts.append(under if moved else f"nothing moves {label} out of its 95 % over prompts")
        said = "; ".join(texts)
        return f"{said[0].upper()}{said[1:]} (n {self.n})."

    def _left_out(self) -> list[str]:
        return [f"Not varied: {'; '.join(f'{name} ({why})' for name, why in self.skipped.items())}."] if self.skipped else []

    def figure(self) -> go.Figure:
        """Each of `FIGURES` under each change, a row per change; bands: the 95 % over prompts of the study's own settings."""
        frame = self.to_dataframe()
        shown_figures = {name: label for name, label in FIGURES.items() if frame[name].notna().any()}
        figure = make_subplots(1, len(shown_figures), shared_yaxes=True, horizontal_spacing=0.04)
        for column, (name, label) in enumerate(shown_figures.items(), 1):
            for role, rows in frame.groupby("role", sort=False):
                shown = ROLE_NAMES.get(str(role), plain(str(role)))
                look = {"color": COLOURS.get(str(role)), "symbol": SYMBOLS.get(str(role)), "size": 9}
                places = [plain(f"{row['factor']} {row['setting']}") for _, row in rows.iterrows()]
                figure.add_scatter(
                    x=rows[name].tolist(), y=places, mode="markers", marker=look, name=shown, showlegend=column == 1, row=1,
                    col=column,
                )  # fmt: skip
                if str(role) in COLOURS:
                    low, high = rows[f"{name}_low"].iloc[0], rows[f"{name}_high"].iloc[0]
                    axis = "" if column == 1 else str(column)
                    band = {"x0": low, "x1": high, "y0": 0, "y1": 1, "xref": f"x{axis}", "yref": f"y{axis} domain"}
                    figure.add_shape(type="rect", fillcolor=faded(str(role)), line_width=0, layer="below", **band)
            figure.update_xaxes(title_text=label, row=1, col=column)
        figure.update_yaxes(type="category", autorange="reversed", ticksuffix="  ")
        return style(figure, 110 + 24 * len(frame))

    def _repr_html_(self) -> str:
        return card("Robustness", self.finding(), self.to_dataframe())


def _row(base: Baseline, one: Change) -> dict[str, str | float | bool]:
    row: dict[str, str | float | bool] = {key: value for key, value in asdict(one).items() if isinstance(value, str)}
    for name in FIGURES:
        value, over = getattr(one, name), getattr(base, f"{name}_over")
        leaves = one.factor != "as it is" and not over.low <= value <= over.high and not isnan(value)
        row |= {name: value, f"{name}_change": value - getattr(base, name), f"{name}_leaves": leaves}
        row |= {f"{name}_low": over.low, f"{name}_high": over.high}
    return row
