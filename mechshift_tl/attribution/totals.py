"""Running sums of an attribution over batches, in float64: per step, per span, per example where asked, and of the metric at both ends.

Scores arrive as sums over read positions and are divided once at the end, so they do not depend on how rows were batched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.readouts import Batch, Readouts
from mechshift_tl.runs.processes import Processes

#: Bound on the table of all examples' own scores.
PER_EXAMPLE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class BatchScores:
    """The scores of one batch `(rows or 1, spans and the rest or 1, …)`, the metric's value at both ends, and what the path accounts for
    of their difference (`along`), each `(rows,)`."""

    scores: Float[Tensor, "rows spans *score"]
    clean: Float[Tensor, " rows"]
    corrupt: Float[Tensor, " rows"]
    along: Float[Tensor, " rows"]


class Totals:
    """Sums over read positions of scores of shape `shape`, for one metric; `keep_per_example` keeps each example's own sums besides.

    Raises ValueError when a table of all examples would pass 2 GiB.
    """

    def __init__(self, readouts: Readouts, shape: tuple[int, ...], keep_per_example: bool) -> None:
        n = readouts.n_examples
        size = 4 * n * torch.Size(shape).numel()
        if keep_per_example and size > PER_EXAMPLE_BYTES:
            raise ValueError(f"keep_per_example would take {size / 2**30:.1f} GiB, over 2 GiB; attribute fewer examples at a time")
        self.readouts, self.shape = readouts, shape
        # float64: many batches are added, and how they were cut must not show in float32.
        self.steps: dict[int, Tensor] = defaultdict(lambda: torch.zeros(shape, dtype=torch.float64))
        self.n_read: dict[int, int] = defaultdict(int)
        self.spans = torch.zeros(len(readouts.spans), *shape, dtype=torch.float64)
        # Clean end, corrupt end, and what the path accounts for.
        self.ends = torch.zeros(3, n, dtype=torch.float64)
        self.read = torch.zeros(n, dtype=torch.long).index_add(0, readouts.example, readouts.n_read)
        # float32: by far the largest thing kept, and each entry adds up the positions of one example only.
        self.table = torch.zeros(n, *shape) if keep_per_example else None

    def add(self, batch: Batch, part: BatchScores) -> None:
        """Add one batch."""
        example = self.readouts.example[batch.index]
        whole = part.scores.sum(1)
        self.steps[batch.step] += whole.double().sum(0)
        self.n_read[batch.step] += batch.k * len(batch)
        if part.scores.shape[1] > 1:
            # The last group holds the tokens that are in no span.
            self.spans += part.scores.double().sum(0)[:-1]
        self.ends.index_add_(1, example, batch.k * torch.stack([part.clean, part.corrupt, part.along]).double())
        if self.table is not None:
            self.table.index_add_(0, example, whole)

    def join(self, mine: Totals, examples: Sequence[int], processes: Processes) -> Totals:
        """These totals with the sums of every process added; this process's sums, `mine`, belong to `examples`."""
        for step in self.readouts.steps:
            self.steps[step] = processes.add_up(mine.steps[step])
            self.n_read[step] = int(self.readouts.n_read[self.readouts.step == step].sum())
        self.spans = processes.add_up(mine.spans)
        # Each process has zeros at the examples of the others, so adding up puts the parts together.
        self.ends[:, list(examples)] = mine.ends
        processes.add_up(self.ends)
        if self.table is not None and mine.table is not None:
            self.table[list(examples)] = mine.table
            processes.add_up(self.table)
        return self

    @property
    def example_gap(self) -> float:
        """By how much the path misses an example's effect, in the mean over examples, as a share of the mean |effect|."""
        effect = self.ends[0] - self.ends[1]
        return float((self.ends[2] - effect).abs().sum() / effect.abs().sum().clamp_min(1e-12))

    def fields(self, *, per_position: bool) -> dict[str, Any]:
        """The fields of a result: means over read positions."""
        steps, total = sorted(self.steps), sum(self.n_read.values())
        # `ends` are sums over read positions, so one division gives the mean.
        clean, corrupt, _ = (self.ends.sum(1) / total).tolist()
        return {
            "matrix": (torch.stack([self.steps[s] for s in steps]).sum(0) / total).float(),
            "per_step": torch.stack([self.steps[s] / self.n_read[s] for s in steps]).float(),
            "steps": steps,
            "n_read": [self.n_read[s] for s in steps],
            "clean": clean,
            "corrupt": corrupt,
            "n_examples": self.readouts.n_examples,
            "per_example": self.table,
            "ends_per_example": self.ends[:2].float(),
            "read_per_example": self.read,
            "per_span": (self.spans / total).float() if per_position else None,
            "spans": list(self.readouts.spans) if per_position else [],
        }
