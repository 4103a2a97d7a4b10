"""Which writer of one model does the work of which writer of another, and what a circuit of the one is in the other.

A training may move a mechanism to other heads. Circuits compared by id then share nothing, though the mechanism is the same. A `Matching`
says, for every writer of model b, which writer of model a it stands for. It carries a circuit of a into b: an edge is live in b where the
edge between the two writers that its ends stand for is live in a.

- **Within layers** (`within_layers`): every head of b stands for another head of its own layer, so that the similarities add up to the most
  (linear assignment). Heads that share keys and values stay together. MLPs and the input stand for themselves.
- **Across depth** (`across_depth`): every head or MLP of b stands for the most similar one of a, in whichever layer. Two may stand for the
  same one. This also finds mechanisms that a silent layer has pushed to other layers.

The similarities are those of `circuits.similarity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.select import strongest
from mechshift_tl.graph import Graph, check_same_graph
from mechshift_tl.plotting import style


@dataclass(frozen=True, eq=False)
class Matching(Artefact):
    """For every writer of model b, the writer of model a that it stands for.

    - `image (n_writers,)`: at the index of b's writer, the index of a's in `graph.writers`; −1 where it stands for none.
    - `similarity (n_writers,)`: of the two, in [−1, 1]; NaN where it was not measured.
    - `by`: what they were compared by, such as "weights".

    Raises ValueError when the tensors do not fit the graph.
    """

    KIND: ClassVar[str] = "matching"

    graph: Graph
    image: Int[Tensor, " n_writers"]
    similarity: Float[Tensor, " n_writers"]
    by: str

    def __post_init__(self) -> None:
        n = self.graph.shape[0]
        if self.image.shape != (n,) or self.similarity.shape != (n,):
            raise ValueError(f"Matching: image and similarity are not ({n},), one number per writer of the graph")
        if n and not -1 <= int(self.image.min()) <= int(self.image.max()) < n:
            raise ValueError(f"Matching: image holds an index outside −1 … {n - 1}")

    @classmethod
    def by_id(cls, graph: Graph) -> Matching:
        """Every writer stands for the one of its own id."""
        return cls(graph, torch.arange(graph.shape[0]), torch.full((graph.shape[0],), torch.nan), "id")

    @property
    def is_by_id(self) -> bool:
        """Whether every writer that stands for one stands for the one of its own id."""
        return bool(((self.image == torch.arange(len(self.image))) | (self.image < 0)).all())

    @property
    def own_share(self) -> float:
        """Share of the heads, in [0, 1], that stand for the head of their own id."""
        heads = torch.tensor([name.startswith("a") for name in self.graph.writers])
        return (self.image == torch.arange(len(self.image)))[heads].double().mean().item()

    @cached_property
    def reader_image(self) -> Int[Tensor, " n_readers"]:
        """The same for readers. A reader of several heads stands for the reader of what its first head stands for."""
        graph, found = self.graph, []
        places = {name: i for i, name in enumerate(graph.readers)}
        homes = {(part, reader.partition("<")[2]): i for reader, i in places.items() for part in graph.components_of(reader)}
        rows = {name: i for i, name in enumerate(graph.writers)}
        for reader in graph.readers:
            parts = graph.components_of(reader)
            if not parts:
                found.append(places[reader])  # the logits
                continue
            row = int(self.image[rows[parts[0]]])
            found.append(-1 if row < 0 else homes[graph.writers[row], reader.partition("<")[2]])
        return torch.tensor(found)

    def edges(self, edges: Bool[Tensor, "n_writers n_readers"]) -> Bool[Tensor, "n_writers n_readers"]:
        """Edges of a, in b. An edge that cannot exist in b is left out."""
        return self.values(edges)

    def values(self, matrix: Tensor) -> Tensor:
        """A matrix over edges of a, such as its scores, in b; zero where an end stands for none, or where no edge can be."""
        chosen = matrix[self.image.clamp(min=0)][:, self.reader_image.clamp(min=0)]
        gone = (self.image < 0)[:, None] | (self.reader_image < 0) | ~self.graph.possible
        return chosen.masked_fill(gone, 0)

    def circuit(self, circuit: Circuit) -> Circuit:
        """A circuit of a, in b: `requested` and provenance stay. Raises ValueError where the graphs differ.

        Where several writers of b stand for one of a, an edge of a becomes several. Only the strongest stay, as many as `circuit` has: a
        larger circuit would recover more for its size alone.
        """
        check_same_graph(self.graph, circuit.graph)
        edges, scores = self.edges(circuit.edges), self.values(circuit.scores)
        if int(edges.sum()) > circuit.kept:
            edges = strongest(scores.abs().masked_fill(~edges, -1).flatten(), circuit.kept, above=-1).view_as(edges)
        return replace(circuit, edges=edges, scores=scores * edges, settings=circuit.settings | {"matched_by": self.by})

    def to_dataframe(self) -> pd.DataFrame:
        """One row per head and MLP of b: writer, stands_for (empty: none), similarity."""
        names = [*self.graph.writers, ""]
        rows = {
            "writer": names[1:-1],
            "stands_for": [names[i] for i in self.image[1:].tolist()],
            "similarity": self.similarity[1:].tolist(),
        }
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Writers of b over the writers of a that they stand for: a diagonal where every one stands for its own id."""
        here = (self.image >= 0).nonzero()[:, 0].tolist()
        names = self.graph.writers
        figure = go.Figure(
            go.Scatter(
                x=[names[int(self.image[i])] for i in here], y=[names[i] for i in here], mode="markers",
                marker={"color": self.similarity[here].nan_to_num(1).tolist(), "cmin": 0, "cmax": 1, "showscale": True},
            )
        )  # fmt: skip
        figure.update_xaxes(title_text="stands for, in the first model", categoryorder="array", categoryarray=names)
        figure.update_yaxes(title_text="in the second model", categoryorder="array", categoryarray=names)
        return style(figure, 380)

    def _repr_html_(self) -> str:
        text = f"by {self.by}; {self.own_share:.0%} of the heads stand for the head of their own id"
        return card("Matching", text, self.to_dataframe())


