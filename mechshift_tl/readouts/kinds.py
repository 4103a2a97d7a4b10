"""Which kind of token each row reads: operand, operator, result, copy of the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mechshift_tl.readouts.checks import ABSENT
from mechshift_tl.readouts.rows import Readouts
from mechshift_tl.tasks.examples import Examples
from mechshift_tl.tasks.fields import token_kinds
from mechshift_tl.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def row_kinds(readouts: Readouts, examples: Examples, task: Task, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The kind that each row reads; "" where a row reads several kinds, or the task has none. A first operand is no other operand here."""
    by_token = [token_kinds(tokenizer, one, kinds) if (kinds := task.kinds(one)) else None for one in examples]
    found = []
    for example, positions in zip(readouts.example.tolist(), readouts.target_pos.tolist(), strict=True):
        kinds, start = by_token[example], examples[example].answer_start
        read = {_one(kinds[at - start]) for at in positions if at != ABSENT} if kinds else {""}
        found.append(read.pop() if len(read) == 1 else "")
    return tuple(found)


def _one(kinds: frozenset[str]) -> str:
    return "first operand" if "first operand" in kinds else next(iter(kinds), "")
