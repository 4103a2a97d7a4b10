"""Countdown: reach a target with every given number, each used once, by + - * /.

The prompt shows the numbers and the target, `Input: 15,44,79,50`; the answer is a solution, `44-15=29,79-29=50`. What a problem and a
solution are stands in `countdown_problems`. Problems made here have positive whole results up to a limit; those of a file, any whole
results.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from mechshift_tl.tasks.countdown_problems import Problem, answers, check_size, has_one_solution, is_solution, problems
from mechshift_tl.tasks.data_files import json_lines, shown
from mechshift_tl.tasks.examples import Example, TextPair
from mechshift_tl.tasks.fields import Kind, check_kinds, field_kinds, hard_foil, read_only
from mechshift_tl.tasks.task import Split, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: A problem as a file writes it: numbers of up to nine digits, the last of which is the target.
SHOWN = re.compile(r" *[0-9]{1,9} *(, *[0-9]{1,9} *)+")


Foil = Literal["corrupt", "prompt"]


class Countdown(Task):
    """Countdown as prompts `Input: 15,44,79,50\\nOutput: ` and answers `44-15=29,79-29=50`.

    - `n_numbers`: how many numbers a problem gives; `largest`: the largest of them (the smallest is 1); `limit`: the largest result.
    - `unique`: keep only problems with one solution.
    - `header`, `shots`: an instruction and worked examples, put before the question. Larger models need them.
    - `rows`: problems to use in place of made ones; `headers`: how many lines of their file were no problem.
    - `foil`: "corrupt" reads the answer against the corrupt prompt's solution, "prompt" against other numbers of the prompt.
    - `read`: the kinds of field to read, as `mechshift_tl.tasks.fields` names them; None reads all.

    The corrupt prompt is another problem of the same shape. The tiny pair solves the default settings. To see whether a model plans, read
    the first operand while the whole answer is masked: `foil="prompt", read=("first operand",)`, and `order="left_to_right"` in `readouts`.
    """

    name = "countdown"
    dependency = "global"

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
        headers: int = 0,
        foil: Foil = "corrupt",
        read: tuple[Kind, ...] | None = None,
    ) -> None:
        for name, value, least in (("n_numbers", n_numbers, 2), ("largest", largest, 1), ("limit", limit, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"Countdown: {name} is {value!r}; give a whole number of at least {least}")
        for problem in (*shots, *(rows or ())):
            check_size(problem.numbers)
        self.n_shots, self.headers = len(shots), headers
        if foil not in get_args(Foil):
            raise ValueError(f"Countdown: unknown foil {foil!r}; choose one of {', '.join(get_args(Foil))}")
        check_kinds("Countdown", read)
        self.foil, self.read = foil, read
        self.n_numbers, self.largest, self.limit, self.unique = n_numbers, largest, limit, unique
        self.rows = rows
        self.preamble = "\n\n".join([*([header] if header else []), *(_question(p) + p.solution for p in shots)])

    @classmethod
    def from_jsonl(
        cls,
        path: str | Path,
        *,
        unique: bool = True,
        header: str = "",
        n_shots: int = 8,
        foil: Foil = "corrupt",
        read: tuple[Kind, ...] | None = None,
    ) -> Countdown:
        """Problems from a file with one `{"input": "15,44,79,50", "output": "44-15=29,79-29=50"}` per line; its solutions are kept as
        written.

        A first line that is no problem is a header, and is left out. The first `n_shots` problems become worked examples in every prompt.
        Raises ValueError, naming the line, on a line that is no problem, on a problem that is too long, and on a wrong solution.
        """
        if n_shots < 0:
            raise ValueError(f"Countdown: n_shots is {n_shots}; give 0 or more worked examples")
        lines, headers = json_lines(path, ("input", "output"))
        given = [_problem(row["input"], row["output"], where) for where, row in lines]
        return cls(
            unique=unique, header=header, shots=tuple(given[:n_shots]), rows=tuple(given[n_shots:]), headers=headers, foil=foil, read=read
        )

    def problems(self, split: Split = "held_out") -> tuple[Problem, ...]:
        """The problems of `split`. Given rows are all held out."""
        if self.rows is None:
            return problems(self.n_numbers, self.largest, self.limit, self.unique, split)
        if split == "train":
            return ()
        return tuple(p for p in self.rows if not self.unique or has_one_solution(p.numbers, p.target))

    def capacity(self, split: Split) -> int:
        """The number of problems: each gives at most one text pair."""
        return len(self.problems(split))

    def left_out(self, split: Split) -> dict[str, int]:
        """Of a file: its header, its worked examples, problems with several solutions, and problems that no other is shaped like."""
        if self.rows is None or split == "train":
            return {}
        kept = self.problems(split)
        keys: dict[tuple[int, ...], set[str]] = defaultdict(set)
        for problem in kept:
            keys[problem.shape].add(problem.key)
        counts = {
            "a header line": self.headers,
            "a worked example": self.n_shots,
            "a problem with several solutions": len(self.rows) - len(kept),
            "a problem without another of its shape": sum(len(keys[problem.shape]) == 1 for problem in kept),
        }
        return {reason: count for reason, count in counts.items() if count}

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
        valid = self._answers(clean) or ()
        # The turn is the problem's own, so that the foil is not always the number that the prompt shows first.
        turn = int.from_bytes(clean.key.encode(), "big")
        foil = corrupt.solution if self.foil == "corrupt" else hard_foil(clean.solution, clean.numbers, clean.target, valid, turn)
        return TextPair(
            prompt=self.prompt(clean),
            answer=clean.solution,
            corrupt_prompt=self.prompt(corrupt),
            corrupt_answer=corrupt.solution,
            foil=foil,
            group=clean.operators,
            also_valid=valid,
        )

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        """Drop a pair when some number has more tokens in the clean text than in the corrupt text, or fewer; or has too many answers."""
        if self._answers(_asked(pair)) is None:
            return "too many right answers to tell where the foil is wrong"
        clean, corrupt = (_field_tokens(tokenizer, text) for text in (pair.prompt + pair.answer, pair.corrupt_prompt + pair.corrupt_answer))
        return None if clean == corrupt else "a field has another number of tokens"

    def read_at(self, tokenizer: PreTrainedTokenizerBase, example: Example) -> Example:
        """Readable only at fields of the kinds to read."""
        return example if self.read is None else read_only(tokenizer, example, self.kinds(example), self.read)

    def kinds(self, example: Example) -> list[frozenset[Kind]]:
        """Operands, operators and results; the last result repeats the target."""
        return field_kinds(example.pair.answer, ends_at_target=True)

    def solved(self, example: Example, decoded: str) -> bool:
        """Whether the decoded equations solve the prompt's last question."""
        asked = _asked(example.pair)
        return is_solution(decoded.strip(), asked.numbers, asked.target)

    def _answers(self, problem: Problem) -> tuple[str, ...] | None:
        return answers(problem, self.limit if self.rows is None else None)


