"""A task without some of its prompts: what was found on these is to be measured on others."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from mechshift_tl.tasks.examples import Example, TextPair
from mechshift_tl.tasks.task import Split, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Excluding(Task):
    """`task` without the `prompts` (texts) given, in every split; they are counted among what is dropped, for the `reason` given."""

    def __init__(self, task: Task, prompts: Collection[str], reason: str) -> None:
        self.task, self.name, self.prompts, self.reason = task, task.name, frozenset(prompts), reason

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """The text pairs of the task itself, which `screen` then drops from."""
        return self.task.draw(rng, split)

    def capacity(self, split: Split) -> int | None:
        """The task's own."""
        return self.task.capacity(split)

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        """The reason where the prompt is among those left out, or the task's own."""
        return self.reason if pair.prompt in self.prompts else self.task.screen(tokenizer, pair)

    def solved(self, example: Example, decoded: str) -> bool:
        """As the task judges."""
        return self.task.solved(example, decoded)
