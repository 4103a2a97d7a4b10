"""Countdown: reach a target with every given number, each used once, by + - * /.

A problem is a multiset of numbers and a target. A solution is a chain of equations, `44-15=29,79-29=50`, that consumes the
numbers and its own intermediate results. Problems made here allow only positive whole results up to a limit; those of a given file, any
whole result. Solutions that differ by swapping the operands of + or *, or by reordering independent equations, count as one; the
written form puts the larger operand first.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, combinations_with_replacement, permutations, product
from pathlib import Path
from typing import TYPE_CHECKING

from mechshift_tl.tasks.examples import Example, TextPair
from mechshift_tl.tasks.task import Split, Task, in_split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EQUATION = re.compile(r"^(\d+)([-+*/])(\d+)=(\d+)$")


@dataclass(frozen=True)
class Problem:
    """Numbers in the order they are shown, the target, and one written solution."""

    numbers: tuple[int, ...]
    target: int
    solution: str

    @property
    def key(self) -> str:
        """Identity of the problem whatever the order of its numbers: what the held-out hash reads."""
        return f"countdown:{sorted(self.numbers)}={self.target}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Digits of every field, prompt and solution: problems of equal shape align under most tokenizers."""
        return tuple(len(field) for field in re.split(r"\D", f"{self.shown}={self.solution}"))

    @property
    def shown(self) -> str:
        """The problem as the prompt shows it, `15,44,79,50`: the target is the last field."""
        return ",".join(map(str, (*self.numbers, self.target)))

    @property
    def operators(self) -> str:
        """The solution's operators in order, such as `-+`."""
        return re.sub(r"[^-+*/]", "", self.solution)


