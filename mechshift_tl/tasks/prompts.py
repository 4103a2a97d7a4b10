"""Prompts of your own as a task. A row is what `prompt_rows` says, a file of them what `prompt_files` says.

What a tokenizer cannot align is dropped, counted, and listed by `Prompts.dropped`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mechshift_tl.tasks import CATALOGUE, task_class
from mechshift_tl.tasks.data_files import shown
from mechshift_tl.tasks.examples import CannotAlign, Example, TextPair
from mechshift_tl.tasks.fields import Kind
from mechshift_tl.tasks.prompt_files import read_prompts
from mechshift_tl.tasks.prompt_rows import Row, listed, pair_of
from mechshift_tl.tasks.task import AGAIN, Split, Task, fitted
from mechshift_tl.tasks.token_ids import IdRow, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ONE_WORD = "prompt and answer would be one word: begin the answer with a space"


class Prompts(Task):
    """Your own prompts: mappings of texts as `prompt_rows` says, a table of them, or `TextPair`s. All are held out, in their order.

    - `name`: how results and folders call the task.
    - `like`: a task whose judge says which decoded answers are right, such as `Countdown()`; by default the answer alone is.
    - `places`: where each row stands, as messages and `dropped` say it.

    Raises ValueError, naming the row, on a row that is none, and on an answer that the judge finds wrong; TypeError on no rows at all.
    """

    def __init__(
        self, rows: Iterable[Row] | pd.DataFrame, *, name: str = "prompts", like: Task | None = None, places: Sequence[str] | None = None
    ) -> None:
        given = listed(rows)
        self._call(name, like)
        self.places = tuple(places or (f"Prompts, row {number}" for number in range(1, len(given) + 1)))
        self.rows = tuple(pair_of(row, where) for row, where in zip(given, self.places, strict=True))
        if like is not None:
            self._check_judged(like)

    def _call(self, name: str, like: Task | None) -> None:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"Prompts: the name is {name!r}; give one, such as 'capitals'")
        if like is not None and not isinstance(like, Task):
            raise TypeError(f"Prompts: like is {shown(like)}; give a task, such as Countdown()")
        self.name, self.like = name, like
        if like is not None:
            self.correct, self.dependency = like.correct, like.dependency

    @classmethod
    def from_file(cls, path: str | Path, *, name: str | None = None, like: Task | None = None) -> Prompts:
        """The rows of a CSV table or of JSON lines, and of every `prompts.csv` that a command wrote.

        `name` is by default the task that the file says it is of, or the file's own name without its ending; a task of ours also judges.
        Raises ValueError, naming the file and the row or line, on a file that cannot be read.
        """
        found = read_prompts(path)
        if like is None and found.task in CATALOGUE:
            like = task_class(found.task)()
        named = name or found.task or Path(path).stem
        if found.ids:
            return PromptsOfIds(found.ids, name=named, like=like)
        return cls(found.texts, name=named, like=like, places=found.places)

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """The rows, in their order; given rows are all held out."""
        yield from self.rows if split == "held_out" else ()

    def capacity(self, split: Split) -> int:
        """How many rows there are."""
        return len(self.places) if split == "held_out" else 0

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        """Drop a row whose answer, or foil, would continue the prompt's last word."""
        joined = _is_cased(pair.prompt[-1:]) and any(_is_cased(text[:1]) for text in (pair.answer, pair.foil))
        return ONE_WORD if joined else None

    def kinds(self, example: Example) -> list[frozenset[Kind]]:
        """Those of the task that judges; none without one."""
        return [] if self.like is None else self.like.kinds(example)

    def solved(self, example: Example, decoded: str) -> bool:
        """Whether the decoded text is a right answer; where another task judges, whether that finds it right."""
        if self.like is not None:
            return self.like.solved(example, decoded)
        return decoded.strip() in {text.strip() for text in (example.pair.answer, *example.pair.also_valid)}

    def dropped(self, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
        """The rows that this tokenizer leaves out: row, clean, reason."""
        task = self.under(tokenizer)
        seen: set[tuple[str, str]] = set()
        lines = []
        for where, pair in zip(task.places, task.rows, strict=True):
            asked = (pair.prompt, pair.suffix)
            reason = AGAIN if asked in seen else _reason(task, tokenizer, pair)
            if reason is None:
                seen.add(asked)
            else:
                lines.append((where, pair.prompt, reason))
        return pd.DataFrame(lines, columns=["row", "clean", "reason"])

    def under(self, tokenizer: PreTrainedTokenizerBase) -> Prompts:
        """Itself: its prompts are texts."""
        return self

    def _check_judged(self, like: Task) -> None:
        """Raise ValueError, naming the row, where the task that judges finds a row's own answer wrong."""
        for where, pair in zip(self.places, self.rows, strict=True):
            try:
                right = like.solved(Example((), (), 0, (), (), pair), pair.answer)
            except (ValueError, IndexError):
                right = False  # not even a prompt of that task
            if not right:
                raise ValueError(
                    f"{where}: {shown(pair.answer)} after {shown(pair.prompt[-40:])} is no right answer of task {like.name!r}; "
                    "correct it, or leave the task out"
                )


class PromptsOfIds(Prompts):
    """Prompts whose answers are token ids. Under a tokenizer they become `Prompts`, or are refused: see `token_ids`."""

    def __init__(self, ids: Sequence[IdRow], *, name: str, like: Task | None = None) -> None:
        # The texts are not known before a tokenizer is.
        self.ids, self.places, self.rows = tuple(ids), tuple(row.place for row in ids), ()
        self._call(name, like)

    def under(self, tokenizer: PreTrainedTokenizerBase) -> Prompts:
        """The same rows with their answers as texts. Raises ValueError, saying why, where the ids are not proved to be this tokenizer's."""
        rows = [
            {"clean": row.clean, "corrupted": row.corrupted, "answer": answer, "foil": foil}
            for row, (answer, foil) in zip(self.ids, texts_of(tokenizer, self.ids), strict=True)
        ]
        return Prompts(rows, name=self.name, like=self.like, places=self.places)


def _is_cased(letter: str) -> bool:
    """Whether this is a letter of a script that has capitals, and so writes spaces between words."""
    return letter.lower() != letter.upper()


def _reason(task: Task, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
    try:
        fitted(task, tokenizer, pair)
    except CannotAlign as error:
        return str(error)
    return None
