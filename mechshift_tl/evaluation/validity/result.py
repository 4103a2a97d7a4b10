"""`Validity`: the scores of several methods beside the exact effects, per edge and prompt, and how well they correlate. `validity_note`:
what a comparison of an ARM's and an MDM's circuits must say where the method that found them is less valid on the MDM.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from plotly.subplots import make_subplots
from scipy.stats import rankdata
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import interval, judged, sample_and_draws
from mechshift_tl.plotting import DIVERGING, QUIET, SIZE, style

STATISTICS = ("spearman", "pearson")
#: From which share a path's gap is warned of, and below which share edges suffice without each other.
MOST_MISSED, LEAST_ALONE = 0.1, 0.5
# The figure: panels in a row, a panel's height in pixels, the line of equality, and how the two choices of edges look.
COLUMNS = 3
PANEL = 260
EQUAL = {"color": QUIET, "width": 1, "dash": "dot"}
CHOICES = {
    "top edges": (True, {"color": DIVERGING[-1][1], "size": 5, "opacity": 0.6}),
    "random edges": (False, {"color": DIVERGING[0][1], "size": 5, "opacity": 0.6}),
}


@dataclass(frozen=True, eq=False)
class Validity(Artefact):
    """Methods held against exact patching on `m` edges of one model.

    - `edges (m, 2)`: writer and reader of each edge, as indices of the graph; `top (m,)`: True where the edge was chosen for its score,
      False where it was drawn at random.
    - `exact (n_examples, m)`, `approximate (methods, n_examples, m)`: effects and scores, summed over the `read (n_examples,)` positions of
      each example, in the metric's unit.
    - `methods`: their names; `rank_by`: the one whose scores chose the top edges.
    - `n_boot`, `seed`: draws of the prompts behind every interval, and their seed.
    - `settings`: what the methods were asked; `provenance`: of the model.
    - `gaps`: the share of the effect that each method's path misses; None for methods without a path of the embeddings.
    - `alone`: what the input's edges are worth, each patched alone, as a share of the effect; None where not all of them were patched.

    Raises ValueError when the parts do not fit each other.
    """

    KIND: ClassVar[str] = "validity"

    graph: Graph
    edges: Int[Tensor, "m 2"] = field(repr=False)
    top: Bool[Tensor, " m"] = field(repr=False)
    exact: Float[Tensor, "n_examples m"] = field(repr=False)
    approximate: Float[Tensor, "methods n_examples m"] = field(repr=False)
    read: Int[Tensor, " n_examples"] = field(repr=False)
    methods: list[str]
    rank_by: str
    n_boot: int
    seed: int
    settings: dict[str, object] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict, repr=False)
    gaps: list[float | None] = field(default_factory=list)
    alone: float | None = None

    def __post_init__(self) -> None:
        n, m = self.exact.shape
        shapes = {"edges": (m, 2), "top": (m,), "approximate": (len(self.methods), n, m), "read": (n,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Validity: {name} is {tuple(getattr(self, name).shape)}, not {shape} as methods and exact say")

    @property
    def n_examples(self) -> int:
        """Prompts measured."""
        return self.exact.shape[0]

    def mean(self, method: str | None = None) -> Float[Tensor, " m"]:
        """Mean score of each edge over read positions, by `method` or exact, in the metric's unit."""
        sums = self.exact if method is None else self.approximate[self._index(method)]
        return sums.sum(0) / self.read.sum()

    def draws(self, method: str, statistic: str = "spearman", where: Bool[Tensor, " m"] | None = None) -> Float[np.ndarray, " draws"]:
        """The correlation of `method` with exact patching, in [−1, 1]: first on the prompts themselves, then on `n_boot` draws of them.

        `where` chooses edges. NaN with fewer than three edges, and where all scores are equal. Raises KeyError on an unknown method or
        statistic.
        """
        if statistic not in STATISTICS:
            raise KeyError(f"unknown statistic {statistic!r}; choose one of {', '.join(STATISTICS)}")
        sums = torch.stack([self.exact, self.approximate[self._index(method)]]).double()
        # Sums, not means: a draw divides all edges by the same number, which no correlation sees.
        exact, approximate = (self._counts @ (sums if where is None else sums[..., where])).numpy()
        if statistic == "spearman":
            # Spearman's correlation is Pearson's of the ranks; on every draw ranks are taken anew.
            exact, approximate = rankdata(exact, axis=1), rankdata(approximate, axis=1)
        return _correlation(exact, approximate)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per method and choice of edges (all, top, random): n_edges, spearman and pearson with `_low` and `_high`, n_examples."""
        rows = []
        for method in self.methods:
            for name, where in {"all": torch.ones_like(self.top), "top": self.top, "random": ~self.top}.items():
                row: dict[str, object] = {"method": method, "edges": name, "n_edges": int(where.sum())}
                for statistic in STATISTICS:
                    # The first draw is the prompts themselves.
                    value, *draws = self.draws(method, statistic, where).tolist()
                    over = interval(draws)
                    row |= {statistic: value, f"{statistic}_low": over.low, f"{statistic}_high": over.high}
                rows.append(row | {"n_examples": self.n_examples})
        return pd.DataFrame(rows)

    @property
    def warnings(self) -> list[str]:
        """Why these correlations may mislead, a sentence each: paths with too few points, and edges that suffice without each other."""
        found = [
            f"{method} misses {gap:.0%} of the effect along its path: the model turns in steps there, and edges into them score too "
            "little; give more ig_steps, or gap=0.02."
            for method, gap in zip(self.methods, self.gaps, strict=False)
            if gap is not None and gap > MOST_MISSED
        ]
        if self.alone is not None and self.alone < LEAST_ALONE:
            found.append(
                f"Patched one at a time, the input's edges are worth {self.alone:.0%} of the effect: some suffice without others, and "
                "exact patching of single edges is blind to these."
            )
        return found

    def to_dataframe(self) -> pd.DataFrame:
        """One row per edge, strongest exact effect first: writer, reader, top, exact, and one column per method."""
        columns: dict[str, list[object]] = {
            "writer": [self.graph.writers[u] for u in self.edges[:, 0].tolist()],
            "reader": [self.graph.readers[v] for v in self.edges[:, 1].tolist()],
            "top": self.top.tolist(),
            "exact": self.mean().tolist(),
        }
        frame = pd.DataFrame(columns | {method: self.mean(method).tolist() for method in self.methods})
        return frame.sort_values("exact", key=abs, ascending=False, kind="stable", ignore_index=True)

    def figure(self, methods: list[str] | None = None) -> go.Figure:
        """A plotly figure: each method's scores over the exact ones, top and random edges apart, with the line where both agree."""
        return _scatter(self.to_dataframe(), self.table, self.methods if methods is None else methods)

    @cached_property
    def _counts(self) -> Float[Tensor, "draws n_examples"]:
        """How often each draw holds each prompt; the first is the prompts themselves."""
        return sample_and_draws(self.n_examples, self.n_boot, self.seed)

    def _index(self, method: str) -> int:
        if method not in self.methods:
            raise KeyError(f"no method {method!r} here; there are {', '.join(self.methods)}")
        return self.methods.index(method)

    def _repr_html_(self) -> str:
        text = (
            f"{len(self.methods)} methods against exact patching of {len(self.top)} edges ({int(self.top.sum())} top by "
            f"{self.rank_by}), {self.n_examples} examples; 95 % over prompts"
        )
        return card("Validity", " ".join([text, *self.warnings]), self.table)


