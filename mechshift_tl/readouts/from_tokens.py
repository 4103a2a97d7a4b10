"""What a caller hands to `Readouts.from_tokens`, checked one tensor at a time; every error names the tensor and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

AttentionMask: TypeAlias = Tensor | tuple[Tensor, Tensor] | None
#: Positions of a span: `(start, stop)` in every row, or a mask `(n, pos)`.
Span: TypeAlias = tuple[int, int] | Tensor


def rectangle(clean: object, corrupt: object) -> tuple[Int[Tensor, "n pos"], Int[Tensor, "n pos"]]:
    """Both sides as tensors `(n, pos)` of one shape."""
    clean, corrupt = integers(clean=clean, corrupt=corrupt)
    if clean.ndim != 2 or clean.shape != corrupt.shape:
        raise ValueError(
            f"clean {tuple(clean.shape)} and corrupt {tuple(corrupt.shape)} must both be (n, pos): pairs of equal length; "
            "pad unequal prompts and pass attention_mask=(clean_mask, corrupt_mask), or choose a corruption that keeps the length"
        )
    return clean, corrupt


def integers(**given: object) -> list[Int[Tensor, ...]]:
    """Tensors of ids or positions as int64."""
    tensors = [torch.as_tensor(value) for value in given.values()]
    for name, tensor in zip(given, tensors, strict=True):
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise ValueError(f"{name} is {tensor.dtype}; give integers: token ids, and positions of tokens")
    return [tensor.long() for tensor in tensors]


def columns_of(n: int, length: int, **given: object) -> dict[str, Int[Tensor, "n k"]]:
    """`target_pos`, `answer_ids` and `foil_ids` as `(n, k)`, targets inside the canvas."""
    columns = {name: value[:, None] if value.ndim == 1 else value for name, value in zip(given, integers(**given), strict=True)}
    target = columns["target_pos"]
    for name, value in columns.items():
        if value.ndim != 2 or value.shape != target.shape or value.shape[0] != n:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; give (n,) or (n, k) with n = {n}, the same for all three")
    if not target.numel() or target.min() < 0 or target.max() >= length:
        raise ValueError(f"target_pos must lie in [0, {length}) and n be at least 1; got n = {n}, {target.tolist()[:4]}…")
    return columns


def masks_of(given: AttentionMask, shape: torch.Size) -> tuple[Bool[Tensor, "n pos"], Bool[Tensor, "n pos"]] | None:
    """(clean, corrupt) masks; None when none is given."""
    if given is None:
        return None
    both = given if isinstance(given, tuple) else (given, given)
    if len(both) != 2 or any(one is None for one in both):
        held = sum(one is not None for one in both)
        raise ValueError(f"attention_mask holds {held} masks; give one for both sides, or (clean_mask, corrupt_mask)")
    clean, corrupt = (_mask(name, one, shape) for name, one in zip(("clean", "corrupt"), both, strict=True))
    return clean, corrupt


def _mask(side: str, given: object, shape: torch.Size) -> Bool[Tensor, "n pos"]:
    try:
        mask = torch.as_tensor(given)
    except ValueError:
        raise ValueError("attention_mask is a list of tensors; give a tensor, or a tuple (clean_mask, corrupt_mask)") from None
    if mask.shape != shape:
        raise ValueError(f"attention_mask of the {side} side has shape {tuple(mask.shape)}; its tokens are {tuple(shape)}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"attention_mask of the {side} side holds {mask.unique().tolist()[:4]}; give 1 at visible tokens, 0 elsewhere")
    if not (visible := mask.sum(1) > 0).all():
        raise ValueError(f"attention_mask of the {side} side hides the whole of row {int((~visible).nonzero()[0])}; drop that row")
    return mask.bool()


def span_of(spans: Mapping[str, Span] | None, shape: torch.Size) -> Int[Tensor, "n pos"] | None:
    """Index of the span that each position lies in, −1 for none; None without spans."""
    if spans is None:
        return None
    found = torch.full(tuple(shape), -1, dtype=torch.long)
    for i, (name, where) in enumerate(spans.items()):
        inside = torch.zeros(tuple(shape), dtype=torch.bool)
        if isinstance(where, Tensor):
            if where.shape != shape:
                raise ValueError(f"span {name!r} has shape {tuple(where.shape)}; its tokens are {tuple(shape)}")
            inside |= where.bool()
        elif len(where) == 2:
            inside[:, slice(*where)] = True
        else:
            raise ValueError(f"span {name!r} is {where}; give (start, stop), or a mask of rows × positions")
        if not inside.any():
            raise ValueError(f"span {name!r} holds no position of rows of {shape[1]} tokens; got {where}")
        if (found[inside] >= 0).any():
            other = list(spans)[int(found[inside].max())]
            raise ValueError(f"spans {other!r} and {name!r} share a position; a position lies in one span at most")
        found[inside] = i
    return found
