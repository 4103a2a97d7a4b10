"""What a path accounts for, row by row: Σ over its points and positions of ⟨Δinput, gradient at the embeddings⟩.

In the limit of many points it is metric(clean) − metric(corrupt) of the row (Sundararajan et al. 1703.01365). It costs a backward through
the first layer's projections besides.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.gradients import Source
from mechshift_tl.bridge.hooks import EMBED, Kept
from mechshift_tl.readouts import Batch


class Along:
    """Per metric the `totals (rows,)` of one batch, per read position; they stay 0 unless they are `asked` for."""

    def __init__(self, n_metrics: int, batch: Batch, asked: bool) -> None:
        self.asked, self.k = asked, batch.k
        self.totals: list[Float[Tensor, " rows"]] = [batch.clean.new_zeros(len(batch)).float() for _ in range(n_metrics)]

    @property
    def wanted(self) -> list[str]:
        """Hooks at which the metric must be differentiated."""
        return [EMBED] if self.asked else []

    def add(self, source: Source, gradients: Sequence[Kept], weight: float) -> None:
        """Add one point of the embeddings' path."""
        if not self.asked:
            return
        for total, found in zip(self.totals, gradients, strict=True):
            moved = (source.clean - source.corrupt) * found[EMBED].view_as(source.clean)
            total += weight / self.k * moved.flatten(1).sum(1)


class Also:
    """Gradients at further hooks, summed over the path's points, per metric."""

    def __init__(self, wanted: list[str], n_metrics: int) -> None:
        self.wanted = wanted
        self.sums: list[Kept] = [{} for _ in range(n_metrics)]

    def add(self, source: Source, gradients: Sequence[Kept], weight: float) -> None:
        """Add one point."""
        for total, found in zip(self.sums, gradients, strict=True):
            for name in self.wanted:
                total[name] = weight * found[name] + total.get(name, 0)