def within_layers(similarity: Float[Tensor, "n_writers n_writers"], graph: Graph, by: str) -> Matching:
    """The best matching inside layers. Rows of `similarity` are writers of a, columns writers of b.

    1. In each layer, every K/V group of b is tried on every group of a: the best assignment of the one's heads to the other's.
    2. Groups are assigned by these sums, and heads inside them as tried. A model without groups has one head per group.
    """
    image = torch.arange(graph.shape[0])
    size = graph.n_heads // graph.n_kv_heads
    for layer in range(graph.n_layers):
        first = graph.writers_before_attention(layer)
        heads = similarity[first : first + graph.n_heads, first : first + graph.n_heads].nan_to_num(0).T  # b, then a
        blocks = heads.view(graph.n_kv_heads, size, graph.n_kv_heads, size).transpose(1, 2)
        tried = [[_assign(block) for block in row] for row in blocks]
        sums = torch.stack(
            [
                torch.stack([block[range(size), best].sum() for block, best in zip(*row, strict=True)])
                for row in zip(blocks, tried, strict=True)
            ]
        )
        for group, other in enumerate(_assign(sums)):
            for head, best in enumerate(tried[group][other]):
                image[first + group * size + head] = first + other * size + best
    return Matching(graph, image, similarity[image, torch.arange(len(image))], by)


def across_depth(similarity: Float[Tensor, "n_writers n_writers"], graph: Graph, by: str) -> Matching:
    """Every writer of b stands for the most similar one of a in any layer; for none where nothing is similar to it (0 or below).

    Of equally similar ones, the one of its own id is taken, else the first.
    """
    known = similarity.nan_to_num(-1)
    best = known.amax(0)
    own = torch.arange(graph.shape[0])
    image = torch.where(known.diagonal() >= best, own, known.argmax(0)).masked_fill(best <= 0, -1)
    image[0] = 0
    return Matching(graph, image, best, by)


def _assign(similarity: Float[Tensor, "n n"]) -> Sequence[int]:
    """For every row, its column in the assignment of the largest sum."""
    return linear_sum_assignment(similarity.numpy(), maximize=True)[1].tolist()
