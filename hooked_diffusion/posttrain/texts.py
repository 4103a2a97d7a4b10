"""Texts to train on, from prompts with answers, files and datasets: tokens, and which of them count.

- Prompts with answers: the answer counts, and the end of text behind it.
- Whole texts (`.txt`, or `"text"` in JSON lines): documents, each closed by the end of text, are put behind one another and cut into
  pieces of one length; every token counts.
- JSON lines and `datasets`: an object has `"text"`, or `"prompt"` and `"answer"`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transformers import PreTrainedTokenizerBase

from hooked_diffusion.posttrain.rows import Text

if TYPE_CHECKING:
    from datasets import Dataset


def answered(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], end: int) -> list[Text]:
    """(prompt, answer) or (prompt, answer, suffix) as texts closed by `end`, which counts as answer unless a suffix stands before it."""
    if not texts:
        return []
    ids = tokenizer(["".join(text) for text in texts])["input_ids"]
    # Spaces at the end of a prompt may join the answer's first token, so they do not count as prompt.
    starts = [len(row) for row in tokenizer([text[0].rstrip(" ") for text in texts])["input_ids"]]
    stops = [len(row) for row in tokenizer(["".join(text[:2]) for text in texts])["input_ids"]]
    made = []
    for row, start, stop in zip(ids, starts, stops, strict=True):
        last = stop + (stop == len(row))
        made.append(Text((*row, end), tuple(start <= place < last for place in range(len(row) + 1))))
    return made


def cut(tokenizer: PreTrainedTokenizerBase, documents: Iterable[str], length: int, end: int) -> list[Text]:
    """Documents, each closed by `end`, behind one another in pieces of `length` tokens, all of which count; the rest is left out."""
    stream = [token for document in documents for token in (*tokenizer(document, add_special_tokens=False)["input_ids"], end)]
    pieces = [tuple(stream[at : at + length]) for at in range(0, len(stream) - length + 1, length)]
    return [Text(piece, (True,) * length) for piece in pieces]


def read_texts(paths: Sequence[str | Path], tokenizer: PreTrainedTokenizerBase, length: int, end: int) -> list[Text]:
    """The texts of files: `.jsonl` holds an object per line, any other file is one document.

    Raises ValueError, naming file and line, on a file that is missing, is not UTF-8, or holds something else, and on data shorter than a
    row.
    """
    rows: list[Mapping[str, object]] = []
    for path in map(Path, paths):
        text = _read(path)
        rows += _json_lines(path, text) if path.suffix == ".jsonl" else [{"text": text}]
    return from_records(rows, tokenizer, length, end, ", ".join(map(str, paths)))


def from_records(
    records: Iterable[Mapping[str, object]] | Dataset, tokenizer: PreTrainedTokenizerBase, length: int, end: int, name: str = "data"
) -> list[Text]:
    """The texts of records, or of the rows of a `datasets.Dataset`.

    Raises ValueError, naming the record, on one without texts, on an answered text longer than a row, and where all of them are shorter.
    """
    documents: list[str] = []
    pairs: list[tuple[str, ...]] = []
    for number, record in enumerate(cast("Iterable[Mapping[str, object]]", records), 1):
        whole, prompt, answer = (record.get(key) for key in ("text", "prompt", "answer"))
        if isinstance(whole, str):
            documents.append(whole)
        elif isinstance(prompt, str) and isinstance(answer, str):
            pairs.append((prompt, answer))
        else:
            raise ValueError(f'{name}, record {number}: it has {", ".join(record)}; give a "text", or a "prompt" and an "answer"')
    made = [*answered(tokenizer, pairs, end), *cut(tokenizer, documents, length, end)]
    longest = max((len(text.tokens) for text in made), default=0)
    if longest > length:
        raise ValueError(f"{name}: a prompt with its answer has {longest} tokens, a row {length}; ask for longer rows")
    if not made:
        raise ValueError(f"{name}: all of it is shorter than a row of {length} tokens; give more text, or ask for shorter rows")
    return made


def _read(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is no file; give text files or JSON lines")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _json_lines(path: Path, text: str) -> list[Mapping[str, object]]:
    rows: list[Mapping[str, object]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f'{path}, line {number} holds no object; write {{"text": "…"}}')
        rows.append(row)
    return rows
