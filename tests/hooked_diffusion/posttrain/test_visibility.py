"""Who sees whom while a model trains."""

from __future__ import annotations

import torch

from hooked_diffusion.attention import attention_mask_4d
from hooked_diffusion.posttrain import Rows, preset
from hooked_diffusion.posttrain.visibility import opened, visibility

from .helpers import generator, rows

SEGMENT = torch.tensor([[0, 0, 0, 1, 1, -1]])


def packed() -> Rows:
    return Rows(torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 6, dtype=torch.bool), SEGMENT)


def test_attention_opens() -> None:
    assert opened(9, 10, 6, generator()) is None and opened(0, 0, 6, generator()) is None
    half = opened(499, 1000, 200, generator())
    assert half is not None and half.tril().sum() == 200 * 201 / 2
    upper = half[torch.triu(torch.ones(200, 200, dtype=torch.bool), 1)]
    assert abs(upper.float().mean().item() - 0.5) < 0.02


def test_a_row_of_one_text_needs_no_mask() -> None:
    assert visibility(rows(), preset("ar", 10), 0, generator()) is None
    assert visibility(rows(), preset("llada", 10), 0, generator()) is None


def test_texts_of_a_row_do_not_see_each_other() -> None:
    full, causal = (visibility(packed(), preset(name, 10), 0, generator()) for name in ("llada", "ar"))
    assert full is not None and causal is not None
    same = SEGMENT[0, :, None] == SEGMENT[0, None, :]
    assert torch.equal(full[0, 0], same) and torch.equal(causal[0, 0], same.tril())


def test_block_rows_see_what_they_will_see_when_they_denoise() -> None:
    """A block of the masked copy sees itself there and the clean copy of what came before: the canvas of the model, block by block."""
    sees = visibility(rows(1, 6), preset("block", 10, block_length=2), 0, generator())
    assert sees is not None and sees.shape == (1, 1, 12, 12)
    canvas = attention_mask_4d(torch.ones(1, 6, dtype=torch.bool), "block", 2)[0, 0]
    assert torch.equal(sees[0, 0, :6, :6] | sees[0, 0, :6, 6:], canvas)
    assert torch.equal(sees[0, 0, 6:, 6:], canvas) and not sees[0, 0, 6:, :6].any()
    assert not (sees[0, 0, :6, :6] & sees[0, 0, :6, 6:]).any()
