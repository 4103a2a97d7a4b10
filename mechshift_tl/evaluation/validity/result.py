"""`Validity`: the scores of several methods beside the exact ones, edge by edge and prompt by prompt, and how well they correlate."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from mechshift_tl.evaluation.validity.figure import scatter
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import interval

STATISTICS = ("spearman", "pearson")


@dataclass(frozen=True, eq=False)
class Validity(Artefact):
    """Methods held against exact patching on `m` edges of one model.

    - `edges (m, 2)`: writer and reader of each, as indices of the graph; `top (m,)`: chosen for its score, not at random.
    - `exact (n_examples, m)`, `approximate (methods, n_examples, m)`: each example's sums over its `read (n_examples,)` positions.
    - `methods`: their names; `settings`: `rank_by`, `n_boot`, `seed`, and what the methods were asked; `provenance`: of the model.

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
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

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
        """The correlation of `method` with exact patching, in [−1, 1]: on the prompts themselves, then on `n_boot` draws of them.

        `where` chooses edges; NaN with fewer than three, or scores all equal. Raises KeyError on an unknown method or statistic.
        """
        if statistic not in STATISTICS:
            raise KeyError(f"unknown statistic {statistic!r}; choose one of {', '.join(STATISTICS)}")
        sums = torch.stack([self.exact, self.approximate[self._index(method)]]).double()
        exact, approximate = (self._counts @ (sums if where is None else sums[..., where])).numpy()
        if statistic == "spearman":
            exact, approximate = rankdata(exact, axis=1), rankdata(approximate, axis=1)
        return _correlation(exact, approximate)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per method and choice of edges (all, top, random): n_edges, spearman and pearson with `_low` and `_high`, n_examples."""
        rows = []
        for method in self.methods:
            for name, where in {"all": torch.ones_like(self.top), "top": self.top, "random": ~self.top}.items():
                row: dict[str, Any] = {"method": method, "edges": name, "n_edges": int(where.sum())}
                for statistic in STATISTICS:
                    value, *draws = self.draws(method, statistic, where).tolist()
                    over = interval(draws)
                    row |= {statistic: value, f"{statistic}_low": over.low, f"{statistic}_high": over.high}
                rows.append(row | {"n_examples": self.n_examples})
        return pd.DataFrame(rows)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per edge, strongest exact effect first: writer, reader, top, exact, and one column per method."""
        columns: dict[str, Any] = {
            "writer": [self.graph.writers[u] for u in self.edges[:, 0].tolist()],
            "reader": [self.graph.readers[v] for v in self.edges[:, 1].tolist()],
            "top": self.top.tolist(),
            "exact": self.mean().tolist(),
        }
        frame = pd.DataFrame(columns | {method: self.mean(method).tolist() for method in self.methods})
        return frame.sort_values("exact", key=abs, ascending=False, kind="stable", ignore_index=True)

    def figure(self, methods: list[str] | None = None) -> go.Figure:
        """A plotly figure: each method's scores over the exact ones, top and random edges apart, with the line where both agree."""
        return scatter(self.to_dataframe(), self.table, self.methods if methods is None else methods)

    @cached_property
    def _counts(self) -> Float[Tensor, "draws n_examples"]:
        """How often each draw holds each prompt; the first is the prompts themselves."""
        n = self.n_examples
        generator = torch.Generator().manual_seed(self.settings.get("seed", 0))
        drawn = torch.randint(n, (self.settings.get("n_boot", 0), n), generator=generator)
        counts = torch.zeros(len(drawn), n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        return torch.cat([torch.ones(1, n, dtype=torch.float64), counts])

    def _index(self, method: str) -> int:
        if method not in self.methods:
            raise KeyError(f"no method {method!r} here; there are {', '.join(self.methods)}")
        return self.methods.index(method)

    def _repr_html_(self) -> str:
        head = (
            f"<b>Validity</b>: {len(self.methods)} methods against exact patching of {len(self.top)} edges ({int(self.top.sum())} top by "
            f"{self.settings.get('rank_by')}), {self.n_examples} examples; 95 % over prompts"
        )
        return head + self.table.to_html(index=False, float_format="%.3f")


def _correlation(x: Float[np.ndarray, "draws m"], y: Float[np.ndarray, "draws m"]) -> Float[np.ndarray, " draws"]:
    if x.shape[1] < 3:
        return np.full(len(x), np.nan)
    x, y = (values - values.mean(1, keepdims=True) for values in (x, y))
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), spread, out=np.full(len(x), np.nan), where=spread > 0)
