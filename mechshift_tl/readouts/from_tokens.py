"""What a caller hands to `Readouts.from_tokens`, checked one tensor at a time; every error names the tensor and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_diffusion.artefact import shown
from mechshift_tl.bridge.batching import is_whole

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
    tensors = [_tensor(name, value, "give integers, as a tensor or as lists of one length") for name, value in given.items()]
    for name, tensor in zip(given, tensors, strict=True):
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"{name} is {tensor.dtype}; give integers: token ids, and positions of tokens")
    return [tensor.long() for tensor in tensors]


def indices_of(caller: str, given: object) -> list[int]:
    """A list of whole numbers. Raises ValueError on anything else."""
    if isinstance(given, range) or (isinstance(given, Sequence) and not given):
        return list(given)
    (tensor,) = integers(**{f"{caller}: the list of examples": given})
    if tensor.ndim != 1:
        raise ValueError(f"{caller}: the list of examples is {tuple(tensor.shape)}; give one list of indices")
    return tensor.tolist()


def names_of(groups: object, n: int) -> tuple[str, ...]:
    """The prompt group of each of `n` examples, "all" where none are given."""
    if groups is None:
        return ("all",) * n
    names = () if isinstance(groups, str) or not isinstance(groups, Iterable) else tuple(groups)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"groups is {shown(groups)}; give a list with the name of each example's group")
    if len(names) != n:
        raise ValueError(f"groups names {len(names)} examples, not {n}")
    return names


def _tensor(name: str, given: object, remedy: str) -> Tensor:
    """`given` as a tensor in memory. Raises ValueError, naming it, where it cannot be one."""
    try:
        tensor = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):  # which of them depends on what was given
        raise ValueError(f"{name} is {shown(given)}; {remedy}") from None
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"{name} is a tensor without values in memory ({tensor.layout}, {tensor.device}); {remedy}")
    return tensor


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
    if isinstance(given, list) and any(isinstance(one, Tensor) for one in given):
        raise ValueError("attention_mask is a list of tensors; give a tensor, or a tuple (clean_mask, corrupt_mask)")
    mask = _tensor("attention_mask", given, "give a tensor, or a tuple (clean_mask, corrupt_mask)")
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
    if not isinstance(spans, Mapping):
        raise ValueError(f"spans is {shown(spans)}; give a dictionary of names and their positions")
    found = torch.full(tuple(shape), -1, dtype=torch.long)
    for i, (name, where) in enumerate(spans.items()):
        inside = torch.zeros(tuple(shape), dtype=torch.bool)
        if isinstance(where, Tensor):
            if where.shape != shape:
                raise ValueError(f"span {name!r} has shape {tuple(where.shape)}; its tokens are {tuple(shape)}")
            inside |= where.bool()
        elif isinstance(where, Sequence) and len(where) == 2 and all(end is None or is_whole(end) for end in where):
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
