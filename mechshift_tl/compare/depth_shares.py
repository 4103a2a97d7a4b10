"""`depth_shares`: where in depth several models do one task, by their scores and by what they lose without a layer.

A *share* is what one layer holds of all layers' sum, in [0, 1]. Four kinds of sum:

- "all edges": Σ|score| of every edge, at the layer of its reader. It needs no size of circuit, and has a quarter of a circuit's noise.
- "writers": the same, at the layer of its writer.
- "circuit": Σ|score| of the edges of the circuit that is cut from the scores, at the layer of the reader.
- "function": |faithfulness lost| when every edge out of the layer carries the corrupt run (`evaluation.layer_losses`), by prompts kept
  apart.

Input and logits belong to no layer. Prompts are drawn anew, the same ones for every model, so that differences between models are paired.
Two tasks have different prompts, so their draws are independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.bootstrap import bootstrap, can_resample
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.select import Selection
from mechshift_tl.compare.depth import At, default_cut, mass_by_depth
from mechshift_tl.compare.depth_result import DepthShares
from mechshift_tl.graph import Graph, check_same_graph


def depth_shares(
    scores: Mapping[str, EdgeScores],
    circuits: Mapping[str, Circuit],
    losses: Mapping[str, Float[Tensor, "draws_and_1 n_layers"]] | None = None,
    *,
    task: str = "",
    cut: int | None = None,
    best_layers: Mapping[str, Sequence[int | None]] | None = None,
    n_boot: int = 200,
    seed: int = 0,
    n_held_out: int = 0,
    notes: tuple[str, ...] = (),
) -> DepthShares:
    """Shares by layer of several models, by role ("arm", "mdm", "control"), with draws of the prompts.

    - `circuits`: of the scores; on each draw another one is cut by the same settings.
    - `losses`: by role, faithfulness lost per layer; the first row is that of the prompts themselves. A role without one has none (NaN).
    - `cut`: layers below it are early; by default a third of them.
    - `best_layers`: by role, which layer of the ARM is most like each of its layers. They align where each one is most like its own number.
    - `n_boot`, `seed`: draws of the prompts; none without per-example parts. `n_held_out`: prompts behind `losses`.

    Raises ValueError on graphs that differ, and on a cut outside 1 … n_layers.
    """
    roles, (first, *others) = tuple(scores), scores.values()
    for one in others:
        check_same_graph(first.graph, one.graph)
    n_layers = first.graph.n_layers
    cut = default_cut(n_layers) if cut is None else cut
    if not 1 <= cut <= n_layers:
        raise ValueError(f"depth_shares: cut is {cut}; the models have {n_layers} layers, so give 1 … {n_layers}")
    measure = partial(_by_scores, chosen=[circuits[role].selection for role in roles])
    drawn = bootstrap(measure, *scores.values(), n_boot=n_boot, seed=seed) if n_boot and can_resample(*scores.values()) else []
    by_scores = torch.stack([measure(*scores.values()), *drawn])
    by_function = _by_function(roles, losses or {}, by_scores.shape[0], n_layers)
    return DepthShares(
        task=task,
        roles=roles,
        cut=cut,
        shares=torch.cat([by_scores, by_function], 1),
        aligned={role: list(best) == list(range(n_layers)) for role, best in (best_layers or {}).items()},
        n=first.n_examples,
        n_held_out=n_held_out,
        notes=notes,
    )


def layer_shares(matrix: Float[Tensor, "n_writers n_readers"], graph: Graph, at: At = "reader") -> Float[Tensor, " n_layers"]:
    """What each layer holds of the layers' Σ|score|, float64; NaN where they hold none."""
    mass = mass_by_depth(matrix.abs().double(), graph, at)[1:-1]
    return mass / mass.sum()


def _by_scores(*scores: EdgeScores, chosen: Sequence[Selection]) -> Float[Tensor, "kinds roles n_layers"]:
    """The three kinds that follow from scores."""
    found = []
    for one, how in zip(scores, chosen, strict=True):
        edges, _ = how.edges(one.matrix, one.graph)
        cut_out = one.matrix.masked_fill(~edges, 0)
        found.append(
            torch.stack(
                [layer_shares(one.matrix, one.graph), layer_shares(one.matrix, one.graph, "writer"), layer_shares(cut_out, one.graph)]
            )
        )
    return torch.stack(found, 1)


def _by_function(
    roles: Sequence[str], losses: Mapping[str, Tensor], draws: int, n_layers: int
) -> Float[Tensor, "draws_and_1 1 roles n_layers"]:
    """What each layer has of the layers' |loss|; NaN for roles without losses. A layer that works against the answer is used as well."""
    nothing = torch.full((draws, n_layers), torch.nan, dtype=torch.float64)
    sizes = torch.stack([losses.get(role, nothing).double().abs() for role in roles], 1)
    if len(sizes) != draws:
        raise ValueError(f"depth_shares: losses have {len(sizes) - 1} draws, scores {draws - 1}; draw both n_boot times")
    return (sizes / sizes.sum(-1, keepdim=True))[:, None]
