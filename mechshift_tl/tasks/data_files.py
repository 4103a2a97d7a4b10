"""Files of prompts that people have: CSV tables and JSON lines, read as text or refused in one sentence.

Such a sentence names the file, the row or line, what stands there, and what to do. A table may be separated by commas, semicolons or tabs,
and may begin with a byte order mark, as spreadsheets write it. Text must be UTF-8: a guess at another encoding would change letters
silently.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

#: The largest file of prompts that is read.
MAX_BYTES = 64 * 2**20
DELIMITERS = (",", ";", "\t")
WIDE = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: str | Path) -> str:
    """The text of an ordinary UTF-8 file, without its byte order mark.

    Raises ValueError on a folder, a pipe or a device, on a file that is missing, too large or not UTF-8.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a file of prompts")
    if not path.is_file():
        raise ValueError(f"{path} is a folder, a pipe or a device; write the prompts to a file, and give that")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20}; give fewer prompts")
    content = path.read_bytes()
    if content.startswith(WIDE):
        raise ValueError(f"{path} is encoded in UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8 (Latin-1?); save the file as UTF-8"
        ) from error


def csv_rows(path: str | Path, columns: tuple[str, ...], *others: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row of a CSV file stands, "x.csv, row 2", and its cells by column; row 1 is the header.

    A file without the `columns` may have those of one of the `others` instead.

    Raises ValueError as `read_text` does, on a file without one of the `columns`, and on a row with other cells than the header.
    """
    text = read_text(path)
    header, rows = _table(path, text, columns, *others)
    needed = next(one for one in (columns, *others) if set(one) <= set(header))
    for number, cells in enumerate(rows, 2):
        where = f"{path}, row {number}"
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise ValueError(f'{where} has {len(cells)} cells, but the header has {len(header)}; put a sentence with commas in "quotes"')
        row = dict(zip(header, cells, strict=True))
        for column in needed:
            if not row[column].strip():
                raise ValueError(f"{where}: the cell {column!r} is empty; write a prompt there, or leave the row out")
        yield where, row


def _table(path: str | Path, text: str, *layouts: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, by the first delimiter that gives all columns of a layout. Raises ValueError, naming what is missing, where
    none does."""
    try:
        tables = [list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)) for delimiter in DELIMITERS]
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV table ({error}); save it as CSV again") from error
    headers = [[name.strip() for name in table[0]] if table else [] for table in tables]
    for columns, (header, table) in product(layouts, zip(headers, tables, strict=True)):
        if set(columns) <= set(header):
            if twice := [name for name in columns if header.count(name) > 1]:
                raise ValueError(f"{path} has the column {twice[0]!r} twice; keep one of them")
            return header, table[1:]
    seen = max(headers, key=len)
    missing = sorted(set(layouts[0]) - set(seen))
    there = repr(", ".join(seen))[1:-1]  # on one line, whatever the header holds
    raise ValueError(f"{path}: no column {', '.join(missing)}; it has {there[:200] or 'no header'}")


def json_lines(path: str | Path, keys: tuple[str, ...], optional: tuple[str, ...] = ()) -> tuple[list[tuple[str, dict[str, str]]], int]:
    """Where each line of a JSON-lines file stands, "x.jsonl, line 2", and its texts under `keys`, and under `optional` ones where they are
    there; and how many header lines were left out.

    A first line that is valid JSON but has none of the keys is a header. Empty lines do not count. Raises ValueError as `read_text` does,
    and on any other line that is no JSON object with a text under each key.
    """
    found, headers = [], 0
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _parsed(line, where, keys)
        if not found and not headers and not (isinstance(row, dict) and set(keys) & set(row)):
            headers = 1
            continue
        if not isinstance(row, dict):
            raise ValueError(f"{where}: {shown(line)} is no JSON object; write {_sample(keys)}")
        there = (*keys, *(key for key in optional if row.get(key) is not None))
        for key in there:
            if not isinstance(row.get(key), str):
                raise ValueError(f"{where}: {key!r} is {shown(row.get(key))}, not a text; write {_sample(keys)}")
        found.append((where, {key: row[key] for key in there}))
    return found, headers


def _parsed(line: str, where: str, keys: tuple[str, ...]) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {shown(line)} is no JSON; write {_sample(keys)}") from error


def _sample(keys: tuple[str, ...]) -> str:
    return "{" + ", ".join(f'"{key}": "…"' for key in keys) + "}"


def shown(value: object) -> str:
    """A value as a message shows it: on one line, and not too long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
