"""Is an argument of the kind that a function takes? If not, one sentence says what was given and what to give."""

from __future__ import annotations


def check_kind(caller: str, name: str, value: object, kind: type | tuple[type, ...], remedy: str) -> None:
    """Raise TypeError unless `value` is a `kind`: it names `caller`, the argument, what was given, and `remedy`, what to give."""
    if not isinstance(value, kind):
        raise TypeError(f"{caller}: {name} is a {type(value).__name__}; give {remedy}")
