"""Answers as token ids, as EAP-IG writes them: read where the rows prove that the ids are those of the tokenizer at hand.

An id says nothing by itself: under another tokenizer it is another word. The rows must prove it, in two steps:

1. Every id stands for a text that, behind its clean prompt, becomes that one token again.
2. By chance this would be rare. Either of two chances must be below `CHANCE`: that so many different ids pass step 1 when a share p of the
   vocabulary around them does, pᵏ; or that so many answers stand in their own prompts, as in IOI (binomial).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.stats import binom

from mechshift_tl.tasks.data_files import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IDS = ("correct_idx", "incorrect_idx")
#: The greatest chance at which ids of another tokenizer would look as right.
CHANCE = 1e-3
#: Neighbouring ids that tell how rare it is to pass.
SAMPLE = 200
REMEDY = "write the answers as texts, in columns answer and foil; sentences of IOI also open by --task ioi --data FILE"


@dataclass(frozen=True)
class IdRow:
    """A row of the layout: two prompts, the ids of the right and the wrong next token, and where it stands."""

    clean: str
    corrupted: str
    correct: int
    incorrect: int
    place: str

    @property
    def ids(self) -> tuple[int, int]:
        """Of the answer and of the foil."""
        return self.correct, self.incorrect


def token_id(cell: str, what: str) -> int:
    """The id in a cell. Raises ValueError, naming the cell, where it holds anything else."""
    if not (cell.strip().isascii() and cell.strip().isdigit() and len(cell.strip()) < 10):
        raise ValueError(f"{what} is {shown(cell)}, not one token id; {REMEDY}")
    return int(cell)


def texts_of(tokenizer: PreTrainedTokenizerBase, rows: Sequence[IdRow]) -> list[tuple[str, str]]:
    """Answer and foil of each row as texts. Raises ValueError, saying why, where the ids are not proved to be this tokenizer's."""
    found = [(_text(tokenizer, row, 0), _text(tokenizer, row, 1)) for row in rows]
    chance = min(_chance_to_pass(tokenizer, rows), _chance_in_prompts(tokenizer, rows))
    if chance > CHANCE:
        file = rows[0].place.rsplit(",", 1)[0]
        raise ValueError(
            f"{file}: nothing proves that its ids are this tokenizer's: those of another would look as right with a chance of "
            f"{chance:.2g}; {REMEDY}"
        )
    return found


def _text(tokenizer: PreTrainedTokenizerBase, row: IdRow, which: int) -> str:
    text = text_of(tokenizer, row.clean, row.ids[which])
    if text is None:
        raise ValueError(
            f"{row.place}: {IDS[which]} {row.ids[which]} is no token that can follow the prompt under this tokenizer, so the ids are "
            f"another's; {REMEDY}"
        )
    return text


def text_of(tokenizer: PreTrainedTokenizerBase, prompt: str, one: int) -> str | None:
    """The text that makes `one` the only token behind `prompt`; None where there is no such text."""
    if one >= len(tokenizer) or one in tokenizer.all_special_ids:
        return None
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    # Decoded behind the prompt: alone, a word may lose the space before it.
    before, whole = (str(tokenizer.decode(row)) for row in (ids, [*ids, one]))
    text = whole[len(before) :]
    if not whole.startswith(before) or not text.strip() or "\ufffd" in text:
        return None
    return text if tokenizer(prompt + text, add_special_tokens=False)["input_ids"] == [*ids, one] else None


def _chance_to_pass(tokenizer: PreTrainedTokenizerBase, rows: Sequence[IdRow]) -> float:
    """The chance that as many different ids would each be one token behind a prompt."""
    ids = sorted({one for row in rows for one in row.ids})
    around = range(ids[0], ids[-1] + 1) if ids[-1] - ids[0] >= SAMPLE else range(min(SAMPLE, len(tokenizer)))
    sample = around[:: max(1, len(around) // SAMPLE)]
    return (sum(text_of(tokenizer, rows[0].clean, one) is not None for one in sample) / len(sample)) ** len(ids)


def _chance_in_prompts(tokenizer: PreTrainedTokenizerBase, rows: Sequence[IdRow]) -> float:
    """The chance that as many right answers would stand in their own prompts."""
    prompts = {row.correct: set(tokenizer(row.clean)["input_ids"]) for row in rows}
    found = sum(one in tokens for one, tokens in prompts.items())
    mean = sum(map(len, prompts.values())) / len(prompts)
    return float(binom.sf(found - 1, len(prompts), mean / len(tokenizer)))
