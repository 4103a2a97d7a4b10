"""What prompts drawn anew say of every edge: whether its score keeps its sign, and how often it is among the strongest.

Both need scores that were attributed with `keep_per_example=True`. Draws are with replacement; an edge that scores 0 has no sign.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.bootstrap import check_can_resample
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.select import Selection, check_size, strongest
from mechshift_tl.intervals import check_draws, draw_counts

#: Share of draws in which the sign of an edge must hold to be certain.
CERTAIN = 0.95
#: Numbers of one block of draws × edges: 64 MiB in float32.
BLOCK = 2**24


def sign_consistency(scores: EdgeScores, *, n_boot: int = 1000, seed: int = 0) -> Float[Tensor, "n_writers n_readers"]:
    """Share of draws, in [0, 1], in which an edge's score has the sign that it has on all prompts; 0 where it scores 0.

    Raises ValueError on scores without per-example parts, or of a single example.
    """
    sign, same = scores.matrix.sign(), torch.zeros(scores.graph.shape)
    for drawn in _draws(scores, n_boot, seed):
        same += ((drawn.sign() == sign) & (sign != 0)).sum(0)
    return same / n_boot


def inclusion_frequency(scores: EdgeScores, n: int, *, n_boot: int = 1000, seed: int = 0) -> Float[Tensor, "n_writers n_readers"]:
    """Share of draws, in [0, 1], in which an edge is among the `n` of largest |score| that are not 0.

    Raises ValueError where `sign_consistency` does, and on `n` outside 1 … possible edges.
    """
    check_size(n, scores.graph)
    found = torch.zeros(scores.graph.shape)
    for drawn in _draws(scores, n_boot, seed):
        for one in drawn:
            found += strongest(one.abs().flatten(), n).view_as(found)
    return found / n_boot


def ranked_by(scores: EdgeScores, chosen: Selection) -> Float[Tensor, "n_writers n_readers"]:
    """What a selection ranks edges by: their scores, without those of uncertain sign; or how often they are among the strongest.

    Raises ValueError where `sign_consistency` does.
    """
    if chosen.choose == "consistent":
        return scores.matrix.masked_fill(sign_consistency(scores) < CERTAIN, 0)
    n = chosen.size(scores.graph)
    if chosen.choose != "frequent" or not n:
        return scores.matrix
    # Of two edges that are there equally often, the stronger comes first. A draw's weight is far more than all |scores| add.
    strength = scores.matrix.abs()
    return inclusion_frequency(scores, n) + 1e-4 * strength / strength.max().clamp_min(torch.finfo().tiny)


def _draws(scores: EdgeScores, n_boot: int, seed: int) -> Iterator[Float[Tensor, "block n_writers n_readers"]]:
    """The scores on each draw, up to a positive factor per draw, a block at a time."""
    check_draws(n_boot)
    check_can_resample(scores)
    assert scores.per_example is not None
    counts, table = draw_counts(scores.n_examples, n_boot, seed).float(), scores.per_example.flatten(1)
    for block in counts.split(max(1, BLOCK // table.shape[1])):
        yield (block @ table).unflatten(1, scores.graph.shape)
