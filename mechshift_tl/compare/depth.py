"""Where in depth a circuit sits.

A depth profile is a vector `(n_layers + 2,)`: input, layers 0 … n_layers − 1, logits. Its entries are fractions of the circuit's total and
sum to 1. An edge counts at the layer of its reader (then nothing counts at the input) or of its writer (then nothing counts at the logits).
Early share and centre of depth leave out what counts at the input or the logits.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.graph import Graph

At = Literal["reader", "writer"]
Weight = Literal["score", "count"]


def depth_labels(graph: Graph) -> list[str]:
    """Names of a profile's entries, `(n_layers + 2,)`: input, 0, 1, …, logits."""
    return ["input", *map(str, range(graph.n_layers)), "logits"]


def depth_profile(circuit: Circuit, *, at: At = "reader", weight: Weight = "score") -> Float[Tensor, " n_layers_plus_2"]:
    """Fraction of the circuit's |score| (or, by "count", of its edges) at each depth, float64; NaN when the circuit is empty.

    Raises ValueError on an unknown `at` or `weight`.
    """
    if at not in ("reader", "writer") or weight not in ("score", "count"):
        raise ValueError(f"depth_profile: at {at!r}, weight {weight!r}; choose at 'reader' or 'writer', weight 'score' or 'count'")
    values = (circuit.scores.abs() if weight == "score" else circuit.edges).double()
    profile = mass_by_depth(values, circuit.graph, at)
    return profile / profile.sum()


def mass_by_depth(
    values: Float[Tensor, "*draws n_writers n_readers"], graph: Graph, at: At = "reader"
) -> Float[Tensor, "*draws n_layers_plus_2"]:
    """Sum of the edges' values at each depth: at the layer of their reader, or of their writer."""
    mass, layers = (values.sum(-2), graph.reader_layers) if at == "reader" else (values.sum(-1), graph.writer_layers)
    return mass.new_zeros(*mass.shape[:-1], graph.n_layers + 2).index_add(-1, layers + 1, mass)


def default_cut(n_layers: int) -> int:
    """Layers that count as early by default: the first third, rounded, at least one."""
    return max(1, round(n_layers / 3))


def early_curve(profile: Float[Tensor, " n_layers_plus_2"]) -> Float[Tensor, " n_layers_plus_1"]:
    """Share of the layers' mass that lies below each cut 0 … n_layers, from 0 to 1; NaN when no layer holds any."""
    layers = profile[1:-1]
    return torch.cat([layers.new_zeros(1), layers.cumsum(0)]) / layers.sum()


def early_share(profile: Float[Tensor, " n_layers_plus_2"], cut: int | None = None) -> float:
    """Share of the layers' mass in layers below `cut`, in [0, 1]; the cut defaults to a third of the layers.

    Raises ValueError when `cut` lies outside 0 … n_layers.
    """
    n_layers = len(profile) - 2
    cut = default_cut(n_layers) if cut is None else cut
    if not 0 <= cut <= n_layers:
        raise ValueError(f"cut is {cut}; the model has {n_layers} layers, so give 0 … {n_layers}")
    return early_curve(profile)[cut].item()


def centre_of_depth(profile: Float[Tensor, " n_layers_plus_2"]) -> float:
    """Mean layer of the layers' mass, in layers from 0; NaN when no layer holds any."""
    layers = profile[1:-1]
    return (layers @ torch.arange(len(layers), dtype=layers.dtype) / layers.sum()).item()
