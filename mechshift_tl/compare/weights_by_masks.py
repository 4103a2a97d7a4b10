"""`weights_by_masks`: what the attention mask alone does to a circuit, and what training does.

Post-training by diffusion changes two things at once: the weights, and who sees whom. Here every model's weights run under the causal mask
and under the full one, on the same prompts, and every two of the circuits are overlapped. ARM ~ MDM beside ARM ~ (MDM under the causal
mask) is the part of the shift that the mask makes without any training. A circuit means little where the model no longer does the task:
each one's accuracy and effect stand beside it.
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
from mechshift_tl.compare.bounds import ceiling
from mechshift_tl.compare.matrix import overlap_matrix, redrawn
from mechshift_tl.compare.weights_by_masks_result import Cell, Key, WeightsByMasks
from mechshift_tl.graph import check_same_graph

#: Halvings of the prompts behind a repeatability.
N_SPLITS = 4


def weights_by_masks(
    scores: Mapping[Key, EdgeScores],
    accuracy: Mapping[Key, float],
    *,
    n: int | None = None,
    task: str = "",
    n_boot: int = 200,
    n_random: int = 50,
    seed: int = 0,
) -> WeightsByMasks:
    """Overlaps of the circuits of models under masks, on the same prompts; keys are a model's role and the direction of attention.

    `accuracy`: share in [0, 1] of the prompts that each reads correctly. `n`: edges of each circuit. Raises ValueError on graphs that
    differ. Cost: a circuit per key and draw.
    """
    every = list(scores.values())
    for one in every[1:]:
        check_same_graph(every[0].graph, one.graph)
    chosen = Selection(n)
    circuits = [Circuit.select(one, chosen) for one in every]
    overlap = partial(_overlaps, chosen=chosen)
    drawn = bootstrap(overlap, *every, n_boot=n_boot, seed=seed) if n_boot and can_resample(*every) else []
    chance = torch.stack([overlap_matrix(edges.flatten(1)) for edges in redrawn(circuits, n_random, seed)])
    again = [ceiling(one, n=n, n_splits=N_SPLITS, seed=seed)["edge_jaccard"] if can_resample(one) else None for one in every]
    cells = [
        Cell(*key, accuracy[key], one.effect, circuit.kept, itself)
        for (key, one), circuit, itself in zip(scores.items(), circuits, again, strict=True)
    ]
    return WeightsByMasks(
        task=task,
        cells=cells,
        overlaps=torch.stack([_overlaps(*every, chosen=chosen), *drawn]),
        floor=chance.mean(0),
        floor_high=chance.quantile(0.975, 0),
        n=every[0].n_examples,
    )


def _overlaps(*scores: EdgeScores, chosen: Selection) -> Float[Tensor, "k k"]:
    return overlap_matrix(torch.stack(_edges(scores, chosen)).flatten(1))


def _edges(scores: Sequence[EdgeScores], chosen: Selection) -> list[Tensor]:
    return [chosen.edges(one.matrix, one.graph)[0] for one in scores]
