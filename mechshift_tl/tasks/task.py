"""What a task is: clean/corrupt text pairs that become aligned token rows.

1. A task draws *text pairs*: a clean prompt with its answer, and a corrupt prompt of the same shape whose answer is the foil.
2. `encode_pair` turns one into an `Example`: two rows of equal length whose answers occupy the same positions.
3. `examples` collects `n` of them, drops what the tokenizer cannot align, and counts what it dropped.

The same examples serve every model of a pair; how a model reads them is decided in `mechshift_tl.readouts`.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import pandas as pd

from mechshift_tl import artefact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Split = Literal["train", "held_out"]
HELD_OUT_PERCENT = 10


def is_held_out(key: str, percent: int = HELD_OUT_PERCENT) -> bool:
    """Whether `key` belongs to the held-out split: a seeded hash, the same on every machine and in every process."""
    digest = hashlib.sha256(f"mechshift-tl:{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < percent


def in_split(key: str, split: Split) -> bool:
    """Whether `key` is in `split`."""
    return is_held_out(key) == (split == "held_out")


@dataclass(frozen=True)
class TextPair:
    """A clean prompt and answer beside a corrupt prompt of the same shape; `foil` is the wrong answer."""

    prompt: str
    answer: str
    corrupt_prompt: str
    corrupt_answer: str
    foil: str
    group: str
    #: Texts that also answer the clean prompt; a foil that begins one of them is not a foil there.
    also_valid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """One aligned pair of token rows.

    `clean[answer_start:]` is the answer; `foil` has the answer's length. `readable[i]` is False where answer and foil
    coincide or where the foil would also begin a valid answer: a logit difference there means nothing.
    """

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answer_start: int
    foil: tuple[int, ...]
    readable: tuple[bool, ...]
    pair: TextPair

    @property
    def answer(self) -> tuple[int, ...]:
        """Ids of the answer, `(n_answer,)`."""
        return self.clean[self.answer_start :]

    @property
    def group(self) -> str:
        """The prompt group (template, operators): what neuron views compare."""
        return self.pair.group


@dataclass(frozen=True)
class Examples(Sequence[Example]):
    """Examples of one task, with the tokenizer that made them and a count of what was dropped, by reason."""

    task: str
    rows: tuple[Example, ...]
    tokenizer: Any = field(repr=False, compare=False)
    dropped: dict[str, int] = field(default_factory=dict)
    seed: int = 0

    def __len__(self) -> int:
        return len(self.rows)

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
        """One row per example: texts, group, answer length and positions read."""
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

    def save(self, path: str | Path) -> None:
        """Write `path` (JSON): everything but the tokenizer."""
        rows = [vars(one) | {"pair": vars(one.pair)} for one in self.rows]
        artefact.write_json(path, {"task": self.task, "rows": rows, "dropped": self.dropped, "seed": self.seed})

    @classmethod
    def load(cls, path: str | Path, tokenizer: Any = None) -> Examples:
        """Read what `save` wrote; the tokenizer that made them is the caller's to give. Raises ValueError on another file."""
        side = artefact.read_json(path, "Examples.save", "task", "rows", "dropped", "seed")
        rows = tuple(Example(**_tuples(row | {"pair": TextPair(**_tuples(row["pair"]))})) for row in side["rows"])
        return cls(side["task"], rows, tokenizer, side["dropped"], side["seed"])

    def _repr_html_(self) -> str:
        return f"<b>{self.task}</b>: {len(self)} examples, dropped {self.dropped or 'none'}" + (
            self.to_dataframe().head(5).to_html(index=False)
        )


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists alone."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


class CannotAlign(ValueError):
    """A text pair whose clean and corrupt rows do not line up under this tokenizer; the message is the reason counted."""


