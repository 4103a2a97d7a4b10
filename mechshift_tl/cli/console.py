"""What a command prints, and how: tables, stages, notes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

console = Console(markup=False)  # what is printed may hold brackets of its own


def print_frame(title: str, frame: pd.DataFrame) -> None:
    """Print a table; floats to three decimals."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for name, column in frame.items():
        right = all(isinstance(value, (int, float)) for value in column)
        table.add_column(str(name), justify="right" if right else "left", overflow="fold", no_wrap=str(name).startswith(("ARM", "name")))
    for values in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values))
    console.print(table)


def print_notes(notes: Iterable[str]) -> None:
    """Print what a user must know beside the numbers."""
    for note in notes:
        console.print(f"Note: {note}")


def print_stage(status: Any, stage: str) -> None:
    """Print a stage of a long job as it starts, and show it beside the spinner."""
    console.print(f"· {stage}", style="dim")
    status.update(stage)
