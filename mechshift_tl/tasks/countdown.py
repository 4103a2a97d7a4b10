"""Countdown: reach a target with every given number, each used once, by + - * /.

The prompt shows the numbers and the target, `Input: 15,44,79,50`; the answer is a solution, `44-15=29,79-29=50`. What a problem and a
solution are stands in `countdown_problems`. Problems made here have positive whole results up to a limit; those of a file, any whole
results.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mechshift_tl.tasks.countdown_problems import Problem, is_solution, problems, solutions, spellings
from mechshift_tl.tasks.examples import Example, TextPair
from mechshift_tl.tasks.task import Split, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Countdown(Task):
    """Countdown as prompts `Input: 15,44,79,50\\nOutput: ` and answers `44-15=29,79-29=50`.

    - `n_numbers`: how many numbers a problem gives; `largest`: the largest of them (the smallest is 1); `limit`: the largest result.
    - `unique`: keep only problems with one solution.
    - `header`, `shots`: an instruction and worked examples, put before the question. Larger models need them.
    - `rows`: problems to use in place of made ones.

    The corrupt prompt is another problem of the same shape; its solution is the foil. The tiny pair solves the default settings.
    """

    name = "countdown"

    def __init__(
        self,
        *,
        n_numbers: int = 3,
        largest: int = 60,
        limit: int = 99,
        unique: bool = True,
        header: str = "",
        shots: tuple[Problem, ...] = (),
        rows: tuple[Problem, ...] | None = None,
    ) -> None:
        self.n_numbers, self.largest, self.limit, self.unique = n_numbers, largest, limit, unique
        self.rows = rows
        self.preamble = "\n\n".join([*([header] if header else []), *(_question(p) + p.solution for p in shots)])

    @classmethod
    def from_jsonl(cls, path: str | Path, *, unique: bool = True, header: str = "", n_shots: int = 8) -> Countdown:
        """Problems from a file with one `{"input": "15,44,79,50", "output": "44-15=29,79-29=50"}` per line; its solutions are kept as
        written.

        The first `n_shots` lines become worked examples in every prompt; the other lines are the problems. Raises ValueError, naming the
        line, where a solution does not solve its problem.
        """
        read = []
        for number, line in enumerate(Path(path).read_text().splitlines(), 1):
            row = json.loads(line)
            *numbers, target = map(int, row["input"].split(","))
            if not is_solution(row["output"], tuple(numbers), target):
                raise ValueError(f"{path}, line {number}: {row['output']!r} does not solve {row['input']!r}")
            read.append(Problem(tuple(numbers), target, row["output"]))
        return cls(unique=unique, header=header, shots=tuple(read[:n_shots]), rows=tuple(read[n_shots:]))

    def problems(self, split: Split = "held_out") -> tuple[Problem, ...]:
        """The problems of `split`. Given rows are all held out."""
        if self.rows is None:
            return problems(self.n_numbers, self.largest, self.limit, self.unique, split)
        if split == "train":
            return ()
        return tuple(p for p in self.rows if not self.unique or len(solutions(p.numbers, p.target)) == 1)

    def capacity(self, split: Split) -> int:
        """The number of problems: each gives at most one text pair."""
        return len(self.problems(split))

    def training_texts(self) -> list[tuple[str, str]]:
        """(prompt, answer) of every training problem, its numbers in ascending order."""
        return [(self.prompt(p), p.solution) for p in self.problems("train")]

    def prompt(self, problem: Problem) -> str:
        """The text before the answer."""
        return "\n\n".join([*([self.preamble] if self.preamble else []), _question(problem)])

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """Each problem once as the clean prompt, with a random other problem of the same shape as the corrupt prompt."""
        shown = [_shuffled(p, rng) if self.rows is None else p for p in self.problems(split)]
        rng.shuffle(shown)
        by_shape: dict[tuple[int, ...], list[Problem]] = defaultdict(list)
        for problem in shown:
            by_shape[problem.shape].append(problem)
        for problem in shown:
            others = [p for p in by_shape[problem.shape] if p.key != problem.key]
            if others:
                yield self._pair(problem, rng.choice(others))

    def _pair(self, clean: Problem, corrupt: Problem) -> TextPair:
        limit = self.limit if self.rows is None else None
        valid = {s for form in (clean.solution, *solutions(clean.numbers, clean.target, limit)) for s in spellings(form)}
        return TextPair(
            prompt=self.prompt(clean),
            answer=clean.solution,
            corrupt_prompt=self.prompt(corrupt),
            corrupt_answer=corrupt.solution,
            foil=corrupt.solution,
            group=clean.operators,
            also_valid=tuple(sorted(valid)),
        )

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        """Drop a pair when some number has more tokens in the clean text than in the corrupt text, or fewer."""
        clean, corrupt = (_field_tokens(tokenizer, text) for text in (pair.prompt + pair.answer, pair.corrupt_prompt + pair.corrupt_answer))
        return None if clean == corrupt else "a field has another number of tokens"

    def solved(self, example: Example, decoded: str) -> bool:
        """Whether the decoded equations solve the prompt's last question."""
        *numbers, target = map(int, example.pair.prompt.rsplit("Input: ", 1)[1].split("\n")[0].split(","))
        return is_solution(decoded.strip(), tuple(numbers), target)


def _question(problem: Problem) -> str:
    return f"Input: {problem.shown}\nOutput: "


def _shuffled(problem: Problem, rng: random.Random) -> Problem:
    return Problem(tuple(rng.sample(problem.numbers, len(problem.numbers))), problem.target, problem.solution)


def _field_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """For each run of digits in `text`, how many tokens end in it."""
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    ends = [end for start, end in offsets if end > start]
    return [sum(m.start() < end <= m.end() for end in ends) for m in re.finditer(r"\d+", text)]
