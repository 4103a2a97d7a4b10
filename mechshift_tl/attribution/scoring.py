"""Edges from writers and readers: score(u → v) = Σ over tokens of ⟨Δu, ḡ_v⟩, layer by layer.

A layer's heads are expanded once from head space to the residual's width. Then one matrix product scores all earlier writers against the
layer's readers. Tokens are scored in pieces of bounded memory. Each row and each span that is kept apart has pieces of its own.
Cost: writers × readers × tokens × d multiply-adds, plus one output projection per layer and piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechshift_tl.attribution.readers import ReaderPath, Tokens
from mechshift_tl.bridge.protocol import HookedModel, components_of
from mechshift_tl.bridge.weights import weight_of
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.outputs import WriterOutputs
from mechshift_tl.readouts import Batch

#: A piece holds as many tokens as keep the writers within this, but never fewer than `LEAST_TOKENS`: weights are read once a piece.
WRITER_BYTES = 32 * 2**20
LEAST_TOKENS = 32


@dataclass(frozen=True)
class TokenGroups:
    """How the tokens of a batch are grouped: by row or not, and by span (with one group for tokens in no span) or not."""

    batch: Batch
    per_row: bool
    n_spans: int | None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of groups over rows and over spans; where there are spans, the last group is for tokens in no span."""
        return len(self.batch) if self.per_row else 1, 1 if self.n_spans is None else self.n_spans + 1

    @property
    def names(self) -> Int[Tensor, "b pos"]:
        """The span group of each token."""
        if self.n_spans is None or self.batch.span is None:
            return torch.zeros_like(self.batch.clean)
        return torch.where(self.batch.span < 0, self.n_spans, self.batch.span)

    @property
    def patches(self) -> list[Bool[Tensor, "b pos"]]:
        """The positions that exact patching patches together: each span alone, then all positions."""
        everywhere = torch.ones_like(self.batch.clean, dtype=torch.bool)
        return [*(self.names == i for i in range(self.n_spans or 0)), everywhere]

    def of_patches(self, effects: Float[Tensor, "b patches ..."]) -> Float[Tensor, "rows spans ..."]:
        """Effects of `patches` as groups whose sum is the effect of patching everywhere; effects of spans alone need not add up to it."""
        effects = effects if self.per_row else effects.sum(0, keepdim=True)
        return torch.cat([effects[:, :-1], effects[:, -1:] - effects[:, :-1].sum(1, keepdim=True)], 1)

    def of(self, limit: int, live: Bool[Tensor, "b pos"] | None = None) -> Iterator[tuple[tuple[int, int], Tokens]]:
        """(part, tokens) with at most `limit` tokens each; tokens that are not `live` are left out."""
        parts = self.names
        if self.per_row:
            parts = parts + torch.arange(len(parts), device=parts.device)[:, None] * self.shape[1]
        # −1 is no part, so these tokens are in none.
        parts = (parts if live is None else torch.where(live, parts, -1)).flatten()
        for part in range(self.shape[0] * self.shape[1]):
            for tokens in (parts == part).nonzero()[:, 0].split(limit):
                if len(tokens):
                    # Neighbouring tokens are taken by a slice, which is a view; a list of numbers would copy them.
                    first, last = int(tokens[0]), int(tokens[-1]) + 1
                    yield divmod(part, self.shape[1]), slice(first, last) if last - first == len(tokens) else tokens


def live_tokens(deltas: WriterOutputs) -> Bool[Tensor, "b pos"]:
    """Tokens at which some writer differs between the two runs; the others add nothing to any score."""
    outputs = (deltas.input, *(z.flatten(2) for z in deltas.z), *deltas.mlp)
    live = torch.zeros(deltas.input.shape[:2], dtype=torch.bool, device=deltas.input.device)
    for output in outputs:
        live |= (output != 0).any(-1)
    return live


