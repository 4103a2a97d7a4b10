"""Examples: clean/corrupt text pairs as aligned token rows.

`encode_pair` turns a text pair into an `Example`: two token rows of equal length whose answers stand at the same positions. `Examples` is a
sequence of them, all of one task.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion import artefact
from hooked_diffusion.html import card
from mechshift_tl.plotting import COLOURS, plain, style

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextPair:
    """A clean prompt with its answer, and a corrupt prompt of the same shape with its own.

    `foil` is the wrong answer to the clean prompt that a metric contrasts with `answer`. `group` names the kind of prompt.
    """

    prompt: str
    answer: str
    corrupt_prompt: str
    corrupt_answer: str
    foil: str
    group: str
    #: Other right answers to the clean prompt. Where the foil begins one of them, it is not wrong.
    also_valid: tuple[str, ...] = ()
    #: The text that stands after the answer, from its first space on. An MDM sees it; an ARM never does.
    suffix: str = ""
    corrupt_suffix: str = ""


@dataclass(frozen=True)
class Example:
    """One aligned pair of token rows: `clean` and `corrupt`, `(n_tokens,)`.

    `clean[answer_start:]` is the answer. `foil` and `readable` have the answer's length. `readable[i]` is False where the foil's token i is
    not wrong: it equals the answer's token, or continues another right answer. A logit difference there would mean nothing.
    `suffix` and `corrupt_suffix` follow the answer on the canvas, before any tail; they have equal lengths.
    """

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answer_start: int
    foil: tuple[int, ...]
    readable: tuple[bool, ...]
    pair: TextPair
    suffix: tuple[int, ...] = ()
    corrupt_suffix: tuple[int, ...] = ()

    @property
    def answer(self) -> tuple[int, ...]:
        """`(n_answer,)`: ids of the answer."""
        return self.clean[self.answer_start :]

    @property
    def group(self) -> str:
        """The kind of prompt, such as its template or its operators. Neuron views compare groups."""
        return self.pair.group


@dataclass(frozen=True)
class Examples(Sequence[Example]):
    """Examples of one task, and the tokenizer that made them. `dropped` counts the text pairs that were left out, by reason."""

    task: str
    rows: tuple[Example, ...]
    tokenizer: Any = field(repr=False, compare=False)  # a PreTrainedTokenizerBase, or None; Any, since no file holds one
    dropped: dict[str, int] = field(default_factory=dict)
    seed: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Examples({len(self)} of {self.task!r}, dropped {sum(self.dropped.values())}, seed={self.seed})"

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Examples: ...

    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        return self.rows[index]

    def select(self, indices: Sequence[int]) -> Examples:
        """The examples at `indices`, in that order."""
        return Examples(self.task, tuple(self.rows[i] for i in indices), self.tokenizer, self.dropped, self.seed)

    def to_dataframe(self) -> pd.DataFrame:
        """One line per example: its texts, its group, the length of its answer, and how many positions are read."""
        return pd.DataFrame(
            {
                "prompt": [e.pair.prompt for e in self.rows],
                "answer": [e.pair.answer for e in self.rows],
                "corrupt_prompt": [e.pair.corrupt_prompt for e in self.rows],
                "foil": [e.pair.foil for e in self.rows],
                "group": [e.group for e in self.rows],
                "answer_tokens": [len(e.answer) for e in self.rows],
                "positions_read": [sum(e.readable) for e in self.rows],
            }
        )

    def write_csv(self, path: str | Path) -> None:
        """Write `path` (CSV): `to_dataframe`, and what `Prompts.from_file` needs to make the same examples under the same tokenizer."""
        pairs = [e.pair for e in self.rows]
        further = {name: [getattr(pair, name) for pair in pairs] for name in ("corrupt_answer", "suffix", "corrupt_suffix")}
        also = [json.dumps(pair.also_valid, ensure_ascii=False) if pair.also_valid else "" for pair in pairs]
        self.to_dataframe().assign(**further, also_valid=also, task=self.task).to_csv(path, index=False)

    def save(self, path: str | Path) -> None:
        """Write `path` (JSON): everything except the tokenizer."""
        artefact.write_json(path, artefact.encode({name: value for name, value in vars(self).items() if name != "tokenizer"}))

    @classmethod
    def load(cls, path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Examples:
        """Read what `save` wrote; pass the tokenizer that made the examples where it is needed. Raises ValueError on another file."""
        values = artefact.read_json(path, "Examples.save")
        return artefact.rebuilt(path, cls, lambda: artefact.build(cls, values | {"tokenizer": tokenizer}))

    def figure(self) -> go.Figure:
        """How many examples each prompt group has."""
        counts = Counter(one.group for one in self.rows)
        names = [plain(name) for name in counts]
        figure = go.Figure(go.Bar(x=list(counts.values()), y=names, orientation="h", marker_color=COLOURS["control"]))
        figure.update_xaxes(title_text=f"examples of {plain(self.task)}")
        figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
        return style(figure, 110 + 22 * max(2, len(names)))

    def _repr_html_(self) -> str:
        return card(self.task, f"{len(self)} examples, dropped {self.dropped or 'none'}", self.to_dataframe().head(5))


class CannotAlign(ValueError):
    """A text pair that does not align under this tokenizer. The message is the reason, under which `Examples.dropped` counts the pair."""


def split_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> tuple[tuple[int, ...], int]:
    """Ids of `prompt + answer`, and the index of the answer's first token, which ends inside the answer; its length where none does."""
    encoded = tokenizer(prompt + answer, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    eos = tokenizer.eos_token_id
    if len(ids) > 1 and ids[-1] == eos and offsets[-1][0] == offsets[-1][1]:
        ids, offsets = ids[:-1], offsets[:-1]  # this tokenizer adds an end of text; the answer does not end there
    # Spaces at the end of a prompt may join the answer's first token, so they do not count as prompt.
    start = next((i for i, (_, end) in enumerate(offsets) if end > len(prompt.rstrip(" "))), len(ids))
    return tuple(ids), start


def encode_pair(tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> Example:
    """The `Example` that a text pair becomes under a tokenizer.

    Raises `CannotAlign` where clean and corrupt differ in length, where answer and foil do, where a word is not in the vocabulary, where
    answer and suffix share a token, and where no position can be read.
    """
    clean, start = split_answer(tokenizer, pair.prompt, pair.answer)
    corrupt, corrupt_start = split_answer(tokenizer, pair.corrupt_prompt, pair.corrupt_answer)
    with_foil, foil_start = split_answer(tokenizer, pair.prompt, pair.foil)
    foil = with_foil[foil_start:]
    answer = clean[start:]
    if foil_start != start or len(foil) != len(answer):
        raise CannotAlign("answer and foil differ in length")
    if len(clean) != len(corrupt) or start != corrupt_start:
        raise CannotAlign("clean and corrupt differ in length")
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown != tokenizer.eos_token_id and unknown in clean + corrupt + foil:
        raise CannotAlign("a word is not in the vocabulary")
    valid = {answer} | {(r := split_answer(tokenizer, pair.prompt, text))[0][r[1] :] for text in pair.also_valid}
    begins = {text[: i + 1] for text in valid for i in range(len(text))}
    readable = tuple(a != f and answer[:i] + (f,) not in begins for i, (a, f) in enumerate(zip(answer, foil, strict=True)))
    if not any(readable):
        raise CannotAlign("no position where the foil is wrong")
    suffix = _suffix(tokenizer, pair.prompt + pair.answer, pair.suffix, clean)
    corrupt_suffix = _suffix(tokenizer, pair.corrupt_prompt + pair.corrupt_answer, pair.corrupt_suffix, corrupt)
    if len(suffix) != len(corrupt_suffix):
        raise CannotAlign("clean and corrupt differ in length")
    if unknown is not None and unknown != tokenizer.eos_token_id and unknown in suffix + corrupt_suffix:
        raise CannotAlign("a word is not in the vocabulary")
    return Example(clean, corrupt, start, foil, readable, pair, suffix, corrupt_suffix)


def _suffix(tokenizer: PreTrainedTokenizerBase, text: str, suffix: str, before: tuple[int, ...]) -> tuple[int, ...]:
    """Ids of `suffix` behind `text`, whose own ids are `before`. Raises `CannotAlign` where the two share a token."""
    if not suffix:
        return ()
    whole, _ = split_answer(tokenizer, text, suffix)
    if whole[: len(before)] != before:
        raise CannotAlign("the answer and what follows it share a token")
    return whole[len(before) :]
