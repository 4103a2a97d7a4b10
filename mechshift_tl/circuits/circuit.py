"""`Circuit`: a set of edges with their scores, what it says about components, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

import networkx as nx
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_diffusion.artefact import Artefact, build
from hooked_diffusion.html import card
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.bridge.kinds import check_kind
from mechshift_tl.circuits.picture import draw
from mechshift_tl.circuits.resampled import ranked_by
from mechshift_tl.circuits.select import Choice, Rank, Selection, check_finite
from mechshift_tl.graph import Graph, check_same_graph


@dataclass(frozen=True, eq=False)
class Circuit(Artefact):
    """A circuit: edges of a graph and their scores.

    - `edges (n_writers, n_readers)`: True at the circuit's edges, all of them possible ones.
    - `scores (n_writers, n_readers)`: their scores, zero outside the circuit; positive = the edge supports the behaviour.
    - `requested`: how many edges were asked for, or pass the threshold; `kept` (also `len`) is how many there are.
    - `settings`, `provenance`: of the scores, with those of the selection and `n_examples`.

    Circuits of one graph are joined like sets: `a | b`, `a & b`, `a - b`, and `~a` (every possible edge that is not in a). An edge keeps
    its score; where both circuits have the edge, a's score is kept. Edges of `~a` score 0. The result is not pruned, counts as requested
    what it holds, and keeps the settings that both circuits share. Raises ValueError when the graphs differ.

    Raises ValueError when the tensors do not fit the graph or each other.
    """

    KIND: ClassVar[str] = "circuit"

    graph: Graph
    edges: Bool[Tensor, "n_writers n_readers"] = field(repr=False)
    scores: Float[Tensor, "n_writers n_readers"] = field(repr=False)
    requested: int
    settings: dict[str, object] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.graph.shape
        for name in ("edges", "scores"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"Circuit: {name} is {tuple(getattr(self, name).shape)}; its graph is {shape} writers × readers")
        if self.edges.dtype != torch.bool:
            raise ValueError(f"Circuit: edges is {self.edges.dtype}; give a bool mask, True at the circuit's edges")
        if (self.edges & ~self.graph.possible).any():
            raise ValueError("Circuit: edges holds an edge that cannot exist; intersect it with graph.possible")
        if ((self.scores != 0) & ~self.edges).any():
            raise ValueError("Circuit: scores is not zero outside edges; fill it with 0 there")
        check_finite(self.scores, self.graph)

    @classmethod
    def from_scores(
        cls,
        scores: EdgeScores,
        n: int | None = None,
        *,
        fraction: float | None = None,
        threshold: float | None = None,
        by: Rank = "magnitude",
        greedy: bool = False,
        zeros: bool = False,
        prune: bool = True,
        choose: Choice = "strongest",
        topn: int | None = None,
        absolute: bool | None = None,
    ) -> Circuit:
        """The circuit of the `n` edges of largest |score|, or as the other settings say: see `circuits.select.Selection`.

        Without a size, `n` is 1000, or 5 % of the possible edges (rounded up) where that is fewer. The circuit may hold fewer edges than
        requested: `prune` drops edges without a path from input to logits; edges that score exactly zero stay out unless `zeros`; a greedy
        walk ends where no further edge leads to the logits. Of equal scores, the edge that comes first in the matrix is taken. Raises
        ValueError when a score is not finite, two sizes are given, or a setting is out of its range.

        `topn` and `absolute` are EAP-IG's names: of `n`, and of `by`, "magnitude" where it is True.
        """
        check_kind("Circuit.from_scores", "scores", scores, EdgeScores, "the EdgeScores that attribute(model, readouts) returns")
        if topn is not None and n is not None:
            raise ValueError(f"Circuit.from_scores: n={n} and topn={topn} are two sizes; give one")
        n = topn if n is None else n
        by = by if absolute is None else "magnitude" if absolute else "signed"
        return cls.select(scores, Selection(n, fraction, threshold, by, greedy, zeros, prune, choose))

    @classmethod
    def select(cls, scores: EdgeScores, chosen: Selection) -> Circuit:
        """`from_scores`, with its settings in one object."""
        edges, requested = chosen.edges(ranked_by(scores, chosen), scores.graph)
        settings = {name: value for name, value in asdict(chosen).items() if name != "n" and value is not None}
        provenance: dict[str, object] = {**scores.provenance, "n_examples": scores.n_examples}
        return cls(scores.graph, edges, scores.matrix.masked_fill(~edges, 0), requested, scores.made_by() | settings, provenance)

    def __or__(self, other: Circuit) -> Circuit:
        return self._joined(other, "union", torch.logical_or)

    def __and__(self, other: Circuit) -> Circuit:
        return self._joined(other, "intersection", torch.logical_and)

    def __sub__(self, other: Circuit) -> Circuit:
        # True > False: in this circuit and not in the other.
        return self._joined(other, "difference", torch.greater)

    def __invert__(self) -> Circuit:
        edges = self.graph.possible & ~self.edges
        settings = self.settings | {"operation": "complement"}
        return replace(self, edges=edges, scores=torch.zeros_like(self.scores), requested=int(edges.sum()), settings=settings)

    def _joined(self, other: Circuit, operation: str, join: Callable[[Tensor, Tensor], Tensor]) -> Circuit:
        if not isinstance(other, Circuit):
            return NotImplemented
        check_same_graph(self.graph, other.graph)
        edges = join(self.edges, other.edges)
        # An edge of both keeps this circuit's score.
        scores = torch.where(self.edges, self.scores, other.scores).masked_fill(~edges, 0)
        settings = _agreed(self.settings, other.settings) | {"operation": operation}
        provenance = _agreed(self.provenance, other.provenance) | {"operands": [self.provenance, other.provenance]}
        return Circuit(self.graph, edges, scores, int(edges.sum()), settings, provenance)

    @property
    def kept(self) -> int:
        """Edges in the circuit."""
        return int(self.edges.sum())

    def __len__(self) -> int:
        return self.kept

    @property
    def n_examples(self) -> int | None:
        """The number of examples behind the scores; None where the provenance does not say."""
        n = self.provenance.get("n_examples")
        return n if isinstance(n, int) else None

    @property
    def metric(self) -> str | None:
        """Name of the metric that the scores explain; None where the settings do not say."""
        return _text(self.settings.get("metric"))

    @property
    def intervention(self) -> str | None:
        """What replaced the writers' outputs when the scores were made; None where the settings do not say."""
        return _text(self.settings.get("intervention"))

    @property
    def selection(self) -> Selection:
        """How the edges were chosen, with the number requested in place of a fraction or a threshold."""
        known = {name: self.settings[name] for name in ("by", "greedy", "zeros", "prune", "choose") if name in self.settings}
        return build(Selection, {"n": self.requested, **known}, "settings")

    @property
    def sources(self) -> Float[Tensor, " n_components"]:
        """Outgoing |score| of each of `graph.components`."""
        return self._sources(self.scores.abs())

    @property
    def sinks(self) -> Float[Tensor, " n_components"]:
        """Incoming |score| of each of `graph.components`; an edge into a KV group is shared equally by its heads."""
        return self._sinks(self.scores.abs())

    def component_scores(self, *, signed: bool = False) -> Float[Tensor, " n_components"]:
        """s(v) = Σ |score| of the edges into and out of each of `graph.components`; `signed` sums the scores themselves."""
        values = self.scores if signed else self.scores.abs()
        return self._sources(values) + self._sinks(values)

    @property
    def components(self) -> pd.DataFrame:
        """One row per component of the circuit, largest s(v) first: component, layer, score, signed, source, sink."""
        frame = pd.DataFrame(
            {
                "component": self.graph.components,
                "layer": self.graph.writer_layers[1:].tolist(),
                "score": self.component_scores().tolist(),
                "signed": self.component_scores(signed=True).tolist(),
                "source": self.sources.tolist(),
                "sink": self.sinks.tolist(),
            }
        )
        return frame.loc[frame["score"] > 0].sort_values("score", ascending=False, kind="stable", ignore_index=True)

    def edge_set(self) -> frozenset[tuple[str, str]]:
        """The edges as pairs of ids, (writer, reader)."""
        return frozenset((self.graph.writers[u], self.graph.readers[v]) for u, v in self.edges.nonzero().tolist())

    def to_dataframe(self) -> pd.DataFrame:
        """One row per edge, strongest |score| first: writer, reader, score, writer_layer, reader_layer."""
        return self.graph.edge_frame(self.edges, self.scores)

    def to_networkx(self) -> nx.MultiDiGraph:
        """Nodes `input`, `a3.h1`, `m3`, `logits` (attribute `layer`); edges keyed by their reader's id (attributes `reader`, `score`).

        An edge into a KV group becomes one edge to each of its heads, with an equal share of the score: |score| around a node sums to s(v).
        """
        graph = nx.MultiDiGraph()
        graph.add_node("input", layer=-1)
        graph.add_node("logits", layer=self.graph.n_layers)
        for edge in self.to_dataframe().to_dict("records"):
            writer, reader = edge["writer"], edge["reader"]
            graph.add_node(writer, layer=edge["writer_layer"])
            # The logits belong to no component.
            targets = self.graph.components_of(reader) or ["logits"]
            for target in targets:
                graph.add_node(target, layer=edge["reader_layer"])
                graph.add_edge(writer, target, key=reader, reader=reader, score=edge["score"] / len(targets))
        return graph

    def figure(self, n: int = 200) -> go.Figure:
        """A picture of the `n` strongest edges, from `input` on the left to `logits` on the right: see `circuits.picture`."""
        return draw(self.graph, self.to_dataframe(), n)

    def _packed(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        tensors, values = super()._packed()
        # A circuit is a few of very many edges, so their indices are stored and not the matrix.
        return tensors | {"edges": self.edges.nonzero(), "scores": self.scores[self.edges]}, values

    @classmethod
    def _unpacked(cls, tensors: Mapping[str, Tensor], values: Mapping[str, object]) -> Circuit:
        stored = build(_Stored, {**values, **tensors})
        stored.graph.check_room()  # the file holds a few edges; the counts in its header say how much is made of them
        shape = stored.graph.shape
        rows, columns = index = stored.edges.unbind(1)
        if len(rows) and not (int(stored.edges.min()) >= 0 and int(rows.max()) < shape[0] and int(columns.max()) < shape[1]):
            raise ValueError(f"edges holds an index outside the graph's {shape[0]} writers × {shape[1]} readers")
        # In the scores' own dtype: loading must not round.
        edges, scores = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=stored.scores.dtype)
        edges[index], scores[index] = True, stored.scores
        return cls(stored.graph, edges, scores, stored.requested, stored.settings, stored.provenance)

    def _sources(self, values: Float[Tensor, "n_writers n_readers"]) -> Float[Tensor, " n_components"]:
        return values.sum(1)[1:]

    def _sinks(self, values: Float[Tensor, "n_writers n_readers"]) -> Float[Tensor, " n_components"]:
        # Column 0 is the input, which reads nothing.
        return values.sum(0) @ self.graph.membership[:, 1:]

    def _repr_html_(self) -> str:
        components = self.components
        text = f"{self.kept} of {self.requested} requested edges, {len(components)} of {len(self.graph.components)} components"
        return card("Circuit", text, self.to_dataframe().head(10), decimals=4)


@dataclass(frozen=True)
class _Stored:
    """A circuit as its file holds it: the indices of its edges and their scores, in place of matrices that are mostly zero."""

    graph: Graph
    edges: Int[Tensor, "kept 2"]
    scores: Float[Tensor, " kept"]
    requested: int
    settings: dict[str, object] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _agreed(a: dict[str, object], b: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in a.items() if key in b and b[key] == value}
