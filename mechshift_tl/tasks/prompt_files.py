"""Files of your own prompts. Three layouts are known by their columns:

1. `clean, corrupted, answer, foil`, and what else `prompt_rows` names: a CSV table or JSON lines;
2. `prompt, corrupt_prompt, answer, foil, …`: the `prompts.csv` that commands write, which also says what task it is of;
3. `clean, corrupted, correct_idx, incorrect_idx`: EAP-IG's, whose answers are token ids of some tokenizer (`token_ids`).

Other columns are ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mechshift_tl.tasks.data_files import csv_rows, json_lines, read_text, shown
from mechshift_tl.tasks.prompt_rows import FURTHER, NEEDED
from mechshift_tl.tasks.token_ids import IDS, IdRow, token_id

WRITTEN = {"clean": "prompt", "corrupted": "corrupt_prompt"}
#: The columns of a table that a command wrote.
OURS = tuple(WRITTEN.get(name, name) for name in NEEDED)
EAP_IG = ("clean", "corrupted", *IDS)


@dataclass(frozen=True)
class PromptFile:
    """A file's rows, either `texts` or `ids`; where each stands; and the task that the file says it is of, or ""."""

    places: tuple[str, ...]
    texts: tuple[dict[str, object], ...]
    ids: tuple[IdRow, ...]
    task: str


def has_answers(path: str | Path) -> bool:
    """Whether a file has answers and foils as texts. Raises ValueError on a file that cannot be read."""
    text = read_text(path)
    first = text.lstrip().split("\n", 1)[0]
    return all(name in first for name in ("answer", "foil"))


def read_prompts(path: str | Path) -> PromptFile:
    """The rows of a file in any of the layouts. Raises ValueError, naming the file and the row or line, on a file that is none of them."""
    if read_text(path).lstrip().startswith(("{", "[")):
        lines, _ = json_lines(path, NEEDED, (*FURTHER, "task"))
    else:
        lines = list(csv_rows(path, NEEDED, OURS, EAP_IG))
    if not lines:
        raise ValueError(f"{path} holds no prompts; write at least one")
    places, rows = zip(*lines, strict=True)
    of_ids = "answer" not in rows[0]
    told = {row.get("task", "") for row in rows}
    return PromptFile(
        places,
        () if of_ids else tuple(_row(row, where) for where, row in lines),
        tuple(_id_row(row, where) for where, row in lines) if of_ids else (),
        told.pop() if len(told) == 1 else "",
    )


def _row(cells: dict[str, str], where: str) -> dict[str, object]:
    """A row of `prompt_rows` of the cells of a file; empty ones are left out."""
    named = {name: cells.get(name) or cells.get(WRITTEN.get(name, name)) for name in (*NEEDED, *FURTHER)}
    row: dict[str, object] = {name: cell for name, cell in named.items() if cell}
    if cells.get("also_valid"):
        row["also_valid"] = _texts(cells["also_valid"], where)
    return row


def _id_row(cells: dict[str, str], where: str) -> IdRow:
    correct, incorrect = (token_id(cells[name], f"{where}: {name}") for name in IDS)
    return IdRow(cells["clean"], cells["corrupted"], correct, incorrect, where)


def _texts(cell: str, where: str) -> object:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{where}: also_valid is {shown(cell)}; write a JSON list of texts, such as [" 42", " 43"]') from error
