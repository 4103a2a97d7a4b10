"""`EdgeScores` and `NodeScores`: the result of an attribution, with its graph, its parts, and what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import Self

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.attribution.scores_figure import draw_edges
from mechshift_tl.attribution.settings import AttributionSettings
from mechshift_tl.bridge.batching import is_whole
from mechshift_tl.component_grid import bars_figure, component_grid
from mechshift_tl.graph import Graph
from mechshift_tl.readouts.from_tokens import indices_of


@dataclass(frozen=True)
class Scores(Artefact):
    """Scores in the metric's unit per read position; positive = supports the behaviour.

    - `matrix (…)` float32: the mean over all read positions.
    - `per_step (steps, …)`: each step's own mean; `matrix` is their mean weighted by `n_read`.
    - `steps`, `n_read (steps,)`: step indices and how many positions were read at each.
    - `clean`, `corrupt`: the metric's means over the same positions.
    - `per_example (n_examples, …)`, where kept: each example's *sums* over its `read_per_example` positions, and `ends_per_example
      (2, n_examples)` the metric's clean and corrupt sums; any resample of prompts follows from them.
    - `settings`: what was asked; None where a file of another tool does not say. `only_step`, `only_span`: the step or span that these
      scores were cut down to.
    - `per_span (spans, …)`, where asked: the share of `matrix` that passes at the positions of each of `spans`; with exact
      patching, the effect of that span alone, which need not add up.
    - `points`, `passes`, `example_gap`, where a `gap` was asked for: points of the path that was found fine enough, forward and backward
      passes of each row in all, and the gap that the mean example is left with, as a share of the mean |effect|.
    """

    matrix: Float[Tensor, "*scores"]
    graph: Graph
    per_step: Float[Tensor, " steps *scores"]
    steps: list[int]
    n_read: list[int]
    clean: float
    corrupt: float
    n_examples: int
    settings: AttributionSettings | None = None
    provenance: dict[str, object] = field(default_factory=dict)
    per_example: Float[Tensor, " n_examples *scores"] | None = None
    ends_per_example: Float[Tensor, "2 n_examples"] | None = None
    read_per_example: Int[Tensor, " n_examples"] | None = None
    per_span: Float[Tensor, " spans *scores"] | None = None
    spans: list[str] = field(default_factory=list)
    only_step: int | None = None
    only_span: str | None = None
    points: int | None = None
    passes: int | None = None
    example_gap: float | None = None

    KIND: ClassVar[str] = "scores"

    @property
    def effect(self) -> float:
        """metric(clean) − metric(corrupt): what the scores together explain."""
        return self.clean - self.corrupt

    def made_by(self) -> dict[str, object]:
        """The settings that decide what these scores are, as JSON values, with the `step` or `span` that they are of."""
        known = {} if self.settings is None else self.settings.defining()
        parts = {"step": self.only_step, "span": self.only_span}
        return known | {name: value for name, value in parts.items() if value is not None}

    def step(self, step: int) -> Self:
        """The scores of one step alone; its metric ends are not kept (NaN). Raises KeyError naming the steps there are."""
        if step not in self.steps:
            raise KeyError(f"step {step} was not read; steps are {self.steps}")
        i = self.steps.index(step)
        part = {"matrix": self.per_step[i], "per_step": self.per_step[i][None], "steps": [step], "n_read": [self.n_read[i]]}
        gone = {"clean": float("nan"), "corrupt": float("nan"), "spans": []} | dict.fromkeys(_OPTIONAL)
        return replace(self, **part, **gone, only_step=step)

    def span(self, name: str) -> Self:
        """The share of the scores that passes at one named span. Raises KeyError naming the spans there are."""
        if self.per_span is None or name not in self.spans:
            raise KeyError(f"span {name!r} was not kept; spans are {self.spans}: attribute with per_position=True")
        matrix = self.per_span[self.spans.index(name)]
        part = {"matrix": matrix, "per_step": matrix[None], "steps": [0], "n_read": [sum(self.n_read)], "spans": []}
        return replace(self, **part, **dict.fromkeys(_OPTIONAL), only_span=name)

    def resample(self, examples: Sequence[int] | Int[Tensor, " m"]) -> Self:
        """The scores on a multiset of the examples (indices may repeat): a bootstrap draw, or one half of a split.

        Raises ValueError unless attributed with `keep_per_example=True`, and on an index that is none of the examples'.
        """
        if self.per_example is None or self.read_per_example is None or self.ends_per_example is None:
            raise ValueError("these scores hold no per-example parts; attribute with keep_per_example=True to resample prompts")
        drawn = torch.tensor(indices_of("resample", examples), dtype=torch.long)
        if not len(drawn) or not 0 <= int(drawn.min()) <= int(drawn.max()) < self.n_examples:
            raise ValueError(f"resample: {drawn.tolist()[:6]} are not indices of {self.n_examples} examples; give at least one")
        count = torch.bincount(drawn, minlength=self.n_examples).float()
        total = float(count @ self.read_per_example.float())
        # Sums over the drawn examples, divided by the positions that these read: examples may have different numbers of them.
        matrix = torch.tensordot(count, self.per_example, 1) / total
        clean, corrupt = (self.ends_per_example @ count / total).tolist()
        return replace(
            self, matrix=matrix, per_step=matrix[None], steps=[0], n_read=[int(total)], clean=clean, corrupt=corrupt,
            n_examples=len(examples), spans=[], **dict.fromkeys(_OPTIONAL),
        )  # fmt: skip

    def select(self, examples: Sequence[int]) -> Self:
        """The scores of some of the examples, with each one's own parts. Raises ValueError where `resample` does."""
        whole, index = self.resample(examples), torch.as_tensor(examples, dtype=torch.long)
        return replace(whole, **{name: part.index_select(_EXAMPLES[name], index) for name, part in self._per_example().items()})

    def joined(self, other: Self) -> Self:
        """These scores with those of further examples, which come behind. Steps are not kept apart.

        Raises ValueError unless both were attributed with `keep_per_example=True`, by the same settings.
        """
        mine, theirs = self._per_example(), other._per_example()
        if not mine or not theirs or self.made_by() != other.made_by():
            raise ValueError("joined needs scores of the same settings, both attributed with keep_per_example=True")
        parts = {name: torch.cat([part, theirs[name]], _EXAMPLES[name]) for name, part in mine.items()}
        n = self.n_examples + other.n_examples
        return replace(self, **parts, n_examples=n).select(range(n))

    def _per_example(self) -> dict[str, Tensor]:
        return {name: part for name in _EXAMPLES if (part := getattr(self, name)) is not None}

    def to_dataframe(self) -> pd.DataFrame:
        """One row per score, strongest |score| first."""
        raise NotImplementedError

    def top(self, n: int) -> pd.DataFrame:
        """The `n` rows of largest |score|, strongest first. Raises ValueError unless `n` is a whole number of at least 0."""
        _check_count(n)
        return self.to_dataframe().head(n)

    def figure(self, n: int = 20) -> go.Figure:
        """The scores as a picture; `n`: how many are named."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        text = f"{self.matrix.numel()} scores, {self.n_examples} examples, effect {self.effect:.3f}"
        return card(type(self).__name__, text, self.top(10), decimals=4)


@dataclass(frozen=True)
class EdgeScores(Scores):
    """Scores of every edge, `matrix (n_writers, n_readers)`; exactly zero where no edge can exist. See `Scores`.

    Raises ValueError when the matrix does not fit the graph.
    """

    KIND: ClassVar[str] = "edge scores"

    def __post_init__(self) -> None:
        # Held against the counts alone: a graph that a file names may be too large to be made.
        if tuple(self.matrix.shape) != self.graph.shape:
            raise ValueError(f"EdgeScores: matrix is {tuple(self.matrix.shape)}; its graph is {self.graph.shape} writers × readers")

    @property
    def writers(self) -> list[str]:
        """Row ids: `input`, `a3.h1`, `m3`."""
        return self.graph.writers

    @property
    def readers(self) -> list[str]:
        """Column ids: `a3.h1<q>`, `a3.g0<k>` or `a3.h1<k>`, `m3`, `logits`."""
        return self.graph.readers

    @property
    def completeness_gap(self) -> float:
        """Row `input` summed, minus the effect, as a share of |effect|; tends to 0 as the embeddings' path is sampled finer
        (Sundararajan et al.). Without a path of the embeddings it says how far the method is from complete."""
        # The bound avoids dividing by an effect of 0.
        return (self.matrix[0].sum().item() - self.effect) / max(abs(self.effect), 1e-12)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per possible edge, strongest |score| first: writer, reader, score, writer_layer, reader_layer."""
        return self.graph.edge_frame(self.graph.possible, self.matrix)

    def top(self, n: int) -> pd.DataFrame:
        """The `n` rows of largest |score|, strongest first. Other rows are not made: a large model has millions of them.

        Raises ValueError unless `n` is a whole number of at least 0.
        """
        _check_count(n)
        strength = self.matrix.abs().masked_fill(~self.graph.possible, -1).flatten()
        # Every edge as strong as the weakest chosen one is sorted too, so that ties fall as in the full table.
        least = strength.topk(max(1, min(n, self.graph.n_edges))).values[-1]
        return self.graph.edge_frame((strength >= least).view_as(self.matrix), self.matrix).head(n)

    def figure(self, n: int = 20) -> go.Figure:
        """Σ|score| by the layers of writer and reader, beside the `n` edges of largest |score|; colour: sign."""
        return draw_edges(self.matrix, self.graph, self.top(n))

    def _repr_html_(self) -> str:
        text = f"{self.graph.n_edges} edges, {self.n_examples} examples, effect {self.effect:.3f}"
        return card("EdgeScores", f"{text}, completeness gap {100 * self.completeness_gap:.1f} %", self.top(10), decimals=4)


@dataclass(frozen=True)
class NodeScores(Scores):
    """Scores of nodes, `matrix (n_writers,)` in the order of `graph.writers`, or of MLP neurons, `(n_layers · d_mlp,)` layer by layer."""

    KIND: ClassVar[str] = "node scores"

    @property
    def of_neurons(self) -> bool:
        """Whether these are scores of MLP neurons."""
        return self.settings is not None and self.settings.level == "neurons"

    @cached_property
    def ids(self) -> list[str]:
        """`input`, `a3.h1`, `m3` for nodes; `m3.n17` for neurons."""
        if not self.of_neurons:
            return self.graph.writers
        width = len(self.matrix) // self.graph.n_layers
        return [f"m{layer}.n{i}" for layer in range(self.graph.n_layers) for i in range(width)]

    @property
    def completeness_gap(self) -> float:
        """The input's score minus the effect, as a share of |effect|; NaN for neurons, which do not hold the input."""
        if self.of_neurons:
            return float("nan")
        return (self.matrix[0].item() - self.effect) / max(abs(self.effect), 1e-12)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per node, strongest |score| first: node, layer (−1 for the input), score."""
        width = len(self.matrix) // self.graph.n_layers
        layers = [i // width for i in range(len(self.matrix))] if self.of_neurons else self.graph.writer_layers.tolist()
        frame = pd.DataFrame({"node": self.ids, "layer": layers, "score": self.matrix.tolist()})
        return frame.sort_values("score", key=abs, ascending=False, kind="stable", ignore_index=True)

    def figure(self, n: int = 20) -> go.Figure:
        """Nodes: all heads and MLPs by layer. Neurons: the `n` of largest |score|. Colour: sign."""
        if not self.of_neurons:
            return component_grid(dict(zip(self.ids, self.matrix.tolist(), strict=True)), "score")
        strongest = self.top(n)
        return bars_figure(strongest["node"].tolist(), strongest["score"].tolist(), "score, per position read")


#: Parts that hold a row per example, and the dimension that counts examples.
_EXAMPLES = {"per_example": 0, "ends_per_example": 1, "read_per_example": 0}
_OPTIONAL = ("per_example", "ends_per_example", "read_per_example", "per_span")


def _check_count(n: int) -> None:
    if not is_whole(n) or n < 0:
        raise ValueError(f"top: n is {n}; give a whole number of at least 0")
