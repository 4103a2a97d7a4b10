"""Rows that run together: every row once, shapes kept apart, tokens bounded; and the default number of tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mechshift_tl.bridge.batching import ENOUGH_TOKENS, MIB, batch_tokens_for, same_shape

SHAPES = [(3, 1), (2, 1), (3, 1), (3, 2), (3, 1), (2, 1)]


@pytest.mark.parametrize("batch_tokens", [1, 6, 100])
@pytest.mark.parametrize("ordered", [False, True])
def test_every_row_runs_once_with_rows_of_its_shape(batch_tokens: int, ordered: bool) -> None:
    found = list(same_shape(SHAPES, lambda shape: shape[0], batch_tokens, ordered=ordered))
    assert sorted(row for _, rows in found for row in rows) == list(range(len(SHAPES)))
    for shape, rows in found:
        assert all(SHAPES[row] == shape for row in rows) and rows == sorted(rows)
        assert len(rows) == 1 or len(rows) * shape[0] <= batch_tokens
    shapes = list(dict.fromkeys(shape for shape, _ in found))
    assert shapes == (sorted(set(SHAPES)) if ordered else list(dict.fromkeys(SHAPES)))


@pytest.mark.parametrize("batch_tokens", [0, -1, 2.5, True, "8"])
def test_a_number_of_tokens_that_cannot_be_is_refused(batch_tokens: Any) -> None:
    with pytest.raises(ValueError, match="batch_tokens must be a whole number of at least 1"):
        list(same_shape(SHAPES, sum, batch_tokens))
    with pytest.raises(ValueError, match="batch_tokens must be a whole number of at least 1"):
        batch_tokens_for(model(), "logits", batch_tokens)


def model(**sizes: int) -> Any:
    small = {"n_layers": 2, "n_heads": 4, "d_head": 8, "d_model": 32, "d_mlp": 64, "d_vocab": 48}
    return SimpleNamespace(cfg=SimpleNamespace(**(small | sizes)))


def test_the_default_is_what_memory_allows() -> None:
    assert batch_tokens_for(model(), "logits", 7) == 7
    assert [batch_tokens_for(model(), purpose) for purpose in ("targets", "logits", "writers")] == [ENOUGH_TOKENS] * 3
    assert batch_tokens_for(model(d_vocab=2**17), "logits") == 512 * MIB // (4 * 2**17)
    assert batch_tokens_for(model(d_vocab=2**40), "logits") == 1
    writers = 1 + 2 * 5
    assert batch_tokens_for(model(), "circuits") == 256 * MIB // (4 * writers * 32)
    assert batch_tokens_for(model(), "attribution", points=5) == 2**30 // (4 * 2 * (21 * 32 + 4 * 64))
