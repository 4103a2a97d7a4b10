"""`CircuitComparison`: everything a comparison of two circuits prints, as numbers, tables and a verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card, table
from mechshift_tl.compare.statistic import Statistic, statistics_figure
from mechshift_tl.intervals import Interval, judged

CAVEAT = (
    "A low overlap does not prove a different mechanism: many circuits can carry one mechanism. Read an overlap between its floor and its "
    "ceiling, and beside the circuits' faithfulness."
)


@dataclass(frozen=True)
class ComparisonSettings:
    """What `compare` was asked, with its defaults filled in.

    - `n`: edges asked for, None for bare circuits; `prune`: whether circuits were pruned.
    - `k`: components compared; `signed`: whether they were ranked by their summed scores.
    - `cut`: layers below it count as early.
    - `n_random`, `n_boot`, `seed`: draws behind floors and intervals.
    """

    n: int | None
    k: int
    cut: int
    prune: bool
    signed: bool
    n_random: int
    n_boot: int
    seed: int


@dataclass(frozen=True, eq=False)
class CircuitComparison(JsonArtefact):
    """Two circuits, a and b, compared.

    - `statistics`: by name. `edge_jaccard`, `component_jaccard` (top k), `weighted_jaccard`, `rank_biased_overlap` in [0, 1] and `spearman`
      in [−1, 1] have a floor (not spearman) and a ceiling (the lower of the two models'); `early_share_a`, `_b` are fractions of the
      layers' |score|, `centre_a`, `_b` in layers; `early_share_shift`, `centre_shift` are b − a. Of log|score| over all edges:
      `score_spearman`, `score_correlation` and the same `_corrected` for noise, with `reliability_a`, `_b` (`compare.correlation`).
    - `curve`: one row per circuit size: n, jaccard, expected (by chance), kept_a, kept_b, and `low`, `high` where prompts can be
      resampled; None for bare circuits.
    - `profiles`: one row per circuit and depth (input, 0 … , logits): `readers` and `writers` are fractions of |score| by the layer of the
      edge's reader or writer, `edges` of the edges by reader's layer; `low`, `high` bound `readers` where prompts can be resampled.
    - `early`: one row per circuit and cut: the share of the layers' |score| below it, with `low`, `high` where prompts can be resampled.
    - `components`: per component its layer, s(v), source and sink mass in a and b, and `top`: among the top k of a, b, both, or "".
    - `requested`, `kept`: edges of a and b; `full_cells`: share of their edges that random circuits cannot move.
    - `n_examples` of a and b, `settings`, and `notes`: what could not be computed, and why.
    """

    KIND: ClassVar[str] = "circuit_comparison"

    statistics: dict[str, Statistic]
    curve: pd.DataFrame | None = field(repr=False)
    profiles: pd.DataFrame = field(repr=False)
    early: pd.DataFrame = field(repr=False)
    components: pd.DataFrame = field(repr=False)
    requested: tuple[int, int]
    kept: tuple[int, int]
    full_cells: tuple[float, float]
    n_examples: tuple[int | None, int | None]
    settings: ComparisonSettings
    notes: tuple[str, ...] = ()

    @property
    def edge_jaccard(self) -> float:
        """|A ∩ B| / |A ∪ B| over edges."""
        return self.statistics["edge_jaccard"].value

    @property
    def shared_edges(self) -> tuple[int, int]:
        """Edges in both circuits, and in either: the counts whose ratio is the edge Jaccard, which moves in steps of 1 / the second."""
        either = round(sum(self.kept) / (1 + self.edge_jaccard))
        return sum(self.kept) - either, either

    @property
    def component_jaccard(self) -> float:
        """Jaccard of the top-k components by s(v)."""
        return self.statistics["component_jaccard"].value

    @property
    def weighted_jaccard(self) -> float:
        """Jaccard of the two circuits' |score| as fractions of their totals."""
        return self.statistics["weighted_jaccard"].value

    @property
    def spearman(self) -> float:
        """Rank correlation of the two models' scores on the union of the circuits; NaN for bare circuits."""
        return self.statistics["spearman"].value

    @property
    def early_share(self) -> tuple[float, float]:
        """Share of the layers' |score| in layers below `settings.cut`, of a and of b."""
        return self.statistics["early_share_a"].value, self.statistics["early_share_b"].value

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of depth of a and of b, in layers from 0."""
        return self.statistics["centre_a"].value, self.statistics["centre_b"].value

    @property
    def floor(self) -> dict[str, Interval]:
        """Mean and central 95 % over random circuits, of the statistics that have a floor."""
        return {name: s.floor for name, s in self.statistics.items() if s.floor is not None}

    @property
    def ceiling(self) -> dict[str, float] | None:
        """Split-half repeatability, corrected to all prompts, the lower of the two models'; None when prompts cannot be split."""
        return {name: s.ceiling for name, s in self.statistics.items() if s.ceiling is not None} or None

    @property
    def intervals(self) -> dict[str, Interval]:
        """Bootstrap 95 % intervals over prompts; empty when prompts cannot be resampled (`notes` says why).

        Percentiles of the draws, or their standard deviation around the value (`compare.comparison.BY_DEVIATION`).
        """
        return {name: s.interval for name, s in self.statistics.items() if s.interval is not None}

    @property
    def supported(self) -> bool:
        """Whether the edge overlap's interval over prompts lies above the floor's 95 %; False without an interval."""
        edges = self.statistics["edge_jaccard"]
        return edges.interval is not None and edges.floor is not None and edges.interval.low > edges.floor.high

    @property
    def verdict(self) -> str:
        """One sentence: whether more overlap than chance is supported, and why."""
        return f"{judged(self.supported)}: {self.finding}"

    @property
    def finding(self) -> str:
        """The edge overlap beside chance, in words: what the verdict rests on."""
        edges = self.statistics["edge_jaccard"]
        chance = f"the 95 % of random circuits with the same layer profile (up to {edges.floor.high:.3f})" if edges.floor else "chance"
        shared, either = self.shared_edges
        counted = f"{shared} of {either} edges shared"
        if edges.interval is None:
            return f"the edge overlap {edges.value:.3f} ({counted}) has no interval over prompts to hold against {chance}."
        bounds = f"{counted}; 95 % over prompts {edges.interval.low:.3f} to {edges.interval.high:.3f}"
        lies = "lies above" if self.supported else "does not clear"
        return f"the edge overlap {edges.value:.3f} ({bounds}) {lies} {chance}."

    def figure(self) -> go.Figure:
        """Every statistic in [−1, 1] that compares the two: dot and line with its interval, grey bar the floor, dark tick the ceiling."""
        return statistics_figure({"mdm": self.statistics})

    def to_dataframe(self) -> pd.DataFrame:
        """One row per statistic: name, value, low, high, floor, floor_low, floor_high, ceiling, n (examples); NaN where not computed."""
        counts = [count for count in self.n_examples if count is not None]
        return pd.DataFrame([_row(name, s) | {"n": min(counts, default=float("nan"))} for name, s in self.statistics.items()])

    def _repr_html_(self) -> str:
        sizes = " and ".join(f"{kept} of {asked} requested edges" for kept, asked in zip(self.kept, self.requested, strict=True))
        full = " and ".join(f"{100 * share:.0f} %" for share in self.full_cells)
        lines = [Markup("{}").format(line) for line in (f"{sizes}, {full} of them in full cells", self.verdict, CAVEAT, *self.notes)]
        return card("CircuitComparison") + Markup(": ") + Markup("<br>").join(lines) + table(self.to_dataframe(), missing="")


def _row(name: str, statistic: Statistic) -> dict[str, float | str]:
    none = Interval(*[float("nan")] * 3, n_draws=0)
    over, floor = statistic.interval or none, statistic.floor or none
    return {
        "name": name, "value": statistic.value, "low": over.low, "high": over.high,
        "floor": floor.mean, "floor_low": floor.low, "floor_high": floor.high,
        "ceiling": float("nan") if statistic.ceiling is None else statistic.ceiling,
    }  # fmt: skip
