"""A task without some of its prompts. A circuit that was found on some prompts should be measured on others."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from mechshift_tl.tasks.examples import Example, TextPair
from mechshift_tl.tasks.task import Split, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Excluding(Task):
    """The task `task` without the given `prompts` (texts), in every split.

    `Examples.dropped` counts the prompts that were left out, under `reason`.
    """

    def __init__(self, task: Task, prompts: Collection[str], reason: str) -> None:
        self.task, self.name, self.prompts, self.reason = task, task.name, frozenset(prompts), reason
        self.correct = task.correct

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """All text pairs of the task; `screen` drops the excluded ones later."""
        return self.task.draw(rng, split)

    def capacity(self, split: Split) -> int | None:
        """That of the task itself; the excluded prompts are not subtracted."""
        return self.task.capacity(split)

    def left_out(self, split: Split) -> dict[str, int]:
        """What the task itself leaves out."""
        return self.task.left_out(split)

    def under(self, tokenizer: PreTrainedTokenizerBase) -> Excluding:
        """The task itself in the tokenizer's words, without the same prompts."""
        return Excluding(self.task.under(tokenizer), self.prompts, self.reason)

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        """`reason` for an excluded prompt; otherwise what the task itself says."""
        return self.reason if pair.prompt in self.prompts else self.task.screen(tokenizer, pair)

    def read_at(self, tokenizer: PreTrainedTokenizerBase, example: Example) -> Example:
        """As the task reads it."""
        return self.task.read_at(tokenizer, example)

    def solved(self, example: Example, decoded: str) -> bool:
        """What the task itself says."""
        return self.task.solved(example, decoded)
