"""What a task is: clean/corrupt text pairs that become aligned token rows.

1. `Task.draw` makes *text pairs*: a clean prompt with its answer, a corrupt prompt of the same shape, and a *foil*: a wrong answer to the
   clean prompt.
2. `encode_pair` turns a text pair into an `Example`: two token rows of equal length whose answers stand at the same positions.
3. `Task.examples` collects `n` examples. It drops the pairs that the tokenizer cannot align, and counts them.

Every model of a pair gets the same examples; `mechshift_tl.readouts` decides how a model reads them.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Literal, get_args

from hooked_diffusion.seeds import check_seed
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.tasks.decoding import decode_answers
from mechshift_tl.tasks.examples import CannotAlign, Example, Examples, TextPair, encode_pair
from mechshift_tl.tasks.fields import Kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Split = Literal["train", "held_out"]
Correct = Literal["first", "above_foil"]
#: How much of the prompt an answer depends on: a "local" cue, the "global" constraints of the whole, or some of both.
Dependency = Literal["local", "global", "mixed"]
HELD_OUT_PERCENT = 10
#: Why a prompt is dropped that was drawn before.
AGAIN = "a prompt that came before"


def is_held_out(key: str, percent: int = HELD_OUT_PERCENT) -> bool:
    """Whether `key` is held out: a hash of the text decides, so the answer is the same on every machine and in every process."""
    digest = hashlib.sha256(f"mechshift-tl:{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < percent


def in_split(key: str, split: Split) -> bool:
    """Whether `key` belongs to `split`."""
    return is_held_out(key) == (split == "held_out")


class Task(ABC):
    """A behaviour to explain. A subclass draws text pairs and judges decoded answers; this class does the rest."""

    name: str
    #: When a model reads an answer correctly: its token ranks "first"; or, where many answers are right, its logit is "above_foil".
    correct: Correct = "first"
    #: None where nobody said.
    dependency: Dependency | None = None

    @abstractmethod
    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """Distinct text pairs of `split`, in an order that `rng` decides. The iterator ends when there are no more."""

    @abstractmethod
    def solved(self, example: Example, decoded: str) -> bool:
        """Whether the decoded answer text is right for the clean prompt."""

    def capacity(self, split: Split) -> int | None:
        """The most text pairs that `draw` can give; None where the task cannot know that before it draws."""
        return None

    def left_out(self, split: Split) -> dict[str, int]:
        """How many prompts of a given file `draw` never gives, by reason. By default none."""
        return {}

    def under(self, tokenizer: PreTrainedTokenizerBase) -> Task:
        """The task in this tokenizer's words, where its prompts are token ids. By default itself. Raises ValueError where it has none."""
        return self

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        """Why `pair` must be dropped under this tokenizer, or None to keep it. By default every pair is kept."""
        return None

    def read_at(self, tokenizer: PreTrainedTokenizerBase, example: Example) -> Example:
        """The example, readable only where this task asks. By default that is wherever the foil is wrong.

        Raises `CannotAlign` where nothing is left to read.
        """
        return example

    def kinds(self, example: Example) -> list[frozenset[Kind]]:
        """The kinds of each field of the example's answer, as `mechshift_tl.tasks.fields` names them; none where a task has no fields."""
        return []

    def examples(self, tokenizer: PreTrainedTokenizerBase, n: int | None, seed: int = 0, *, split: Split = "held_out") -> Examples:
        """`n` clean/corrupt pairs of equal length with aligned answers, by default from the held-out split. None asks for all there are.

        A prompt that comes again counts once. Raises ValueError where the task can make fewer than `n`: the message says how many, and
        what was left out. Raises ValueError also on an `n`, `seed`, `split` or tokenizer that cannot be.
        """
        return ExampleStream(self, tokenizer, seed, split=split).exactly(n)

    def accuracy(self, model: HookedModel, examples: Examples, *, batch_tokens: int | None = None) -> float:
        """Share of examples, in [0, 1], whose freely decoded answer is right; see `mechshift_tl.tasks.decoding.decode_answers`."""
        decoded = decode_answers(model, examples, batch_tokens=batch_tokens)
        return sum(self.solved(e, text) for e, text in zip(examples, decoded, strict=True)) / len(examples)


