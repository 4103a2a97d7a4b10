"""A result in one line: its class, and of each field as much as fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pandas as pd
from torch import Tensor

#: The most letters of a field, and of the line.
FIELD, LINE = 40, 160


def brief(result: Any) -> str:
    """A dataclass as `Name(field=…, …)` in at most `LINE` letters: of a tensor its shape, of a table or a list its length."""
    shown = [f"{one.name}={_field(getattr(result, one.name))}" for one in fields(result) if one.repr]
    text = f"{type(result).__name__}({', '.join(shown)})"
    return text if len(text) <= LINE else f"{text[: LINE - 2]}…)"


def _field(value: object) -> str:
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    if isinstance(value, pd.DataFrame):
        return f"table of {len(value)} rows"
    text = repr(value)
    if len(text) <= FIELD:
        return text
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return f"{len(value)} {type(value).__name__} entries" if isinstance(value, Mapping) else f"{len(value)} entries"
    return f"{text[: FIELD - 1]}…"
