"""The computational graph: which writers and readers a model has, what they are called, and which edges can exist.

Writers, in order: `input`, then per layer its heads `a3.h0 …` and its MLP `m3`. Readers, in order: per layer the q, k and v inputs of its
heads and its MLP, then `logits`. An edge goes from a writer to any reader that comes later in the residual stream; within a layer the MLP
reads the heads, but the heads read nothing of their own layer. Both models of a pair have the same graph, so their ids are the same.

K and V readers are per KV head (`a3.g0<k>`), or per query head when ungrouped (`a3.h1<k>`). On a model without groups the two coincide.

A model of attention alone has the same ids and shapes as one with MLPs, but no edge enters or leaves an MLP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from functools import cached_property
from numbers import Integral
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechshift_tl.bridge.protocol import HookedModel, has_mlps, is_native

KV = Literal["grouped", "ungrouped"]
#: The most cells, writers × readers, of a graph that a file names: scores of so many take 400 MB. A model of 70 billion weights has fewer.
MAX_CELLS = 100_000_000
READER_ID = re.compile(r"^(?:a(\d+)\.([hg])(\d+)<([qkv])>|m(\d+)|(logits))$")


@dataclass(frozen=True)
class Graph:
    """The graph of a decoder with `n_layers` layers of `n_heads` query heads sharing `n_kv_heads` K/V heads, with or without `mlps`."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    kv: KV = "grouped"
    mlps: bool = True

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "n_kv_heads"):
            count = getattr(self, name)
            if not isinstance(count, Integral) or count < 1:
                raise ValueError(f"Graph: {name} is {count!r}; give a whole number of at least 1")
        if self.kv not in ("grouped", "ungrouped"):
            raise ValueError(f"Graph: kv is {self.kv!r}; choose 'grouped' or 'ungrouped'")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"Graph: {self.n_heads} heads cannot share {self.n_kv_heads} KV heads")

    @classmethod
    def of(cls, model: HookedModel, kv: KV = "grouped") -> Graph:
        """The graph of a TransformerLens bridge, from its `cfg`.

        Raises ValueError on blocks whose MLP runs beside the heads, and on ungrouped K and V that the attention cannot take.
        """
        if model.cfg.parallel_attn_mlp:
            raise ValueError(
                f"{model.cfg.model_name}: attention and MLP run in parallel; only MLPs that read their layer's heads are known"
            )
        n_kv = model.cfg.n_key_value_heads or model.cfg.n_heads
        if kv == "ungrouped" and n_kv != model.cfg.n_heads and is_native(model):
            raise ValueError(f"{model.cfg.model_name}: TransformerLens' own attention takes no K or V per query head; use kv='grouped'")
        graph = cls(model.cfg.n_layers, model.cfg.n_heads, n_kv, kv, has_mlps(model))
        # Without groups both kinds of K/V readers are the same; one name makes such graphs equal.
        return graph if n_kv != model.cfg.n_heads else replace(graph, kv="grouped")

    @property
    def n_kv_readers(self) -> int:
        """K (and V) readers per layer."""
        return self.n_heads if self.kv == "ungrouped" else self.n_kv_heads

    @property
    def group_size(self) -> int:
        """Query heads that share one K/V reader."""
        return self.n_heads // self.n_kv_readers

    @cached_property
    def writers(self) -> list[str]:
        """Ids of the writers, `(n_writers,)`."""
        layers = ([*(f"a{layer}.h{h}" for h in range(self.n_heads)), f"m{layer}"] for layer in range(self.n_layers))
        return ["input", *(name for layer in layers for name in layer)]

    @cached_property
    def readers(self) -> list[str]:
        """Ids of the readers, `(n_readers,)`."""
        names = []
        shared = "g" if self.group_size > 1 else "h"
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{h}<q>" for h in range(self.n_heads)]
            names += [f"a{layer}.{shared}{g}<{kind}>" for kind in "kv" for g in range(self.n_kv_readers)]
            names.append(f"m{layer}")
        return [*names, "logits"]

    @property
    def readers_per_layer(self) -> int:
        """q, k, v and MLP readers of one layer."""
        return self.n_heads + 2 * self.n_kv_readers + 1

    def writers_before_attention(self, layer: int) -> int:
        """How many writers a layer's q, k, v can read: all of earlier layers."""
        # The input, then every earlier layer's heads and MLP.
        return 1 + layer * (self.n_heads + 1)

    def attention_readers(self, layer: int) -> slice:
        """Columns of a layer's q, k and v readers."""
        start = layer * self.readers_per_layer
        # The layer's last column is its MLP.
        return slice(start, start + self.readers_per_layer - 1)

    def mlp_reader(self, layer: int) -> int:
        """Column of a layer's MLP reader."""
        return (layer + 1) * self.readers_per_layer - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Writers and readers: the shape of every matrix over edges."""
        return 1 + self.n_layers * (self.n_heads + 1), 1 + self.n_layers * self.readers_per_layer

    def check_room(self) -> None:
        """Raise ValueError where matrices over all writers and readers would not fit in memory. For graphs that a file names."""
        n_writers, n_readers = self.shape
        if n_writers * n_readers > MAX_CELLS:
            raise ValueError(
                f"Graph: {self.n_layers} layers of {self.n_heads} heads have {n_writers} × {n_readers} cells, over {MAX_CELLS}"
            )

    @cached_property
    def possible(self) -> Bool[Tensor, "n_writers n_readers"]:
        """True where an edge can exist."""
        mask = torch.zeros(len(self.writers), len(self.readers), dtype=torch.bool)
        for layer in range(self.n_layers):
            before = self.writers_before_attention(layer)
            mask[:before, self.attention_readers(layer)] = True
            # Within a layer the MLP comes after the heads, so it also reads them.
            mask[: before + self.n_heads, self.mlp_reader(layer)] = True
        # The logits read every writer.
        mask[:, -1] = True
        if not self.mlps:
            layers = range(self.n_layers)
            mask[[self.writers_before_attention(layer + 1) - 1 for layer in layers]] = False
            mask[:, [self.mlp_reader(layer) for layer in layers]] = False
        return mask

    @property
    def n_edges(self) -> int:
        """Edges that can exist."""
        return int(self.possible.sum())

    @cached_property
    def components(self) -> list[str]:
        """Heads and MLPs, without input and logits: `(n_layers · (n_heads + 1),)`."""
        return self.writers[1:]

    @cached_property
    def membership(self) -> Float[Tensor, "n_readers n_writers"]:
        """Share of each reader that belongs to each component; a KV group is shared equally by its heads, logits by none."""
        share = torch.zeros(len(self.readers), len(self.writers))
        for column, reader in enumerate(self.readers):
            for component in self.components_of(reader):
                # Equal shares of 1, so that sums over components equal sums over readers.
                share[column, self.writers.index(component)] = 1 / len(self.components_of(reader))
        return share

    def components_of(self, reader: str) -> list[str]:
        """Components that a reader belongs to: one head, the heads of a KV group, one MLP, or none for `logits`.

        Raises ValueError on an id this graph does not have.
        """
        match = READER_ID.match(reader)
        if match is None or reader not in self._reader_set:
            raise ValueError(
                f"{reader!r} is not a reader of this graph; its readers look like {self.readers[0]}, {self.readers[-2]}, logits"
            )
        layer, shared, index, _, mlp, _ = match.groups()
        if mlp is not None:
            return [f"m{mlp}"]
        if layer is None:
            return []
        if shared == "h":
            return [f"a{layer}.h{index}"]
        first = int(index) * self.group_size
        return [f"a{layer}.h{h}" for h in range(first, first + self.group_size)]

    @cached_property
    def _reader_set(self) -> frozenset[str]:
        return frozenset(self.readers)

    @cached_property
    def writer_layers(self) -> Int[Tensor, " n_writers"]:
        """Layer of each writer; −1 for input."""
        return torch.tensor([-1, *(layer for layer in range(self.n_layers) for _ in range(self.n_heads + 1))])

    @cached_property
    def reader_layers(self) -> Int[Tensor, " n_readers"]:
        """Layer of each reader; n_layers for logits."""
        layers = [layer for layer in range(self.n_layers) for _ in range(self.readers_per_layer)]
        return torch.tensor([*layers, self.n_layers])

    def edge_frame(self, where: Bool[Tensor, "n_writers n_readers"], scores: Float[Tensor, "n_writers n_readers"]) -> pd.DataFrame:
        """One row per edge of `where`, strongest |score| first: writer, reader, score, writer_layer, reader_layer."""
        rows, columns = where.nonzero(as_tuple=True)
        frame = pd.DataFrame(
            {
                "writer": [self.writers[u] for u in rows.tolist()],
                "reader": [self.readers[v] for v in columns.tolist()],
                "score": scores[rows, columns].tolist(),
                "writer_layer": self.writer_layers[rows].tolist(),
                "reader_layer": self.reader_layers[columns].tolist(),
            }
        )
        # Stable: edges of equal strength keep the graph's order on every machine.
        return frame.sort_values("score", key=abs, ascending=False, kind="stable", ignore_index=True)


def check_same_graph(a: Graph, b: Graph) -> None:
    """Raises ValueError naming the fields in which two graphs differ."""
    different = [
        f"{f.name} {getattr(a, f.name)!r} and {getattr(b, f.name)!r}" for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)
    ]
    if different:
        raise ValueError(
            f"circuits of different graphs share no edge ids: {', '.join(different)}; compare models of one backbone and one kv"
        )


def repeated(tensor: Tensor, readers: int, dim: int) -> Tensor:
    """Per reader what is there per head: itself, or repeated for the heads of a group. No copy where nothing is repeated."""
    times = readers // tensor.shape[dim]
    return tensor if times == 1 else tensor.repeat_interleave(times, dim)