def validity_note(arm: Validity, mdm: Validity, method: str | None = None) -> str | None:
    """One sentence to print beside an overlap of the two models' circuits, or None where `method` is as valid on the MDM as on the ARM.

    It says by how much the method's Spearman correlation with exact patching, over all edges measured, is lower on the MDM, and whether
    that is supported: whether the difference's 95 % interval over prompts excludes 0. `method` is by default the one that ranked the edges.
    Prompts are drawn together, so both must have been measured on the same ones; raises ValueError where they differ in number.
    """
    name = method or arm.rank_by
    if arm.n_examples != mdm.n_examples:
        raise ValueError(f"validity_note: {arm.n_examples} and {mdm.n_examples} examples; measure both models on the same prompts")
    on_arm, on_mdm = (validity.draws(name) for validity in (arm, mdm))
    # Draws are paired: the same prompts for both models.
    n = min(len(on_arm), len(on_mdm))
    lower, *draws = (on_arm[:n] - on_mdm[:n]).tolist()
    if not lower > 0:
        return None
    over = interval(draws)
    what = (
        f"{name} follows exact patching less closely in the MDM than in the ARM: Spearman {on_mdm[0]:.2f} and {on_arm[0]:.2f}, "
        f"{lower:.2f} lower (95 % over prompts {over.low:.2f} to {over.high:.2f})"
    )
    holds = over.low > 0
    consequence = "; part of what the two circuits do not share may be the method's error" if holds else ""
    return f"{judged(holds)}: {what}{consequence}."


def _correlation(x: Float[np.ndarray, "draws m"], y: Float[np.ndarray, "draws m"]) -> Float[np.ndarray, " draws"]:
    if x.shape[1] < 3:
        return np.full(len(x), np.nan)
    x, y = (values - values.mean(1, keepdims=True) for values in (x, y))
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    # Where all values are equal there is no correlation: NaN, and no warning of a division by 0.
    return np.divide((x * y).sum(1), spread, out=np.full(len(x), np.nan), where=spread > 0)


def _scatter(edges: pd.DataFrame, correlations: pd.DataFrame, methods: list[str]) -> go.Figure:
    """One panel per method: the score of each edge over its exact effect. Top and random edges have colours of their own; on the dotted
    line score and effect are equal.

    `edges` has one row per edge (`Validity.to_dataframe`), `correlations` one per method (`Validity.table`).
    Raises KeyError on a method that was not measured.
    """
    table = correlations.query("edges == 'all'").set_index("method")
    titles = [f"{method}: ρ {table.loc[method, 'spearman']:.2f}, r {table.loc[method, 'pearson']:.2f}" for method in methods]
    n_columns = min(COLUMNS, len(methods))
    n_rows = -(-len(methods) // n_columns)
    figure = make_subplots(n_rows, n_columns, subplot_titles=titles, horizontal_spacing=0.07, vertical_spacing=0.16 / n_rows)
    ends = [edges["exact"].min(), edges["exact"].max()]
    for i, method in enumerate(methods):
        at = {"row": i // n_columns + 1, "col": i % n_columns + 1}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=EQUAL, showlegend=False, hoverinfo="skip", **at)
        for name, (top, marker) in CHOICES.items():
            chosen = edges[edges["top"] == top]
            figure.add_scatter(
                x=chosen["exact"], y=chosen[method], mode="markers", marker=marker, name=name, legendgroup=name, showlegend=not i,
                text=chosen["writer"] + " → " + chosen["reader"], hovertemplate="%{text}<br>exact %{x:.3g}, score %{y:.3g}", **at,
            )  # fmt: skip
    height = 110 + PANEL * n_rows
    style(figure, height, margin={"t": 70}, legend={"yref": "container", "y": 1 - 4 / height, "yanchor": "top"})
    for i in range(max(0, len(methods) - n_columns), len(methods)):  # the lowest panel of each column
        figure.update_xaxes(title={"text": "exact effect", "font": {"size": SIZE}}, row=i // n_columns + 1, col=i % n_columns + 1)
    return figure
