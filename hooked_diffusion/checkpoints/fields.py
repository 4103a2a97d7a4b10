"""Single fields of a config, read as the type that they must have.

A `config.json` may hold anything under any name. Each function here takes a config and the name of a field. It returns the value, or None
where the field is absent or null, and raises `WrongField` where the value is of another type.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

#: A config as it was read: field → any JSON value. Nothing is known of a value until one of these functions has read it.
Config = Mapping[str, object]


class WrongField(ValueError):
    """A field whose value cannot be used; the message names the config, the field and the value."""

    def __init__(self, where: str, name: str, value: object, wanted: str) -> None:
        super().__init__(f"{where} says {shown_name(name)} = {shown(value)}; give {wanted}")


def shown(value: object, most: int = 200) -> str:
    """A value for a message: its `repr`, cut after `most` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a whole number of more digits than Python writes
        text = f"a {type(value).__name__} that cannot be written out"
    return text if len(text) <= most else f"{text[:most]}…"


def shown_name(name: str, most: int = 100) -> str:
    """The name of a field for a message: as it is, or quoted and cut where it is long or would break the line."""
    return name if name.isprintable() and len(name) <= most else shown(name, most)


def text_in(config: Config, name: str, where: str = "the config") -> str | None:
    """A field that holds text."""
    value = config.get(name)
    if value is not None and not isinstance(value, str):
        raise WrongField(where, name, value, "text")
    return value


def texts_in(config: Config, name: str, where: str = "the config") -> tuple[str, ...]:
    """A field that holds a list of texts; empty where it is absent."""
    value = config.get(name)
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise WrongField(where, name, value, "a list of names")
    return tuple(value)


def flag_in(config: Config, name: str, where: str = "the config") -> bool | None:
    """A field that holds true or false."""
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise WrongField(where, name, value, "true or false")
    return value


def whole_in(config: Config, name: str, where: str = "the config", least: int = 0, most: int | None = None) -> int | None:
    """A field that holds a whole number, at least `least` and, where that is given, at most `most`."""
    value = config.get(name)
    if value is None:
        return None
    # To Python, true is the number 1.
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        raise WrongField(
            where, name, value, f"a whole number, at least {least}" if most is None else f"a whole number from {least} to {most}"
        )
    return value


def number_in(config: Config, name: str, where: str = "the config") -> float | None:
    """A field that holds a finite number above 0, in the type that it was given: an integer stays one."""
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value <= 0:
        raise WrongField(where, name, value, "a number above 0")
    return value


def object_in(config: Config, name: str, where: str = "the config") -> Config | None:
    """A field that holds fields of its own."""
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise WrongField(where, name, value, "an object: {…}")
    return value
