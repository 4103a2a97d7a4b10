"""Tables that fit the width of the terminal: one that is too wide is printed in parts, each with the columns that name its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

#: A column of texts is folded at this width where room is short.
FOLDED = 24
#: What lies between two columns.
GAP = 2


def tables(title: str, frame: pd.DataFrame, width: int) -> Iterator[Table]:
    """The tables of a frame, each at most `width` wide; floats to three decimals."""
    texts = {str(name): [_cell(value) for value in column] for name, column in frame.items()}
    numbers = {str(name) for name, column in frame.items() if all(isinstance(value, (int, float)) for value in column)}
    for part, names in enumerate(_parts(texts, numbers, width)):
        table = Table(title=title if not part else None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP, 0, 0))
        for name in names:
            table.add_column(_heading(name), justify="right" if name in numbers else "left", overflow="fold")
        for row in zip(*(texts[name] for name in names), strict=True):
            table.add_row(*row)
        yield table


def _parts(texts: dict[str, list[str]], numbers: set[str], width: int) -> list[list[str]]:
    """Which columns stand in each table. The first columns, as far as they are texts, name the rows and come again."""
    names = list(texts)
    keys = names[: next((i for i, name in enumerate(names) if name in numbers), 1)] or names[:1]
    room = width - sum(_width(name, texts[name]) + GAP for name in keys)
    parts, left = [keys[:]], room
    for name in names[len(keys) :]:
        need = _width(name, texts[name]) + GAP
        if need > left and len(parts[-1]) > len(keys):
            parts.append(keys[:])
            left = room
        parts[-1].append(name)
        left -= need
    return parts


def _width(name: str, cells: list[str]) -> int:
    """The least width of a column: its longest cell, folded, or the longest word of its heading."""
    return max(min(FOLDED, max(map(len, cells), default=0)), max(map(len, _heading(name).split()), default=0))


def _heading(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
