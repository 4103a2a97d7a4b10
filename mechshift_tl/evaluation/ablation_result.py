"""`Ablations`: what models lose without sets of their components, beside random sets; and the removal of weak components."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.intervals import judged
from mechshift_tl.plotting import COLOURS, ROLE_NAMES, SYMBOLS, plain, style

WEAKEST = "weakest "
INTERVENTIONS = ("counterfactual", "mean", "zero")


@dataclass(frozen=True)
class AblationRow:
    """One set of components ablated in one model.

    - `role`: of the model; `removed`: the set's name; `by`: "zero", "mean" or "counterfactual"; `n_components` in the set.
    - `free`: share of the set that its random controls can put elsewhere; `n_random`: controls; `n`: prompts.
    - `metric` (logits), `accuracy` (share in [0, 1] of prompts whose answer ranks first at every position): under the ablation, with 95 %
      over prompts. `clean_…`: of the whole model. `random_…`: mean of the controls, 95 % over prompts and controls.
    - `beyond_…`: random − ablated, paired. Above 0: these components matter more than as many others.
    """

    role: str
    removed: str
    by: str
    n_components: int
    free: float
    n_random: int
    n: int
    clean_metric: float
    metric: float
    metric_low: float
    metric_high: float
    random_metric: float
    random_metric_low: float
    random_metric_high: float
    beyond_metric: float
    beyond_metric_low: float
    beyond_metric_high: float
    clean_accuracy: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    random_accuracy: float
    random_accuracy_low: float
    random_accuracy_high: float
    beyond_accuracy: float
    beyond_accuracy_low: float
    beyond_accuracy_high: float

    @property
    def is_weakest(self) -> bool:
        """Whether the set is one of the weakest components, for the curve."""
        return self.removed.startswith(WEAKEST)


@dataclass(frozen=True)
class Ablations(JsonArtefact):
    """Every ablation of every model of a task."""

    KIND: ClassVar[str] = "ablations"

    rows: tuple[AblationRow, ...]

    def finding(self) -> str:
        """What the early layers' strongest components are worth, model by model; and how many weak components can go."""
        return " ".join([*self._early(), *self._weak()])

    def _early(self) -> Iterable[str]:
        for row in self.rows:
            if row.removed.endswith("of the early layers") and row.by == INTERVENTIONS[0]:
                holds = row.beyond_metric_low > 0
                matter = "matter more than as many others of their kinds and depth" if holds else "matter more than others like them"
                over = f"[{row.metric_low:.2f}, {row.metric_high:.2f}]"
                accuracy = f"{row.accuracy:.2f} [{row.accuracy_low:.2f}, {row.accuracy_high:.2f}]"
                yield (
                    f"{judged(holds)}: in the {ROLE_NAMES[row.role]} the {row.removed} {matter}: without them the logit difference is "
                    f"{row.metric:.2f} {over}, without random ones {row.random_metric:.2f}, whole {row.clean_metric:.2f}; accuracy "
                    f"{accuracy}, random {row.random_accuracy:.2f}, whole {row.clean_accuracy:.2f} (n {row.n})."
                )

    def _weak(self) -> Iterable[str]:
        for role in dict.fromkeys(row.role for row in self.rows):
            kept = [row for row in self.rows if row.role == role and row.is_weakest and row.accuracy >= 0.9 * row.clean_accuracy]
            if any(row.is_weakest and row.role == role for row in self.rows):
                most = max(kept, key=lambda row: row.n_components, default=None)
                can = f"the {most.removed} can go" if most else "not even the weakest tried can go"
                rest = f" (a random set of this size leaves {most.random_accuracy:.2f})" if most else ""
                yield f"In the {ROLE_NAMES[role]} {can} with 90 % of its accuracy kept{rest}."

    def to_dataframe(self) -> pd.DataFrame:
        """One row per model, set and intervention, a column per field of `AblationRow`."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def figure(self) -> go.Figure:
        """The logit difference left, a panel per intervention, and accuracy over the share of weak components removed; hollow: random."""
        panels = [by for by in INTERVENTIONS if any(row.by == by and not row.is_weakest for row in self.rows)]
        titles = [*(f"replaced by: {by}" for by in panels), "weak components removed in rising order"]
        figure = make_subplots(len(titles), 1, subplot_titles=titles, vertical_spacing=0.09)
        for role in dict.fromkeys(row.role for row in self.rows):
            for place, by in enumerate(panels, 1):
                self._panel(figure, place, role, [r for r in self.rows if (r.role, r.by, r.is_weakest) == (role, by, False)])
            self._curve(figure, len(titles), role, [r for r in self.rows if r.role == role and r.is_weakest])
        return style(figure, 230 * len(titles), margin_t=80, legend_y=1.04)

    @staticmethod
    def _panel(figure: go.Figure, place: int, role: str, rows: list[AblationRow]) -> None:
        names = [plain(row.removed) for row in rows]
        for kind, symbol in (("metric", ""), ("random_metric", "-open")):
            figure.add_scatter(
                x=names, y=[getattr(r, kind) for r in rows], error_y=_bars(rows, kind), mode="markers", showlegend=False, row=place, col=1,
                marker={"color": COLOURS.get(role), "symbol": SYMBOLS.get(role, "circle") + symbol, "size": 10},
                name=f"{ROLE_NAMES.get(role, plain(role))}{', random' if symbol else ''}",
            )  # fmt: skip
        figure.update_yaxes(title_text="logit difference", row=place, col=1)

    @staticmethod
    def _curve(figure: go.Figure, place: int, role: str, rows: list[AblationRow]) -> None:
        for kind, dash in (("accuracy", "solid"), ("random_accuracy", "dot")):
            figure.add_scatter(
                x=[row.n_components for row in rows], y=[getattr(row, kind) for row in rows], error_y=_bars(rows, kind), row=place, col=1,
                mode="lines+markers", line={"color": COLOURS.get(role), "dash": dash},
                name=f"{ROLE_NAMES.get(role, plain(role))}{', random order' if dash == 'dot' else ''}",
            )  # fmt: skip
        figure.update_xaxes(title_text="components removed", row=place, col=1)
        figure.update_yaxes(title_text="accuracy", row=place, col=1)

    def _repr_html_(self) -> str:
        return card("Ablations", self.finding(), self.to_dataframe())


def _bars(rows: list[AblationRow], kind: str) -> dict[str, object]:
    value, low, high = ([getattr(row, f"{kind}{end}") for row in rows] for end in ("", "_low", "_high"))
    up, down = ([abs(a - b) for a, b in zip(value, ends, strict=True)] for ends in (high, low))
    return {"array": up, "arrayminus": down, "symmetric": False}
