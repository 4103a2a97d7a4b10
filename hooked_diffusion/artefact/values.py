"""The fields of a result as values of a file, and back. The dataclass states the type of each field; every value that is read is checked
against it.

| in the dataclass | in the file |
|---|---|
| a tensor | a tensor of the same name; type and shape are checked, with one size per named dimension |
| None, bool, int, str, Literal | the same JSON value |
| float | a number; null is NaN, which JSON lacks |
| list, tuple | a list |
| dict | an object; keys that are numbers become text |
| a dataclass | an object with its fields; those with a default may be missing |
| DataFrame | an object with a list per column |
| Any | any JSON value, unchecked |
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import pandas as pd
from jaxtyping import AbstractArray, jaxtyped
from torch import Tensor

T = TypeVar("T")
#: What an annotation evaluates to. A class, a union, a Literal and a tensor with its shape share no type of their own.
Annotation: TypeAlias = Any


class Malformed(ValueError):
    """A value of a file that does not fit the field it is for; the message names field, value and what fits."""

    def __init__(self, place: str, value: object, wanted: str):
        super().__init__(f"{place or 'the file'} is {shown(value)}, not {wanted}")


def encode(value: object) -> object:
    """`value` as JSON knows it: dataclasses, tables, dictionaries, lists and what they hold. A field without a value is null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: encode(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, pd.DataFrame):
        return value.to_dict("list")
    if isinstance(value, Mapping):
        return {key: encode(part) for key, part in value.items()}
    return [encode(part) for part in value] if isinstance(value, (list, tuple)) else value