def fitted(task: Task, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> Example:
    """The example that a task makes of a text pair. Raises `CannotAlign` where the task or the tokenizer has no use for it."""
    if (reason := task.screen(tokenizer, pair)) is not None:
        raise CannotAlign(reason)
    return task.read_at(tokenizer, encode_pair(tokenizer, pair))


class ExampleStream:
    """A task's examples in the order of a seed, each drawn once: asked for more of them, the stream goes on where it stopped.

    A prompt that comes again is dropped. Raises ValueError on a seed, a split or a tokenizer that cannot be.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, seed: int = 0, *, split: Split = "held_out") -> None:
        _check_source(task.name, tokenizer, seed, split)
        task = task.under(tokenizer)
        self.task, self.tokenizer, self.seed = task, tokenizer, seed
        self.split: Split = split
        self._pairs = iter(task.draw(random.Random(f"{task.name}:{split}:{seed}"), split))
        self._kept: list[Example] = []
        self._dropped: Counter[str] = Counter(task.left_out(split))
        self._seen: set[tuple[str, str]] = set()

    def exactly(self, n: int | None) -> Examples:
        """The first `n` examples; None: all there are. Raises ValueError when the task cannot make `n`, or none."""
        name, split, most = self.task.name, self.split, self.task.capacity(self.split)
        _check_number(name, n)
        if n is not None and most is not None and n > most:
            raise ValueError(
                f"task {name!r} can make at most {most} {split} examples, not {n}{self._detail('left out')}; "
                "ask for fewer, or widen its settings"
            )
        examples = self.up_to(n)
        if not len(examples) or (n is not None and len(examples) < n):
            fewer = "Ask for fewer" if len(examples) else "Choose a model or task whose words fit"
            raise ValueError(
                f"task {name!r} can make {len(examples)} {split} examples with this tokenizer, not {n or 'any'}{self._detail('dropped')}. "
                f"{fewer}, or widen the task's settings."
            )
        return examples

    def up_to(self, n: int | None) -> Examples:
        """The first `n` examples, or all where there are fewer or `n` is None."""
        while n is None or len(self._kept) < n:
            pair = next(self._pairs, None)
            if pair is None:
                break
            self._add(pair)
        return Examples(self.task.name, tuple(self._kept[:n]), self.tokenizer, dict(self._dropped), self.seed)

    def _add(self, pair: TextPair) -> None:
        """Encode a pair, or count why it is dropped."""
        # The same words with another text behind the answer ask another question.
        asked = (pair.prompt, pair.suffix)
        try:
            if asked in self._seen:
                raise CannotAlign(AGAIN)
            self._kept.append(fitted(self.task, self.tokenizer, pair))
            self._seen.add(asked)
        except CannotAlign as error:
            self._dropped[str(error)] += 1

    def _detail(self, verb: str) -> str:
        return "".join(f"; {verb} {count}: {reason}" for reason, count in self._dropped.items())


def _check_source(task: str, tokenizer: PreTrainedTokenizerBase | None, seed: int, split: str) -> None:
    """Raise ValueError on what no examples can be drawn with."""
    check_seed(seed)
    if split not in get_args(Split):
        raise ValueError(f"task {task!r}: split is {split!r}; choose one of {', '.join(get_args(Split))}")
    if not getattr(tokenizer, "is_fast", False):
        given = "None" if tokenizer is None else type(tokenizer).__name__
        hint = "; give model.tokenizer" if hasattr(tokenizer, "tokenizer") else ""
        raise ValueError(f"task {task!r} needs a fast tokenizer, which tells where each token stands in the text, got {given}{hint}")


def _check_number(task: str, n: object) -> None:
    """Raise ValueError unless `n` is None or a whole number of at least 1."""
    if n is not None and (not isinstance(n, Integral) or isinstance(n, bool)):
        raise ValueError(f"task {task!r}: n is a whole number, or None for all there are, got {n!r}")
    if isinstance(n, Integral) and int(n) < 1:
        raise ValueError(f"task {task!r}: n must be at least 1, got {n}")
