"""The same circuit on other heads: what an overlap or a transfer is worth when ids inside layers mean nothing.

Every layer's heads are relabelled at random; heads that share keys and values stay together. The circuit keeps its shape: its hubs, its
layers, the MLPs and the input it uses. A random circuit of the same layer profile (`circuits.random`) keeps less, and is easier to beat.

p-values add one to both counts: p = (1 + draws at least as large as what was observed) / (1 + draws). Where a graph has fewer permutations
than draws were asked for, every one is taken once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Int
from torch import Tensor

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.matching import Matching
from mechshift_tl.circuits.overlap import edge_jaccard, jaccard
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import Interval, interval, seeded
from mechshift_tl.plotting import COLOURS, QUIET, RULE, style


@dataclass(frozen=True)
class OverlapNull(JsonArtefact):
    """An edge overlap beside those of the same circuit on other heads.

    - `value`: Jaccard of the two circuits, in [0, 1]; `shared` of the `union` edges are in both.
    - `null`: mean and central 95 % of the Jaccard over `n` permutations of one circuit's heads.
    - `p`: share of the permutations, in (0, 1], whose overlap is at least as large; `exhaustive`: every permutation was tried.
    - `over_prompts`: of the Jaccard over draws of the prompts; None where they were not drawn anew.
    """

    KIND: ClassVar[str] = "overlap null"

    value: float
    shared: int
    union: int
    null: Interval
    p: float
    n: int
    exhaustive: bool
    over_prompts: Interval | None = None

    def to_dataframe(self) -> pd.DataFrame:
        """One row: jaccard, shared, union, null, null_low, null_high, p, n."""
        row = {"jaccard": self.value, "shared": self.shared, "union": self.union, "null": self.null.mean}
        return pd.DataFrame([row | {"null_low": self.null.low, "null_high": self.null.high, "p": self.p, "n": self.n}])

    def figure(self) -> go.Figure:
        """The overlap as a dot (with its interval over prompts), over the central 95 % of the permutations and their mean."""
        figure, label = go.Figure(), f"p = {self.p:.3g}"
        wide, tick = {"color": RULE, "width": 14}, {"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": QUIET}}
        name = f"heads permuted, {self.n} draws"
        figure.add_scatter(x=[self.null.low, self.null.high], y=[label] * 2, mode="lines", line=wide, name=name)
        figure.add_scatter(x=[self.null.mean], y=[label], mode="markers", marker=tick, name="their mean")
        over = self.over_prompts
        bars = None if over is None else {"array": [over.high - self.value], "arrayminus": [self.value - over.low], "symmetric": False}
        dot = {"color": COLOURS["mdm"], "symbol": "diamond", "size": 11}
        figure.add_scatter(x=[self.value], y=[label], error_x=bars, mode="markers", marker=dot, name="the two circuits")
        figure.update_xaxes(title_text="Jaccard of edges", rangemode="tozero")
        return style(figure, 190)

    def _repr_html_(self) -> str:
        return card("OverlapNull", f"{self.shared} of {self.union} edges shared", self.to_dataframe())


def n_permutations(graph: Graph) -> int:
    """How many ways there are to relabel the heads inside all layers of a graph, the ids as they are among them."""
    size = graph.n_heads // graph.n_kv_heads
    return (factorial(graph.n_kv_heads) * factorial(size) ** graph.n_kv_heads) ** graph.n_layers


def permuted_heads(graph: Graph, n: int, seed: int = 0) -> Iterator[Matching]:
    """`n` random relabellings, none of them the ids as they are; every one there is, once, where there are no more than `n`.

    Raises ValueError unless `n` is at least 1, and on a graph whose layers have one head.
    """
    total = n_permutations(graph) - 1
    if n < 1 or total < 1:
        raise ValueError(f"permuted_heads: n is {n}, and this graph has {total} other labellings of its heads; both must be at least 1")
    generator = seeded(seed)
    images = _all(graph) if total <= n else (random_image(graph, generator) for _ in iter(int, 1))
    same, unknown = torch.arange(graph.shape[0]), torch.full((graph.shape[0],), torch.nan)
    left = min(n, total)
    while left:
        image = next(images)
        if not torch.equal(image, same):
            left -= 1
            yield Matching(graph, image, unknown, "permutation")


def overlap_null(a: Circuit, b: Circuit, *, n: int = 1000, seed: int = 0) -> OverlapNull:
    """The edge overlap of two circuits, held against `n` permutations of `a`'s heads. Raises ValueError where the graphs differ."""
    value = edge_jaccard(a, b)
    draws = [jaccard(one.edges(a.edges), b.edges) for one in permuted_heads(a.graph, n, seed)]
    above = sum(one >= value for one in draws)
    shared, union = int((a.edges & b.edges).sum()), int((a.edges | b.edges).sum())
    exhaustive = n_permutations(a.graph) - 1 == len(draws)
    return OverlapNull(value, shared, union, interval(draws), (1 + above) / (1 + len(draws)), len(draws), exhaustive)


def random_image(graph: Graph, generator: torch.Generator) -> Int[Tensor, " n_writers"]:
    """A random relabelling of the heads, as the `image` of a `Matching`; the ids as they are may come out."""
    image = torch.arange(graph.shape[0])
    groups, size = graph.n_kv_heads, graph.n_heads // graph.n_kv_heads
    for layer in range(graph.n_layers):
        first = graph.writers_before_attention(layer)
        heads = torch.arange(graph.n_heads).view(groups, size)[torch.randperm(groups, generator=generator)]
        heads = heads.gather(1, torch.rand(groups, size, generator=generator).argsort(1))
        image[first : first + graph.n_heads] = first + heads.flatten()
    return image


def _all(graph: Graph) -> Iterator[Int[Tensor, " n_writers"]]:
    groups, size = graph.n_kv_heads, graph.n_heads // graph.n_kv_heads
    inside = list(product(permutations(range(size)), repeat=groups))
    one_layer = [
        [group * size + head for group, heads in zip(order, within, strict=True) for head in heads]
        for order in permutations(range(groups))
        for within in inside
    ]
    for layers in product(one_layer, repeat=graph.n_layers):
        image = torch.arange(graph.shape[0])
        for layer, heads in enumerate(layers):
            first = graph.writers_before_attention(layer)
            image[first : first + graph.n_heads] = first + torch.tensor(heads)
        yield image