def edge_scores(
    model: HookedModel, graph: Graph, deltas: WriterOutputs, path: ReaderPath, groups: TokenGroups, writers: slice
) -> Float[Tensor, "rows spans n_writers n_readers"]:
    """Scores of the edges out of `writers` into the path's readers, zero elsewhere, per group of tokens."""
    limit = max(LEAST_TOKENS, WRITER_BYTES // (4 * len(graph.writers) * model.cfg.d_model))
    scores = deltas.input.new_zeros(*groups.shape, len(graph.writers), len(graph.readers))
    board = ScoreBuffers(writers, graph, model.cfg.d_model, deltas.input)
    for part, tokens in groups.of(limit, live_tokens(deltas)):
        _add_piece(scores[part], model, graph, deltas, path, tokens, board)
    return scores


class ScoreBuffers:
    """Memory that every group of tokens reuses: differences of writers, `(writer, tok, d)`, and readers, `(reader, tok, d)`."""

    def __init__(self, writers: slice, graph: Graph, width: int, like: Tensor) -> None:
        self.first, self.last, self.width = writers.start, writers.stop, width
        self.most = {"written": writers.stop - writers.start, "readers": graph.readers_per_layer}
        self.memory = dict.fromkeys(self.most, like.new_empty(0))

    def clear(self, tokens: int) -> None:
        """Make room for a piece of `tokens` tokens."""
        for name, count in self.most.items():
            size = count * tokens * self.width
            if self.memory[name].numel() < size:
                self.memory[name] = self.memory[name].new_empty(size)
        self.written, self.readers = (self.memory[n][: c * tokens * self.width].view(c, tokens, self.width) for n, c in self.most.items())

    def slot(self, at: int, count: int) -> Float[Tensor, "writer tok d"] | None:
        """Where writers `at` … `at + count` go; None unless they are scored."""
        return self.written[at - self.first : at - self.first + count] if self.first <= at < self.last else None

    def before(self, writer: int) -> Float[Tensor, "writer numbers"]:
        """Every scored writer before `writer`, one row each."""
        return self.written[: max(0, min(writer, self.last) - self.first)].flatten(1)


def _add_piece(
    scores: Float[Tensor, "n_writers n_readers"], model: HookedModel, graph: Graph, deltas: WriterOutputs, path: ReaderPath, tokens: Tokens,
    board: ScoreBuffers,
) -> None:  # fmt: skip
    def write(at: int, output: Float[Tensor, "b pos d"]) -> None:
        if (slot := board.slot(at, 1)) is not None:
            slot[0] = output.flatten(0, 1)[tokens]

    board.clear(len(deltas.input.flatten(0, 1)[tokens]))
    write(0, deltas.input)
    for layer in range(graph.n_layers + 1):
        # At `n_layers` this is every writer, and the reader is the logits.
        before = graph.writers_before_attention(layer)
        columns = _readers_between(path, graph, layer, tokens, board)
        if columns is not None and before > board.first:
            met = (
                board.readers[: columns.stop - columns.start].flatten(1) @ board.before(before).T
            )  # wide times tall: faster than its mirror
            # The first reader is the MLP of the layer before, and the last writer is that same MLP: q, k and v read it, it cannot read
            # itself.
            if columns.start == graph.mlp_reader(layer - 1) and before <= board.last:
                met[0, -1] = 0  # an MLP does not read what it writes
            scores[board.first : board.first + met.shape[1], columns] += met.T
        if layer == graph.n_layers:
            return
        if (slot := board.slot(before, graph.n_heads)) is not None:
            z = deltas.z[layer].flatten(0, 1)[tokens].transpose(0, 1)
            torch.bmm(z, weight_of(components_of(model).blocks[layer].attn, "W_O", z.device).float(), out=slot)
        write(before + graph.n_heads, deltas.mlp[layer])


def _readers_between(path: ReaderPath, graph: Graph, layer: int, tokens: Tokens, board: ScoreBuffers) -> slice | None:
    """Write to the buffers an MLP's reader, beside the next layer's q, k, v or the logits; returns their columns.

    These readers are neighbours in the graph, so one product scores both. None where the path has no readers.
    """
    last = layer == graph.n_layers
    upper = path.logits if last else path.attention.get(layer)
    if upper is None:
        return None
    columns = slice(len(graph.readers) - 1, len(graph.readers)) if last else graph.attention_readers(layer)
    lower = path.mlp.get(layer - 1)
    if lower is not None:
        lower.block_of(tokens, board.readers[:1])
        columns = slice(columns.start - 1, columns.stop)
    upper.block_of(tokens, board.readers[int(lower is not None) : columns.stop - columns.start])
    return columns
