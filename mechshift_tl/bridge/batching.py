"""Which rows run together, and how many at a time.

1. Rows of one batch form a rectangle without padding, so they share a shape.
2. A batch holds as many rows as its number of tokens allows, and at least one.
3. Where the caller names no number of tokens, it follows from what the work keeps for every token (`batch_tokens_for`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Literal, TypeGuard, TypeVar

from mechshift_tl.bridge.protocol import HookedModel

Shape = TypeVar("Shape", bound=tuple[int, ...])
#: What a batch is run for, which decides what it keeps: see `batch_tokens_for`.
Purpose = Literal["targets", "logits", "writers", "circuits", "attribution"]
#: A forward of more tokens than this is no faster per token: the weights are then read seldom enough.
ENOUGH_TOKENS = 8192
MIB = 2**20
#: Bytes that a batch may keep.
MOST_BYTES: dict[Purpose, int] = {"logits": 512 * MIB, "writers": 512 * MIB, "circuits": 256 * MIB, "attribution": 1024 * MIB}


def batch_tokens_for(model: HookedModel, purpose: Purpose, asked: int | None = None, *, points: int = 0) -> int:
    """Tokens per batch: what was `asked`, or what suits `model` and the purpose where that is None.

    - "targets": only the target positions are unembedded and nothing is kept, so speed alone decides.
    - "logits": the logits of every position are kept.
    - "writers": the outputs of all writers are kept, heads in head space, and summed in float64.
    - "circuits": the outputs of all writers are kept at the width of the residual stream.
    - "attribution": a backward keeps the activations of its forward, and every one of `points` path points keeps one residual per layer.

    The first three stop at 8192. The last two gain from larger batches, for they read every writer's weights once per batch.
    Raises ValueError unless `asked` is a whole number of at least 1.
    """
    if asked is not None:
        check_batch_tokens(asked)
        return asked
    if purpose == "targets":
        return ENOUGH_TOKENS
    fitting = max(1, MOST_BYTES[purpose] // _bytes_per_token(model, purpose, points))
    return fitting if purpose in ("circuits", "attribution") else min(ENOUGH_TOKENS, fitting)


def _bytes_per_token(model: HookedModel, purpose: Purpose, points: int) -> int:
    cfg = model.cfg
    if purpose == "logits":
        return 4 * cfg.d_vocab
    if purpose == "writers":
        # Four bytes for each output in float32, eight for its sum in float64.
        return (4 + 8) * cfg.n_layers * (cfg.n_heads * cfg.d_head + cfg.d_model)
    if purpose == "circuits":
        # One writer for the input; per layer one for each head and one for the MLP.
        return 4 * (1 + cfg.n_layers * (cfg.n_heads + 1)) * cfg.d_model
    # Measured: about sixteen tensors of the residual's width and four of the MLP's per layer.
    return 4 * cfg.n_layers * ((16 + points) * cfg.d_model + 4 * (cfg.d_mlp or 4 * cfg.d_model))


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number. Python counts a bool as one, but nobody means it as a number."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_batch_tokens(batch_tokens: object) -> None:
    """Raise ValueError unless `batch_tokens` is a whole number of at least 1."""
    if not is_whole(batch_tokens) or batch_tokens < 1:
        raise ValueError(f"batch_tokens must be a whole number of at least 1, got {batch_tokens}; a batch has one row whatever its length")


def same_shape(
    shapes: Sequence[Shape], length: Callable[[Shape], int], batch_tokens: int, *, ordered: bool = False
) -> Iterator[tuple[Shape, list[int]]]:
    """Row numbers that may run together, with the shape that they share: at most `batch_tokens` tokens, always at least one row.

    `length` says how many tokens a row of a shape has. Shapes come in the order of their first rows, or sorted if `ordered`.
    Raises ValueError unless `batch_tokens` is at least 1.
    """
    check_batch_tokens(batch_tokens)
    members: dict[Shape, list[int]] = defaultdict(list)
    for row, shape in enumerate(shapes):
        members[shape].append(row)
    for shape, rows in sorted(members.items()) if ordered else members.items():
        size = max(1, batch_tokens // length(shape))
        yield from ((shape, rows[start : start + size]) for start in range(0, len(rows), size))
