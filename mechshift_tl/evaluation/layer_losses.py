"""What a model loses without one layer: the faithfulness that is lost when every edge out of the layer carries the corrupt run.

It is depth by function: no gradient and no size of circuit enters, and a layer that only passes the stream on loses nothing. The losses of
all layers need not add up to 1: what two layers do in each other's place is lost with neither, what they do together with both.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.evaluation.faithfulness import check_gap, recovered
from mechshift_tl.evaluation.run import RunSettings, run_edges
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import sample_and_draws
from mechshift_tl.readouts import Readouts


def layer_losses(
    model: HookedModel, readouts: Readouts, *, n_boot: int = 200, seed: int = 0, **settings: Unpack[RunSettings]
) -> Float[Tensor, "draws_and_1 n_layers"]:
    """`(1 + n_boot, n_layers)`: faithfulness lost without each layer's writers, 1 = all of it; negative where the layer works against it.

    The first row is of the examples as they are, the others of draws with replacement, by `seed`. `settings` are those of `run_circuits`.
    Raises `NoGap` where clean and corrupt runs do not differ beyond chance. Cost: `n_layers` + 2 forwards.
    """
    graph = Graph.of(model)
    without = [graph.possible & (graph.writer_layers != layer)[:, None] for layer in range(graph.n_layers)]
    runs = run_edges(model, readouts, graph, without, **settings)
    counts = sample_and_draws(readouts.n_examples, n_boot, seed)
    check_gap(runs[0], counts)
    return torch.stack([1 - recovered(run, counts) for run in runs], 1)
