"""A denoising step ablated: what it revealed is masked again on the canvases of later steps.

Row k of an example shows what was committed before step k. Between an example's row at step s and its next row, the canvas gains what
step s committed (and what steps without a read committed in between). Ablating step s puts these tokens back to mask on every later row
of the example; what is read there stays the same. With teacher forcing, skipping the step would give the same canvases. It is the clean and
the corrupt canvas alike. Only later rows of examples that were read at step s are kept: on others nothing changes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from mechshift_tl.readouts.rows import Readouts


def rows_after(readouts: Readouts, step: int) -> Readouts:
    """The rows later than `step`, of examples that have a row at `step`; examples keep their numbers.

    Raises ValueError where there is no such row.
    """
    read_then = set(readouts.example[readouts.step == step].tolist())
    kept = [i for i, example in enumerate(readouts.example.tolist()) if readouts.step[i] > step and example in read_then]
    if not kept:
        raise ValueError(f"step {step} has no later row; steps are {readouts.steps}, and an example must be read at two of them")
    index = torch.tensor(kept)
    return replace(readouts, **{name: tensor[index] for name, tensor in readouts.tensors().items()})


def masked_again(readouts: Readouts, step: int, mask: int) -> Readouts:
    """`rows_after`, with the tokens that step `step` revealed replaced by the id `mask`. Raises ValueError where `rows_after` does."""
    after = rows_after(readouts, step)
    revealed = {example: _revealed(readouts, example, step) for example in set(after.example.tolist())}
    clean, corrupt = after.clean.clone(), after.corrupt.clone()
    for row, example in enumerate(after.example.tolist()):
        for side in (clean, corrupt):
            side[row, revealed[example]] = mask
    return replace(after, clean=clean, corrupt=corrupt)


def _revealed(readouts: Readouts, example: int, step: int) -> Int[Tensor, " positions"]:
    """Positions that the example's next row shows otherwise than its row at `step`."""
    rows = (readouts.example == example).nonzero()[:, 0]
    rows = rows[readouts.step[rows].argsort()]
    at = readouts.step[rows].tolist().index(step)
    return (readouts.clean[rows[at]] != readouts.clean[rows[at + 1]]).nonzero()[:, 0]