def results(a: int, b: int, limit: int | None) -> Iterator[tuple[str, int]]:
    """Equations `x∘y=r` on two numbers, larger operand first: positive whole results up to `limit`, or any whole result without one."""
    x, y = max(a, b), min(a, b)
    candidates = [("+", x + y), ("-", x - y), ("*", x * y)] + ([("/", x // y)] if y and x % y == 0 else [])
    for operator, r in candidates:
        if limit is None or 0 < r <= limit:
            yield f"{x}{operator}{y}={r}", r
    if limit is None and x > y == 0:
        yield f"0/{x}=0", 0


def chains(numbers: tuple[int, ...], limit: int | None, target: int | None = None) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every chain of equations that consumes all `numbers`, with its last result; only those that end at `target`, if given."""
    if len(numbers) == 1:
        if target in (None, numbers[0]):
            yield (), numbers[0]
        return
    for i, j in combinations(range(len(numbers)), 2):
        rest = tuple(x for k, x in enumerate(numbers) if k not in (i, j))
        for equation, r in results(numbers[i], numbers[j], limit):
            for tail, last in chains((*rest, r), limit, target):
                yield (equation, *tail), last


@cache
def solutions_by_target(numbers: tuple[int, ...], limit: int | None) -> dict[int, tuple[str, ...]]:
    """For sorted `numbers`: target → its distinct solutions in canonical form, sorted."""
    found: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for equations, target in chains(numbers, limit):
        found[target].append(equations)
    return {target: _distinct(ways) for target, ways in found.items()}


@cache
def solutions(numbers: tuple[int, ...], target: int, limit: int | None = None) -> tuple[str, ...]:
    """Distinct solutions of one problem in canonical form, up to commutation."""
    return _distinct([equations for equations, _ in chains(tuple(sorted(numbers)), limit, target)])


def _distinct(ways: list[tuple[str, ...]]) -> tuple[str, ...]:
    """One spelling for each multiset of equations, sorted."""
    found: dict[frozenset[tuple[str, int]], str] = {}
    for equations in ways:
        written, same = ",".join(equations), frozenset(Counter(equations).items())
        found[same] = min(written, found.get(same, written))
    return tuple(sorted(found.values()))


def spellings(solution: str) -> tuple[str, ...]:
    """All the ways a solution may be written: operands of + and * in either order, independent equations in any."""
    equations = solution.split(",")
    parts = [[int(x) for x in re.split(r"[-+*/=]", equation)] for equation in equations]
    target = parts[-1][2]
    given = Counter(x for a, b, _ in parts for x in (a, b))
    given.subtract(r for _, _, r in parts[:-1])
    orders = {",".join(order) for order in permutations(equations)}
    valid = [order.split(",") for order in orders if is_solution(order, tuple(given.elements()), target)]
    return tuple(sorted({",".join(way) for order in valid for way in product(*map(_either_order, order))}))


def _either_order(equation: str) -> set[str]:
    """An equation, and its twin where the operands may be swapped."""
    a, b, r = re.split(r"[-+*/=]", equation)
    operator = equation[len(a)]
    return {equation, f"{b}{operator}{a}={r}"} if operator in "+*" else {equation}


def is_solution(text: str, numbers: tuple[int, ...], target: int) -> bool:
    """Parse `text` and check it: every equation true, every number and intermediate used once, the last result the target."""
    pool, last = Counter(numbers), None
    for equation in re.sub(r"\s", "", text).split(","):
        match = EQUATION.match(equation)
        if match is None:
            return False
        a, operator, b, r = int(match[1]), match[2], int(match[3]), int(match[4])
        if operator == "/" and (b == 0 or a % b):
            return False
        if r != {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[operator]:
            return False
        pool.subtract((a, b))
        if min(pool.values()) < 0:
            return False
        pool[r] += 1
        last = r
    return last == target and +pool == Counter([target])


@cache
def problems(n_numbers: int, largest: int, limit: int, unique: bool, split: Split) -> tuple[Problem, ...]:
    """All problems over 1…`largest` with results up to `limit`, written in the first of their canonical solutions."""
    made = []
    for numbers in combinations_with_replacement(range(1, largest + 1), n_numbers):
        for target, forms in solutions_by_target(numbers, limit).items():
            problem = Problem(numbers, target, forms[0])
            if (len(forms) == 1 or not unique) and in_split(problem.key, split):
                made.append(problem)
    return tuple(made)


class Countdown(Task):
    """Countdown as prompts `Input: 15,44,79,50\\nOutput: ` and answers `44-15=29,79-29=50`.

    Arguments: `n_numbers` given numbers from 1 to `largest`, no result above `limit`; `unique` keeps problems with one solution up to
    commutation; `header` and `shots` go before the question, as larger models need. The defaults are what the tiny pair solves.
    The corrupt side is another problem of the same shape, and its solution is the foil.
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
        """Problems read from a file of `{"input": "15,44,79,50", "output": "44-15=29,79-29=50"}` lines, solutions as given.

        The first `n_shots` lines become the prompt's worked examples; the others are the problems. Raises ValueError on a line whose
        solution does not solve it.
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
        """The problems of `split`; given rows belong to the held-out split whole."""
        if self.rows is None:
            return problems(self.n_numbers, self.largest, self.limit, self.unique, split)
        if split == "train":
            return ()
        return tuple(p for p in self.rows if not self.unique or len(solutions(p.numbers, p.target)) == 1)

    def capacity(self, split: Split) -> int:
        """One text pair per problem."""
        return len(self.problems(split))

    def training_texts(self) -> list[tuple[str, str]]:
        """Every training problem once, its numbers in ascending order, as (prompt, answer)."""
        return [(self.prompt(p), p.solution) for p in self.problems("train")]

    def prompt(self, problem: Problem) -> str:
        """The text before the answer."""
        return "\n\n".join([*([self.preamble] if self.preamble else []), _question(problem)])

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """Each problem once as the clean side, its corrupt side drawn among those of equal shape."""
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
        """Drop pairs of which some field has another token count on the corrupt side."""
        clean, corrupt = (_field_tokens(tokenizer, text) for text in (pair.prompt + pair.answer, pair.corrupt_prompt + pair.corrupt_answer))
        return None if clean == corrupt else "a field has another number of tokens"

    def solved(self, example: Example, decoded: str) -> bool:
        """Parse the decoded equations and check them against the prompt's numbers and target."""
        *numbers, target = map(int, example.pair.prompt.rsplit("Input: ", 1)[1].split("\n")[0].split(","))
        return is_solution(decoded.strip(), tuple(numbers), target)


def _question(problem: Problem) -> str:
    return f"Input: {problem.shown}\nOutput: "


def _shuffled(problem: Problem, rng: random.Random) -> Problem:
    return Problem(tuple(rng.sample(problem.numbers, len(problem.numbers))), problem.target, problem.solution)


def _field_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens that end in each run of digits of `text`."""
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    ends = [end for start, end in offsets if end > start]
    return [sum(m.start() < end <= m.end() for end in ends) for m in re.finditer(r"\d+", text)]