def without_nan(value: object) -> object:
    """JSON values with null for NaN, so that every reader of JSON takes them."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def build(kind: type[T], values: Mapping[str, object], place: str = "") -> T:
    """The dataclass `kind` from the values of a file, tensors among them.

    Raises `Malformed` where a value does not fit its field, and ValueError on fields that are missing or unknown.
    """
    with jaxtyped("context"):  # within it, one name of a dimension means one size
        return _build(kind, values, place)


def _build(kind: type[T], values: object, place: str) -> T:
    if not isinstance(values, Mapping):
        raise Malformed(place, values, f"the fields of {kind.__name__}")
    known = {one.name: one for one in fields(cast(Any, kind)) if one.init}
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"{_inside(place, str(unknown[0]))} is unknown to {kind.__name__}, which has {', '.join(known)}")
    if missing := [name for name, one in known.items() if name not in values and _is_required(one)]:
        raise ValueError(f"{_inside(place, missing[0])} is missing, which {kind.__name__} needs")
    hints = _hints(kind)
    # Missing fields take their defaults, so a file that an older version wrote still opens.
    return kind(**{name: decode(values[name], hints[name], _inside(place, name)) for name in known if name in values})


@cache
def _hints(kind: type) -> dict[str, Annotation]:
    return get_type_hints(kind)


def _is_required(one: Field[object]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def decode(value: object, kind: Annotation, place: str) -> object:
    """`value` as the type `kind` wants it. Raises `Malformed`, naming `place`, where it does not fit, TypeError on types no file can hold.

    A type is read at run time here, so it can be anything that an annotation may say.
    """
    origin = get_origin(kind)
    if kind is Any or kind is object:
        return value
    if origin in (Union, types.UnionType):
        return _decode_union(value, get_args(kind), place)
    if origin is Literal:
        # To Python, True equals 1 and 1 equals 1.0.
        return _checked(value, any(value == one and type(value) is type(one) for one in get_args(kind)), place, kind)
    if is_tensor_type(kind):
        return _checked(value, isinstance(value, kind), place, kind)
    if origin in _HOLDING:
        return _HOLDING[origin](value, get_args(kind), place)
    if isinstance(kind, type) and is_dataclass(kind):
        return _build(kind, value, place)
    if kind is pd.DataFrame:
        return _decode_frame(value, place)
    if kind in _FITTING:
        return _FITTING[kind](_checked(value, _is_plain(value, kind), place, kind))
    raise TypeError(f"{place}: no file can hold a {kind}")


def is_tensor_type(kind: Annotation) -> bool:
    """Whether an annotation is a tensor, with or without its shape."""
    return isinstance(kind, type) and (kind is Tensor or issubclass(kind, AbstractArray))


def _is_plain(value: object, kind: type) -> bool:
    if kind is float:
        # To Python, true is a whole number; JSON means something else.
        return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    return type(value) is kind


def _number(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        # JSON allows a whole number of any size; a float ends near 1e308.
        return math.copysign(math.inf, cast(int, value))


_FITTING: dict[type, Callable[[Any], object]] = {
    bool: bool, int: int, str: str, float: _number, type(None): lambda value: value, dict: dict, list: list
}  # fmt: skip


def _decode_union(value: object, kinds: tuple[Annotation, ...], place: str) -> object:
    if value is None and type(None) in kinds:
        return None
    # The last kind raises its own error, which names the field and the value.
    *others, last = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        try:
            return decode(value, kind, place)
        except Malformed:
            continue
    return decode(value, last, place)


def _decode_list(value: object, kinds: tuple[Annotation, ...], place: str) -> list[object]:
    return _decode_parts(_listed(value, place), kinds[0], place)


def _decode_parts(parts: list[object], kind: Annotation, place: str) -> list[object]:
    if kind in (bool, int, str) and all(type(part) is kind for part in parts):
        return parts  # the usual case of long lists, such as token ids
    return [decode(part, kind, f"{place}[{i}]") for i, part in enumerate(parts)]


def _decode_tuple(value: object, kinds: tuple[Annotation, ...], place: str) -> tuple[object, ...]:
    parts = _listed(value, place)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_decode_parts(parts, kinds[0], place))
    if len(parts) != len(kinds):
        raise Malformed(place, value, f"a list of {len(kinds)}")
    return tuple(decode(part, kind, f"{place}[{i}]") for i, (part, kind) in enumerate(zip(parts, kinds, strict=True)))


def _decode_dict(value: object, kinds: tuple[Annotation, ...], place: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise Malformed(place, value, "an object")
    return {_decode_key(key, kinds[0], place): decode(part, kinds[1], _inside(place, str(key))) for key, part in value.items()}


def _decode_key(key: object, kind: Annotation, place: str) -> object:
    """JSON spells every key as text."""
    if kind is not int:
        return decode(key, kind, f"a key of {place}")
    try:
        return int(cast(str, key))
    except ValueError:
        raise Malformed(f"a key of {place}", key, "a whole number") from None


def _decode_frame(value: object, place: str) -> pd.DataFrame:
    columns = _decode_dict(value, (str, list), place)
    if len({len(column) for column in columns.values()}) > 1:
        raise Malformed(place, value, "a table: its columns differ in length")
    return pd.DataFrame({name: [math.nan if cell is None else cell for cell in column] for name, column in columns.items()})


_HOLDING: dict[Annotation, Callable[[object, tuple[Annotation, ...], str], object]] = {
    list: _decode_list, tuple: _decode_tuple, dict: _decode_dict, cast(type, Mapping): _decode_dict
}  # fmt: skip


def _listed(value: object, place: str) -> list[object]:
    if not isinstance(value, list):
        raise Malformed(place, value, "a list")
    return value


def _checked(value: object, fits: bool, place: str, kind: Annotation) -> object:
    if not fits:
        raise Malformed(place, value, _name(kind))
    return value


def _name(kind: Annotation) -> str:
    return getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind).replace("typing.", "")


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def shown(value: object) -> str:
    """A value in a message: its `repr` in one line of at most 60 characters; of a tensor its type and shape."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, int) and abs(value) > 10**60:
        return "a number of over 60 digits"  # which Python may refuse to spell
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"
