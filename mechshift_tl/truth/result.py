"""`TruthTable`: how well methods find edges that are known, as a table, a picture and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.intervals import Interval, judged
from mechshift_tl.plotting import DIVERGING, plain, style

#: What is asked of exact patching, and of the best gradient method, on the edges that move.
ASKED_OF_EXACT, ASKED_OF_GRADIENTS = 0.99, 0.95


@dataclass(frozen=True)
class TruthScore:
    """One method on one truth against one set of edges.

    - `against`: "program" (edges that the weights use) or "moving" (edges that move on the prompts).
    - `auroc`, `precision`: area under the ROC curve and average precision, in [0, 1], with 95 % intervals over prompts.
    - `n_true` of `n_edges` edges are true; `n_examples`: prompts; `note`: what the truth says of methods.
    """

    truth: str
    method: str
    against: str
    auroc: float
    auroc_interval: Interval
    precision: float
    precision_interval: Interval
    n_true: int
    n_edges: int
    n_examples: int
    note: str = ""


@dataclass(frozen=True)
class TruthTable(JsonArtefact):
    """Rows of `TruthScore`, and the draws behind their intervals."""

    KIND: ClassVar[str] = "methods held to known circuits"

    rows: tuple[TruthScore, ...]
    n_boot: int
    seed: int

    def to_dataframe(self) -> pd.DataFrame:
        """One row per truth, method and set of edges: auroc and precision with `_low` and `_high`, n_true, n_edges, n_examples."""
        found = []
        for row in self.rows:
            values: dict[str, object] = {"truth": row.truth, "method": row.method, "against": row.against}
            for name, value, over in (("auroc", row.auroc, row.auroc_interval), ("precision", row.precision, row.precision_interval)):
                values |= {name: value, f"{name}_low": over.low, f"{name}_high": over.high}
            found.append(values | {"n_true": row.n_true, "n_edges": row.n_edges, "n_examples": row.n_examples})
        return pd.DataFrame(found)

    @property
    def moving(self) -> pd.DataFrame:
        """AUROC on moving edges: a row per truth, a column per method, both in the order measured."""
        return self.table("moving")

    def table(self, against: str = "moving", value: str = "auroc") -> pd.DataFrame:
        """`value` ("auroc" or "precision") against one set of edges: a row per truth, a column per method."""
        frame = self.to_dataframe().query("against == @against")
        order = frame["truth"].unique(), frame["method"].unique()
        return frame.pivot(index="truth", columns="method", values=value).loc[order]

    def findings(self) -> list[str]:
        """Sentences: whether exact patching and the best gradient method reach what is asked of them, and where each method fails."""
        table = self.moving
        gradients = table.drop(columns=["random", "exact"], errors="ignore")
        found = []
        if "exact" in table:
            found.append(_reached("exact patching", table["exact"], ASKED_OF_EXACT))
        if len(gradients.columns):
            best = str(gradients.min().idxmax())
            found.append(_reached(f"{best}, the gradient method whose lowest is highest,", gradients[best], ASKED_OF_GRADIENTS))
        notes = {row.truth: row.note for row in self.rows if row.note}
        for truth, row in gradients.iterrows():
            if low := [f"{method} {value:.2f}" for method, value in row.items() if value < ASKED_OF_GRADIENTS]:
                why = f": {notes[str(truth)]}" if str(truth) in notes else ""
                found.append(f"On {truth}, {', '.join(low)}{why}.")
        return found

    def figure(self) -> go.Figure:
        """A plotly heat map: AUROC on the edges that move, truths by methods; 0.5 is chance."""
        table = self.moving
        figure = go.Figure(
            go.Heatmap(
                z=table.to_numpy(), x=[plain(str(name)) for name in table.columns], y=[plain(str(name)) for name in table.index],
                zmin=0, zmid=0.5, zmax=1, colorscale=DIVERGING, texttemplate="%{z:.2f}", colorbar={"title": "AUROC"},
                hovertemplate="%{y}, %{x}<br>AUROC %{z:.3f}<extra></extra>",
            )
        )  # fmt: skip
        figure.update_yaxes(autorange="reversed")
        return style(figure, 120 + 24 * len(table))

    def _repr_html_(self) -> str:
        text = f"{len(self.moving)} models with known circuits; AUROC on the edges that move. {' '.join(self.findings()[:2])}"
        return card("Truth", text, self.moving.reset_index())


def _reached(name: str, values: pd.Series, asked: float) -> str:
    lowest = str(values.idxmin())
    low = float(values.min())
    return f"{judged(low >= asked)}: {name} reaches an AUROC of {asked} on every truth; its lowest is {low:.3f}, on {lowest}."
