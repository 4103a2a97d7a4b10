"""Runs every batch of an attribution once. Processes share the batches, a journal keeps them, and a batch that is too large is halved.

1. Each process takes its share of the examples (`processes`), and their batches one by one, in step with the others.
2. A batch that the journal holds is replayed; another is run, and kept before it counts.
3. A batch that memory cannot hold is run in halves, and so are the batches after it. The journal still keeps it as one batch.
4. At the end the processes' sums are joined.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from hooked_diffusion.progress import progress_bar
from mechshift_tl.attribution.totals import BatchScores, Totals
from mechshift_tl.readouts import Batch, Readouts
from mechshift_tl.runs.journal import Journal
from mechshift_tl.runs.out_of_memory import free_memory, is_out_of_memory
from mechshift_tl.runs.processes import Processes

#: What one batch adds, a part per metric.
Run: TypeAlias = Callable[[Batch], list[BatchScores]]


def accumulate(
    run: Run,
    readouts: Readouts,
    totals: Callable[[Readouts], list[Totals]],
    batch_tokens: int,
    *,
    label: str,
    per_row: bool,
    journal: Path | None,
    work: Mapping[str, object],
) -> list[Totals]:
    """Totals of all rows, one per metric, the same in every process; `totals(readouts)` makes empty ones.

    `per_row`: a batch's scores keep its rows apart. `journal` is a folder that belongs to `work` (JSON values that decide the outcome).
    Raises ValueError when it belongs to other work or to another number of processes, and when the processes were given different work;
    MemoryError when a single row does not fit.
    """
    processes, whole = Processes.here(), totals(readouts)
    # Before any batch: processes that do different work would wait for each other without end.
    if len({str(one) for one in processes.gather(work)}) > 1:
        raise ValueError("attribute: processes launched together were given different work; use `with mechshift_tl.runs.processes.alone()`")
    kept = _journal(journal, processes, work)
    mine = processes.share(readouts.n_examples)
    rows = readouts if processes.count == 1 else readouts.select(mine)
    sums = whole if processes.count == 1 else totals(rows)
    with progress_bar(len(rows), label, "row", shown=processes.is_first) as bar:
        for done in processes.in_step(_batches(Halving(run, per_row), rows, sums, batch_tokens, kept)):
            bar.update(done)
    if processes.count == 1:
        return sums
    return [total.join(part, mine, processes) for total, part in zip(whole, sums, strict=True)]


def _batches(run: Run, rows: Readouts, totals: Sequence[Totals], batch_tokens: int, journal: Journal | None) -> Iterator[int]:
    """Run `rows` and add batch after batch to the totals; yields how many rows each had."""
    for number, batch in enumerate(rows.batches(batch_tokens)):
        parts = _replayed(journal, number)
        if parts is None:
            parts = run(batch)
            if journal is not None:
                journal.write(number, {f"{i}.{name}": value for i, part in enumerate(parts) for name, value in vars(part).items()})
        for total, part in zip(totals, parts, strict=True):
            total.add(batch, part)
        yield len(batch)


def _journal(folder: Path | None, processes: Processes, work: Mapping[str, object]) -> Journal | None:
    """This process's own journal below `folder`."""
    if folder is None:
        return None
    for other in sorted(folder.glob("*-of-*")):
        # With another number of processes the batches hold other rows.
        count = other.name.rpartition("-")[2]
        if count != str(processes.count):
            raise ValueError(f"journal {folder} was begun by {count} processes, not {processes.count}; go on with as many, or delete it")
    return Journal(folder / f"{processes.rank}-of-{processes.count}", work)


def _replayed(journal: Journal | None, number: int) -> list[BatchScores] | None:
    tensors = None if journal is None else journal.read(number)
    if tensors is None:
        return None
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        metric, name = key.split(".")
        parts.setdefault(metric, {})[name] = tensor
    # By number: as text, "10" would come before "2".
    return [BatchScores(**parts[metric]) for metric in sorted(parts, key=int)]


class BatchHalved(RuntimeWarning):
    """Memory did not hold a batch, which is run in smaller ones instead; scores stay the same to rounding."""


class Halving:
    """Runs batches, with as many rows at a time as memory holds, and joins their scores.

    `per_row`: parts keep their rows apart. Warns when it halves; raises MemoryError when one row alone does not fit.
    """

    def __init__(self, run: Run, per_row: bool) -> None:
        self.run, self.per_row = run, per_row
        self.rows: int | None = None

    def __call__(self, batch: Batch) -> list[BatchScores]:
        """The scores of a batch, one part per metric."""
        while True:
            rows = min(len(batch), self.rows or len(batch))
            try:
                return self._in_pieces(batch, rows)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if rows == 1:
                    length = batch.clean.shape[1]
                    raise MemoryError(f"out of memory on a single row of {length} tokens; take shorter prompts, or free memory") from None
            # Past the except block the failed run's tensors, which its traceback held, are gone.
            free_memory()
            self.rows = rows // 2
            warnings.warn(f"out of memory on {rows} rows; going on with {self.rows} at a time", BatchHalved, stacklevel=2)

    def _in_pieces(self, batch: Batch, rows: int) -> list[BatchScores]:
        found = [self.run(batch.rows(slice(i, i + rows))) for i in range(0, len(batch), rows)]
        return [self._joined(groups) for groups in zip(*found, strict=True)]

    def _joined(self, groups: Sequence[BatchScores]) -> BatchScores:
        if len(groups) == 1:
            return groups[0]
        scores = [piece.scores for piece in groups]
        ends = (torch.cat([getattr(piece, end) for piece in groups]) for end in ("clean", "corrupt", "along"))
        # Scores that keep rows apart are put one after another; sums over rows are added.
        return BatchScores(torch.cat(scores) if self.per_row else torch.stack(scores).sum(0), *ends)
