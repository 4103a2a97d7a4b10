"""Rows that a model trains on: tokens, the part that a task asks for, and, in packed rows, which text a token belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

#: The segment of positions that fill a packed row up.
PADDING = -1


@dataclass(frozen=True)
class Text:
    """A text to train on: `tokens (pos,)` and `is_answer (pos,)`, True at the part that counts."""

    tokens: tuple[int, ...]
    is_answer: tuple[bool, ...]


@dataclass(frozen=True)
class Rows:
    """Token rows of one length.

    - `tokens`: `(batch, pos)`.
    - `is_answer`: `(batch, pos)`, True at the part that a task asks for; all True where the whole text counts.
    - `segment`: `(batch, pos)`, the number of the text that a token belongs to, −1 at padding; None where a row is one text. Texts of one
      row do not see each other.
    """

    tokens: Int[Tensor, "batch pos"]
    is_answer: Bool[Tensor, "batch pos"]
    segment: Int[Tensor, "batch pos"] | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Rows:
        """Some of the rows."""
        return Rows(self.tokens[index], self.is_answer[index], None if self.segment is None else self.segment[index])

    def to(self, device: torch.device) -> Rows:
        """The same rows on a device."""
        return Rows(self.tokens.to(device), self.is_answer.to(device), None if self.segment is None else self.segment.to(device))

    @cached_property
    def visible(self) -> Bool[Tensor, "batch pos"]:
        """`(batch, pos)`: True except at padding."""
        return torch.ones_like(self.is_answer) if self.segment is None else self.segment != PADDING

    @cached_property
    def text(self) -> Int[Tensor, "batch pos"]:
        """`(batch, pos)`: the number of the text, counted from 0 through all rows; padding has the number of some text of its row."""
        batch = torch.arange(len(self), device=self.tokens.device)[:, None]
        if self.segment is None:
            return batch.expand_as(self.tokens)
        segment = self.segment.clamp(min=0)
        return (batch * (int(segment.max()) + 1) + segment).unique(return_inverse=True)[1]

    @cached_property
    def n_texts(self) -> int:
        """How many texts there are."""
        return int(self.text.max()) + 1

    @cached_property
    def place(self) -> Int[Tensor, "batch pos"]:
        """`(batch, pos)`: a token's position in its own text."""
        at = torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        if self.segment is None:
            return at
        begins = torch.ones_like(self.is_answer)
        begins[:, 1:] = self.segment[:, 1:] != self.segment[:, :-1]
        return at - torch.where(begins, at, 0).cummax(1).values


#: What a step trains on: batches of one length each, drawn by the step's own generator.
RowSource = Callable[[Generator], Sequence[Rows]]


def pack(texts: Sequence[Text], length: int, padding: int) -> Rows:
    """Texts put behind one another into rows of `length`, each into the first row that has room; `padding` is a token id.

    Raises ValueError on a text longer than a row, and where there is none.
    """
    if not texts:
        raise ValueError("pack: there are no texts; give at least one")
    members: list[list[Text]] = []
    room: list[int] = []
    for index, text in enumerate(texts):
        if len(text.tokens) > length:
            raise ValueError(f"pack: text {index} has {len(text.tokens)} tokens, a row {length}; give longer rows, or cut the text")
        row = next((i for i, left in enumerate(room) if left >= len(text.tokens)), len(room))
        if row == len(room):
            members.append([])
            room.append(length)
        members[row].append(text)
        room[row] -= len(text.tokens)
    return Rows(*(torch.tensor(column) for column in zip(*(_row(row, length, padding) for row in members), strict=True)))


def _row(texts: Sequence[Text], length: int, padding: int) -> tuple[list[int], list[bool], list[int]]:
    """Tokens, what is answer, and segments of one packed row."""
    tokens = [token for text in texts for token in text.tokens]
    answers = [answer for text in texts for answer in text.is_answer]
    segments = [segment for segment, text in enumerate(texts) for _ in text.tokens]
    fill = length - len(tokens)
    return tokens + [padding] * fill, answers + [False] * fill, segments + [PADDING] * fill
