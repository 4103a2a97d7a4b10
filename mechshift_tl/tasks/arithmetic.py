"""Arithmetic in steps: `Compute: 25+17-8` → `25+17=42,42-8=34`. One answer mixes local and global dependence.

- *Operands* and *operators* are copied from the prompt in their order, an *intermediate* from the result just before: local.
- A *result* needs both of its operands and the carry between their digits, and the last result all terms: global.

The corrupt side is another problem with the same operators and as many digits in every field, no number of which stands in the same place;
its steps are the foil. So every number of the answer is read, and no sign is. Sums have one value, so one text answers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from mechshift_tl.tasks.examples import Example, TextPair
from mechshift_tl.tasks.fields import Kind, check_kinds, field_kinds, read_only
from mechshift_tl.tasks.task import Split, Task, in_split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: How many problems a draw gives at most, and how many candidates it tries for each of them.
MOST, TRIES = 100_000, 4000


@dataclass(frozen=True)
class Sum:
    """Terms in the order they are shown, and the operators between them."""

    terms: tuple[int, ...]
    operators: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The sum as the prompt shows it, `25+17-8`."""
        return str(self.terms[0]) + "".join(f"{o}{t}" for o, t in zip(self.operators, self.terms[1:], strict=True))

    @property
    def results(self) -> tuple[int, ...]:
        """The value after each operator, left to right."""
        values = [self.terms[0]]
        for operator, term in zip(self.operators, self.terms[1:], strict=True):
            values.append(values[-1] + term if operator == "+" else values[-1] - term)
        return tuple(values[1:])

    @property
    def steps(self) -> str:
        """The written answer: an equation per operator, each on the result of the one before."""
        left = (self.terms[0], *self.results[:-1])
        parts = zip(left, self.operators, self.terms[1:], self.results, strict=True)
        return ",".join(f"{a}{o}{b}={r}" for a, o, b, r in parts)

    @property
    def key(self) -> str:
        """Identity of the sum whatever the order of its terms: what the held-out hash reads."""
        signed = sorted(t if o == "+" else -t for o, t in zip(("+", *self.operators), self.terms, strict=True))
        return f"arithmetic:{signed}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Digits of every number, prompt and answer: sums of equal shape and operators align under most tokenizers."""
        return tuple(len(str(number)) for number in (*self.terms, *self.results))


class Arithmetic(Task):
    """Sums and differences as prompts `Compute: 25+17-8\\nSteps: ` and answers `25+17=42,42-8=34`.

    Arguments: `n_terms` numbers from 1 to `largest`, every result from 1 to `limit`; `read`, the kinds of field to read, None for all
    (`("operand", "intermediate")` local, `("result",)` global). The defaults are what the tiny pair solves. Held out: sums, whatever the
    order of their terms. An example's group is its operators, such as `+-`.
    """

    name = "arithmetic"
    dependency = "mixed"

    def __init__(self, *, n_terms: int = 3, largest: int = 40, limit: int = 99, read: tuple[Kind, ...] | None = None) -> None:
        check_kinds("Arithmetic", read)
        if n_terms < 2 or largest < 2 or limit < 2:
            raise ValueError(f"Arithmetic: n_terms, largest and limit are at least 2, got {n_terms}, {largest}, {limit}")
        self.n_terms, self.largest, self.limit, self.read = n_terms, largest, limit, read

    def candidate(self, rng: random.Random, operators: tuple[str, ...], split: Split) -> Sum | None:
        """A random sum with these operators, or None where it is not allowed or not in `split`."""
        made = Sum(tuple(rng.randint(1, self.largest) for _ in range(self.n_terms)), operators)
        allowed = all(1 <= value <= self.limit for value in made.results)
        return made if allowed and in_split(made.key, split) else None

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """Distinct sums of `split`, at most `MOST`, as many of each choice of operators as chance gives; ends when none is new."""
        seen: set[Sum] = set()
        misses = 0
        while len(seen) < MOST and misses < TRIES:
            misses += 1
            clean = self.candidate(rng, tuple(rng.choices("+-", k=self.n_terms - 1)), split)
            if clean is None or clean in seen:
                continue
            corrupt = self._other(rng, clean, split)
            if corrupt is not None:
                misses = 0
                seen.add(clean)
                yield TextPair(
                    prompt=prompt(clean), answer=clean.steps, corrupt_prompt=prompt(corrupt), corrupt_answer=corrupt.steps,
                    foil=corrupt.steps, group="".join(clean.operators),
                )  # fmt: skip

    def _other(self, rng: random.Random, clean: Sum, split: Split) -> Sum | None:
        """A sum of the same operators and shape, without a number in its old place."""
        for _ in range(TRIES):
            made = self.candidate(rng, clean.operators, split)
            if made is not None and made.shape == clean.shape:
                numbers = zip((*made.terms, *made.results), (*clean.terms, *clean.results), strict=True)
                if all(a != b for a, b in numbers):
                    return made
        return None

    def training_texts(self, n: int, seed: int = 0) -> list[tuple[str, str]]:
        """`n` distinct training sums, in a random order, as (prompt, answer)."""
        rng = random.Random(f"{self.name}:texts:{seed}")
        operators = iter(lambda: tuple(rng.choices("+-", k=self.n_terms - 1)), None)
        endless = (made for chosen in operators if (made := self.candidate(rng, chosen, "train")) is not None)
        return [(prompt(made), made.steps) for made in islice(endless, n)]

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        """Drop pairs of which some field has another token count on the corrupt side."""
        clean, corrupt = (
            [len(tokenizer(field, add_special_tokens=False)["input_ids"]) for field in re.findall(r"\d+|\D+", text)]
            for text in (pair.prompt + pair.answer, pair.corrupt_prompt + pair.corrupt_answer)
        )
        return None if clean == corrupt else "a field has another number of tokens"

    def read_at(self, tokenizer: PreTrainedTokenizerBase, example: Example) -> Example:
        """Only fields of the kinds to read."""
        return example if self.read is None else read_only(tokenizer, example, self.kinds(example), self.read)

    def kinds(self, example: Example) -> list[frozenset[Kind]]:
        """Operands, intermediates, operators and results."""
        return field_kinds(example.pair.answer, chained=True)

    def solved(self, example: Example, decoded: str) -> bool:
        """The decoded steps are the written ones."""
        return re.sub(r"\s", "", decoded) == example.pair.answer


def prompt(problem: Sum) -> str:
    """The text before the answer."""
    return f"Compute: {problem.shown}\nSteps: "