def _question(problem: Problem) -> str:
    return f"Input: {problem.shown}\nOutput: "


def _asked(pair: TextPair) -> Problem:
    """The problem that a prompt asks last, with its answer."""
    *numbers, target = map(int, pair.prompt.rsplit("Input: ", 1)[1].split("\n")[0].split(","))
    return Problem(tuple(numbers), target, pair.answer)


def _problem(given: str, solution: str, where: str) -> Problem:
    """The problem of a file's line. Raises ValueError, naming the line, where it is none, is too long, or is not solved."""
    if not SHOWN.fullmatch(given):
        raise ValueError(
            f"{where}: the input {shown(given)} is no list of numbers; write the numbers and the target, such as '15,44,79,50'"
        )
    *numbers, target = map(int, given.split(","))
    try:
        check_size(tuple(numbers))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not is_solution(solution, tuple(numbers), target):
        raise ValueError(f"{where}: {shown(solution)} does not solve {shown(given)}")
    return Problem(tuple(numbers), target, solution)


def _shuffled(problem: Problem, rng: random.Random) -> Problem:
    return Problem(tuple(rng.sample(problem.numbers, len(problem.numbers))), problem.target, problem.solution)


def _field_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """For each run of digits in `text`, how many tokens end in it."""
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    ends = [end for start, end in offsets if end > start]
    return [sum(m.start() < end <= m.end() for end in ends) for m in re.finditer(r"\d+", text)]
