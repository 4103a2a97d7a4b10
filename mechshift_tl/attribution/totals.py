"""Running sums of an attribution over batches, in float64: per step, per span, per example where asked, and of the metric at both ends.

Scores arrive as sums over read positions and are divided once, so they do not depend on how rows were batched. Examples come in blocks: one
block of all of them, or, to stream moments, as many at a time as `MOMENT_BYTES` hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.readouts import Batch, Readouts
from mechshift_tl.runs.processes import Processes

PER_EXAMPLE_BYTES = 2 * 2**30
MOMENT_BYTES = 256 * 2**20
#: Keep nothing per example, each example's own sums, or only what standard errors need.
Keep = Literal[False, True, "moments"]


@dataclass(frozen=True)
class BatchScores:
    """What one batch adds: `scores (rows or 1, spans and the rest or 1, …)`, and the metric's value at both ends, `(rows,)`."""

    scores: Float[Tensor, "rows spans *score"]
    clean: Float[Tensor, " rows"]
    corrupt: Float[Tensor, " rows"]


class Totals:
    """Sums over read positions of scores of shape `shape`, for one metric.

    Raises ValueError when `keep` is unknown, or True and a table of all examples would pass 2 GiB.
    """

    def __init__(self, readouts: Readouts, shape: tuple[int, ...], keep: Keep) -> None:
        if keep not in (False, True, "moments"):
            raise ValueError(f"attribute: keep_per_example is {keep!r}; choose False, True or 'moments'")
        n, size = readouts.n_examples, 4 * torch.Size(shape).numel()
        if keep is True and n * size > PER_EXAMPLE_BYTES:
            raise ValueError(
                f"keep_per_example would take {n * size / 2**30:.1f} GiB, over 2 GiB; attribute fewer examples at a time, or keep 'moments'"
            )
        self.readouts, self.shape, self.keep = readouts, shape, keep if keep == _MOMENTS else bool(keep)
        self.block = max(1, n if keep is not _MOMENTS else MOMENT_BYTES // size)
        self.steps: dict[int, Tensor] = defaultdict(lambda: torch.zeros(shape, dtype=torch.float64))
        self.n_read: dict[int, int] = defaultdict(int)
        self.spans = torch.zeros(len(readouts.spans), *shape, dtype=torch.float64)
        self.ends = torch.zeros(2, n, dtype=torch.float64)
        self.read = torch.zeros(n, dtype=torch.long).index_add(0, readouts.example, readouts.n_read)
        self.table: Tensor | None = None
        self.moments = torch.zeros(2, *shape, dtype=torch.float64) if keep == _MOMENTS else None

    def blocks(self) -> Iterator[Readouts]:
        """The readouts of each block of examples; what was added since the last one is folded in."""
        n = self.readouts.n_examples
        for start in range(0, n, self.block):
            self.start, stop = start, min(start + self.block, n)
            self.rows = self.readouts if self.block >= n else self.readouts.select(range(start, stop))
            if self.keep:
                self.table = torch.zeros(stop - start, *self.shape)
            yield self.rows
            if self.moments is not None and self.table is not None:
                weights = self.read[start:stop].double().view(-1, *[1] * len(self.shape))
                self.moments += torch.stack([(self.table.double() ** 2).sum(0), (self.table * weights).sum(0)])

    def add(self, batch: Batch, part: BatchScores) -> None:
        """Add one batch of the current block."""
        example = self.rows.example[batch.index]
        whole = part.scores.sum(1)
        self.steps[batch.step] += whole.double().sum(0)
        self.n_read[batch.step] += batch.k * len(batch)
        if part.scores.shape[1] > 1:
            self.spans += part.scores.double().sum(0)[:-1]
        self.ends.index_add_(1, example + self.start, batch.k * torch.stack([part.clean, part.corrupt]).double())
        if self.table is not None:
            self.table.index_add_(0, example, whole)

    def join(self, mine: Totals, examples: Sequence[int], processes: Processes) -> Totals:
        """These totals, filled with those of every process; this one's, `mine`, are of `examples`."""
        for step in self.readouts.steps:
            self.steps[step] = processes.add_up(mine.steps[step])
            self.n_read[step] = int(self.readouts.n_read[self.readouts.step == step].sum())
        self.spans = processes.add_up(mine.spans)
        self.moments = None if mine.moments is None else processes.add_up(mine.moments)
        self.ends[:, list(examples)] = mine.ends
        processes.add_up(self.ends)
        if self.keep is True:
            self.table = torch.zeros(self.readouts.n_examples, *self.shape)
            if mine.table is not None:
                self.table[list(examples)] = mine.table
            processes.add_up(self.table)
        return self

    def fields(self, *, per_position: bool) -> dict[str, Any]:
        """The fields of a result: means over read positions."""
        steps, total = sorted(self.steps), sum(self.n_read.values())
        clean, corrupt = (self.ends.sum(1) / total).tolist()
        return {
            "matrix": (torch.stack([self.steps[s] for s in steps]).sum(0) / total).float(),
            "per_step": torch.stack([self.steps[s] / self.n_read[s] for s in steps]).float(),
            "steps": steps,
            "n_read": [self.n_read[s] for s in steps],
            "clean": clean,
            "corrupt": corrupt,
            "n_examples": self.readouts.n_examples,
            "per_example": self.table if self.keep is True else None,
            "ends_per_example": self.ends.float(),
            "read_per_example": self.read,
            "moments": self.moments,
            "per_span": (self.spans / total).float() if per_position else None,
            "spans": list(self.readouts.spans) if per_position else [],
        }


_MOMENTS = "moments"
