"""The two figures that a study's conclusion hangs on, for the ARM and one other model: small enough to be made again under many changes.

- J: edge Jaccard of the two circuits.
- Early shift: the other model's early share minus the ARM's, each over *all* edges. It has a quarter of the noise that the share over a
  pruned circuit has, and no circuit's size or selection moves it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard
from mechshift_tl.circuits.select import Selection
from mechshift_tl.compare.depth import early_share, mass_by_depth


@dataclass(frozen=True)
class Headline:
    """`jaccard` in [0, 1] (NaN where both circuits are empty) and `early_shift` in [−1, 1], positive where the other model is earlier."""

    jaccard: float
    early_shift: float

    def __sub__(self, other: Headline) -> Headline:
        """The change of each figure."""
        return Headline(self.jaccard - other.jaccard, self.early_shift - other.early_shift)


def headline(arm: EdgeScores, other: EdgeScores, chosen: Selection, cut: int | None = None) -> Headline:
    """The headline of the ARM's scores and another model's; `cut`: layers that count as early, by default a third of them.

    Raises ValueError where the graphs differ, or a selection or `cut` does not fit them.
    """
    jaccard = edge_jaccard(Circuit.select(arm, chosen), Circuit.select(other, chosen))
    return Headline(jaccard, early_of_all_edges(other, cut) - early_of_all_edges(arm, cut))


def early_of_all_edges(scores: EdgeScores, cut: int | None = None) -> float:
    """Share in [0, 1] of the layers' |score|, over every possible edge, in layers below `cut`."""
    return early_share(mass_by_depth(scores.matrix.abs().double(), scores.graph), cut)
