"""Rows that differ in step, length and in how many positions they read."""

from __future__ import annotations

import pytest
import torch

from mechshift_tl.readouts import ABSENT, Readouts


@pytest.fixture(scope="module")
def many_shapes() -> Readouts:
    """Four examples in two steps: eight rows of 6 to 8 tokens, read at 3, 2, 3 and 4 positions in all."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(3, 48, (2, 8, 8), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 8, 2), generator=generator)
    lengths = torch.tensor([8, 6, 7, 8, 8, 6, 7, 8])
    targets = torch.stack([lengths - 1, torch.full((8,), 4)], 1)
    beyond = torch.arange(8) >= lengths[:, None]
    unread = torch.tensor([[False, single] for single in (False, True, True, False, True, True, False, False)])
    columns = {"target_pos": targets, "answer_ids": answers, "foil_ids": foils}
    return Readouts(
        clean=clean.masked_fill(beyond, ABSENT),
        corrupt=corrupt.masked_fill(beyond, ABSENT),
        **{name: value.masked_fill(unread, ABSENT) for name, value in columns.items()},
        step=torch.tensor([0, 0, 0, 0, 2, 2, 2, 2]),
        example=torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]),
        groups=("x", "y", "x", "y"),
    )