def split_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> tuple[tuple[int, ...], int]:
    """Ids of `prompt + answer` and the index of the answer's first token (the first one that ends inside the answer)."""
    encoded = tokenizer(prompt + answer, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    eos = tokenizer.eos_token_id
    if len(ids) > 1 and ids[-1] == eos and offsets[-1][0] == offsets[-1][1]:
        ids, offsets = ids[:-1], offsets[:-1]  # a tokenizer that closes the row by itself
    start = next(i for i, (_, end) in enumerate(offsets) if end > len(prompt.rstrip(" ")))
    return tuple(ids), start


def encode_pair(tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> Example:
    """Tokenise a text pair into an `Example`.

    Raises `CannotAlign` where the two rows, or answer and foil, differ in length, or where no position can be read.
    """
    clean, start = split_answer(tokenizer, pair.prompt, pair.answer)
    corrupt, corrupt_start = split_answer(tokenizer, pair.corrupt_prompt, pair.corrupt_answer)
    if len(clean) != len(corrupt) or start != corrupt_start:
        raise CannotAlign("clean and corrupt differ in length")
    with_foil, foil_start = split_answer(tokenizer, pair.prompt, pair.foil)
    foil = with_foil[foil_start:]
    answer = clean[start:]
    if foil_start != start or len(foil) != len(answer):
        raise CannotAlign("answer and foil differ in length")
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown != tokenizer.eos_token_id and unknown in clean + corrupt + foil:
        raise CannotAlign("a word is not in the vocabulary")
    valid = {answer} | {(r := split_answer(tokenizer, pair.prompt, text))[0][r[1] :] for text in pair.also_valid}
    begins = {text[: i + 1] for text in valid for i in range(len(text))}
    readable = tuple(a != f and answer[:i] + (f,) not in begins for i, (a, f) in enumerate(zip(answer, foil, strict=True)))
    if not any(readable):
        raise CannotAlign("no position where the foil is wrong")
    return Example(clean, corrupt, start, foil, readable, pair)


class Task(ABC):
    """A behaviour to explain. A subclass draws text pairs and judges decoded answers; all else is shared."""

    name: str

    @abstractmethod
    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """Distinct text pairs of `split`, in an order that `rng` decides; ends when there are no more."""

    @abstractmethod
    def solved(self, example: Example, decoded: str) -> bool:
        """Whether the decoded answer text is right for the clean prompt."""

    def capacity(self, split: Split) -> int | None:
        """The most text pairs that `draw` can give, where that is known beforehand."""
        return None

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        """A reason to drop `pair` under this tokenizer, or None. Task-specific; the default keeps everything."""
        return None

    def examples(self, tokenizer: PreTrainedTokenizerBase, n: int | None, seed: int = 0, *, split: Split = "held_out") -> Examples:
        """`n` clean/corrupt pairs of equal length with aligned answers, from the held-out split by default.

        `n=None` takes all there are. Raises ValueError when the task cannot make `n`, saying how many it can.
        """
        if n is not None and n < 1:
            raise ValueError(f"task {self.name!r}: n must be at least 1, got {n}")
        most = self.capacity(split)
        if n is not None and most is not None and n > most:
            raise ValueError(f"task {self.name!r} can make at most {most} {split} examples, not {n}; ask for fewer, or widen its settings")
        kept: list[Example] = []
        dropped: Counter[str] = Counter()
        for pair in self.draw(random.Random(f"{self.name}:{split}:{seed}"), split):
            reason = self.screen(tokenizer, pair)
            if reason is None:
                try:
                    kept.append(encode_pair(tokenizer, pair))
                except CannotAlign as error:
                    reason = str(error)
            if reason is not None:
                dropped[reason] += 1
            if n is not None and len(kept) == n:
                break
        if not kept or (n is not None and len(kept) < n):
            detail = "".join(f"; dropped {count}: {reason}" for reason, count in dropped.items())
            raise ValueError(
                f"task {self.name!r} can make {len(kept)} {split} examples with this tokenizer, not {n or 'any'}{detail}. "
                "Ask for fewer, or widen the task's settings."
            )
        return Examples(self.name, tuple(kept), tokenizer, dict(dropped), seed)

    def accuracy(self, model: Any, examples: Examples, *, batch_tokens: int = 8192) -> float:
        """Share of examples in [0, 1] whose freely decoded answer is right; see `mechshift_tl.decoding.decode_answers`."""
        from mechshift_tl.decoding import decode_answers  # the readers import tasks, so the import waits

        decoded = decode_answers(model, examples, batch_tokens=batch_tokens)
        return sum(self.solved(e, text) for e, text in zip(examples, decoded, strict=True)) / len(examples)
