"""The edges that the weights of a norm-free model use.

An edge can carry something only where its writer writes to a direction of the residual stream that its reader reads. In the models here
each direction is a coordinate with one meaning, so that this is read off the weights: a column that is not zero, and a row.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from mechshift_tl.bridge.protocol import Block, HookedModel, components_of, has_mlps
from mechshift_tl.bridge.weights import weight_of
from mechshift_tl.circuits.paths import on_a_path
from mechshift_tl.graph import Graph


def edges_in_weights(model: HookedModel, embeddings: list[Tensor]) -> Bool[Tensor, "n_writers n_readers"]:
    """Edges on a path from input to logits whose writer and reader share a coordinate.

    `embeddings`: what the input may write, each `(…, d_model)`.
    """
    graph, parts = Graph.of(model), components_of(model)
    written = [torch.stack([_any(one.detach(), -1) for one in embeddings]).any(0)]
    read = []
    for block in parts.blocks:
        written += [_any(head, -1) for head in weight_of(block.attn, "W_O")]
        read += [_any(head, 0) for kind in "QKV" for head in weight_of(block.attn, f"W_{kind}")]
        written.append(_of_mlp(model, block, "W_out", -1))
        read.append(_of_mlp(model, block, "W_in", 0))
    read.append(_any(weight_of(parts.unembed, "W_U"), 0))
    shared = torch.stack(written).float() @ torch.stack(read).float().T > 0
    return on_a_path(shared & graph.possible, graph)


def _any(weight: Tensor, axis: int) -> Bool[Tensor, " d"]:
    """Where a weight is not zero along one of its axes."""
    return (weight.movedim(axis, 0).flatten(1) != 0).any(1)


def _of_mlp(model: HookedModel, block: Block, name: str, axis: int) -> Bool[Tensor, " d"]:
    if not has_mlps(model):
        return torch.zeros(model.cfg.d_model, dtype=torch.bool)
    return _any(weight_of(block.mlp, name), axis)
