"""Scores of single rows, and the circuits of groups of rows: those of one step, of one kind of position, of early or late steps.

Scores of `readouts.by_row()` keep each row apart. A group's scores are the mean over the read positions of its rows, so the scores of any
grouping follow from one attribution; so do those on drawn prompts, where a row counts as often as its prompt is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.select import Selection
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts

#: Groups with fewer reads have no circuit of their own: it would be noise.
MIN_READS = 8


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Rows of one model in named groups.

    - `per_row (rows, n_writers, n_readers)`: sums of scores over each row's read positions; `n_read (rows,)` counts these.
    - `example (rows,)`: which prompt a row is of; there are `n_examples`.
    - `labels`: the group of each row, "" for none.
    """

    graph: Graph
    per_row: Float[Tensor, "rows n_writers n_readers"]
    n_read: Int[Tensor, " rows"]
    example: Int[Tensor, " rows"]
    n_examples: int
    labels: tuple[str, ...]

    @classmethod
    def of(cls, scores: EdgeScores, readouts: Readouts, labels: tuple[str, ...]) -> RowGroups:
        """Groups of the rows of `readouts`; `scores` are of `readouts.by_row()`. Raises ValueError where they are not."""
        if scores.per_example is None or len(scores.per_example) != len(readouts) or len(labels) != len(readouts):
            raise ValueError(
                f"row groups: {len(labels)} labels and scores of {scores.n_examples} examples for {len(readouts)} rows; "
                "attribute readouts.by_row() with keep_per_example=True"
            )
        return cls(scores.graph, scores.per_example, readouts.n_read, readouts.example, readouts.n_examples, labels)

    @property
    def reads(self) -> dict[str, int]:
        """Reads of each group that has `MIN_READS` or more, by label: numbers by size, words by letter, so that models agree."""
        found: dict[str, int] = {}
        for label, n in zip(self.labels, self.n_read.tolist(), strict=True):
            if label:
                found[label] = found.get(label, 0) + n
        order = sorted(found, key=int) if all(label.isdigit() for label in found) else sorted(found)
        return {label: found[label] for label in order if found[label] >= MIN_READS}

    def matrices(self, counts: Float[Tensor, " n_examples"] | None = None) -> Float[Tensor, "groups n_writers n_readers"]:
        """Mean scores of each group in `reads`; `counts` says how often each prompt is drawn, by default once. NaN for a group undrawn."""
        times = torch.ones(len(self.labels)) if counts is None else counts.float()[self.example]
        member = torch.tensor([[label == one for one in self.labels] for label in self.reads]) * times
        sums = (member @ self.per_row.flatten(1)).view(-1, *self.per_row.shape[1:])
        return sums / (member @ self.n_read.float())[:, None, None]

    def circuits(self, chosen: Selection, counts: Float[Tensor, " n_examples"] | None = None) -> list[Circuit]:
        """The circuit of each group; an empty one where no prompt of the group is drawn."""
        return [cut(matrix.nan_to_num(), self.graph, chosen) for matrix in self.matrices(counts)]

    def pooled(self, chosen: Selection) -> Circuit:
        """The circuit of all rows together."""
        return cut(self.per_row.sum(0) / self.n_read.sum(), self.graph, chosen)


def cut(matrix: Float[Tensor, "n_writers n_readers"], graph: Graph, chosen: Selection) -> Circuit:
    """The circuit of a matrix of scores."""
    edges, requested = chosen.edges(matrix, graph)
    return Circuit(graph, edges, matrix.masked_fill(~edges, 0), requested)


def step_labels(readouts: Readouts) -> tuple[str, ...]:
    """Each row's step, as text."""
    return tuple(str(step) for step in readouts.step.tolist())


def half_labels(readouts: Readouts) -> tuple[str, ...]:
    """Whether each row's step is "early" or "late": parted so that both hold about as many rows. All "" where there is one step."""
    steps = readouts.step.sort().values
    if steps[0] == steps[-1]:
        return ("",) * len(readouts)
    middle = min(int(steps[len(steps) // 2]), int(steps[-1]))
    first_late = middle if middle > int(steps[0]) else int(steps[steps > middle][0])
    return tuple("early" if step < first_late else "late" for step in readouts.step.tolist())
