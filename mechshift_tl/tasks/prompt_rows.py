"""A row of your own prompts as a text pair.

A row has, as texts:

- `clean`, `corrupted`: the two prompts, which should have equal numbers of tokens;
- `answer`: what follows the clean prompt, its first space included, of one or more tokens; `foil`: a wrong answer, as long;
- `group` (optional): the kind of prompt; neuron views compare groups;
- `suffix` (optional): what stands behind the answer, for infilling; `corrupt_suffix`: behind the corrupt one, by default the same;
- `corrupt_answer` (optional): the corrupt prompt's own answer, by default the foil;
- `also_valid` (optional): a list of other right answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from mechshift_tl.tasks.data_files import shown
from mechshift_tl.tasks.examples import TextPair

Row = Mapping[str, object] | TextPair
NEEDED = ("clean", "corrupted", "answer", "foil")
FURTHER = ("group", "suffix", "corrupt_answer", "corrupt_suffix")
ENTRIES = (*NEEDED, *FURTHER, "also_valid")
#: The group of a row that names none.
ALL = "all"


def listed(rows: Iterable[Row] | pd.DataFrame) -> list[Row]:
    """The rows one by one; of a table, without its missing cells. Raises TypeError on what holds no rows, ValueError on none."""
    if isinstance(rows, (str, Path, Mapping)) or not isinstance(rows, (pd.DataFrame, Iterable)):
        raise TypeError(f"Prompts: rows is a {type(rows).__name__}; give a list of rows, or read a file by Prompts.from_file(path)")
    if isinstance(rows, pd.DataFrame):
        # NaN is the one value that does not equal itself.
        rows = [{str(key): value for key, value in row.items() if value == value} for row in rows.to_dict("records")]
    found = list(rows)
    if not found:
        raise ValueError(f"Prompts: there are no rows; a row has {', '.join(NEEDED)}")
    return found


def pair_of(row: Row, where: str) -> TextPair:
    """The text pair of a row. Raises ValueError, naming row and entry, on an entry that is missing, unknown or no text."""
    if isinstance(row, TextPair):
        return row
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is {shown(row)}; give a mapping with {', '.join(NEEDED)}, or a TextPair")
    given = {str(key): value for key, value in row.items() if value is not None}
    also = given.pop("also_valid", ())
    if not isinstance(also, (tuple, list)) or not all(isinstance(text, str) and text for text in also):
        raise ValueError(f"{where}: also_valid is {shown(also)}; give a list of texts")
    texts = {key: _text(key, value, where) for key, value in given.items()}
    if missing := [key for key in NEEDED if key not in texts]:
        raise ValueError(f"{where} has no {' and no '.join(missing)}; a row has {', '.join(NEEDED)}")
    suffix, foil = texts.get("suffix", ""), texts["foil"]
    return TextPair(
        prompt=texts["clean"], answer=texts["answer"], corrupt_prompt=texts["corrupted"],
        corrupt_answer=texts.get("corrupt_answer") or foil, foil=foil, group=texts.get("group") or ALL, also_valid=tuple(also),
        suffix=suffix, corrupt_suffix=texts.get("corrupt_suffix") or suffix,
    )  # fmt: skip


def _text(key: str, value: object, where: str) -> str:
    """The text under a key. Raises ValueError on a key that no row has, and on anything but a text."""
    if key not in ENTRIES:
        near = get_close_matches(key, ENTRIES, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"a row has {', '.join(ENTRIES)}"
        raise ValueError(f"{where}: there is no entry {shown(key)}; {meant}")
    if not isinstance(value, str) or (key in NEEDED and not value.strip()):
        raise ValueError(f"{where}: {key} is {shown(value)}; give a text")
    return value
