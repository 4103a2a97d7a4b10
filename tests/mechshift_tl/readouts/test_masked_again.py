"""A denoising step masked again: canvases written out by hand, and rows made by `readouts`."""

from __future__ import annotations

import pytest
import torch

from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts.masked_again import masked_again, rows_after

M = 2


@pytest.fixture
def rows() -> Readouts:
    """Two examples; the first commits positions 3, 1, 2 at steps 0, 1, 3, the second 2 and 3 at steps 0 and 3."""
    clean = torch.tensor([[9, M, M, M], [9, M, M, 13], [9, 11, M, 13], [8, 7, M, M], [8, 7, 22, M]])
    corrupt = clean.clone()
    corrupt[:, 0] = 5
    corrupt[(clean == 13) | (clean == 11) | (clean == 22)] = 40
    target = torch.tensor([[3], [1], [2], [2], [3]])
    answer = torch.tensor([[13], [11], [12], [22], [23]])
    step, example = torch.tensor([0, 1, 3, 0, 3]), torch.tensor([0, 0, 0, 1, 1])
    return Readouts(clean, corrupt, target, answer, answer + 1, step, example, ("x", "y"))


def test_what_a_step_revealed_is_masked_again_later(rows) -> None:
    found = masked_again(rows, 0, M)
    assert found.clean.tolist() == [[9, M, M, M], [9, 11, M, M], [8, 7, M, M]]
    assert found.corrupt.tolist() == [[5, M, M, M], [5, 40, M, M], [5, 7, M, M]]
    assert found.step.tolist() == [1, 3, 3] and found.example.tolist() == [0, 0, 1] and found.groups == rows.groups


def test_only_examples_read_at_the_step_are_kept_and_nothing_else_changes(rows) -> None:
    found, before = masked_again(rows, 1, M), rows_after(rows, 1)
    assert found.clean.tolist() == [[9, M, M, 13]] and before.clean.tolist() == [[9, 11, M, 13]]
    for name in ("target_pos", "answer_ids", "foil_ids", "step", "example"):
        assert torch.equal(getattr(found, name), getattr(before, name))


def test_the_last_step_has_no_later_row(rows) -> None:
    with pytest.raises(ValueError, match="step 3 has no later row"):
        masked_again(rows, 3, M)
