"""Countdown problems and their solutions, as arithmetic: no prompts, no tokens.

A problem is a multiset of numbers and a target. A solution is a chain of equations, `44-15=29,79-29=50`. It uses every number once, and
every intermediate result once. Two solutions count as one when they differ only by swapped operands of + or *, or by the order of equations
that do not depend on each other. The *canonical form* of a solution puts the larger operand first.

`limit` says which results are allowed: positive whole numbers up to the limit; or, where it is None, any whole number.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, combinations_with_replacement, permutations, product

from mechshift_tl.tasks.task import Split, in_split

EQUATION = re.compile(r"^(\d+)([-+*/])(\d+)=(\d+)$")


@dataclass(frozen=True)
class Problem:
    """The numbers in the order in which the prompt shows them, the target, and one solution as it is written."""

    numbers: tuple[int, ...]
    target: int
    solution: str

    @property
    def key(self) -> str:
        """What tells problems apart: the numbers, in any order, and the target. The hash of the key decides the split."""
        return f"countdown:{sorted(self.numbers)}={self.target}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of digits of every field, in the prompt and in the solution. Problems of equal shape align under most tokenizers."""
        return tuple(len(field) for field in re.split(r"\D", f"{self.shown}={self.solution}"))

    @property
    def shown(self) -> str:
        """The problem as the prompt shows it, such as `15,44,79,50`; the last field is the target."""
        return ",".join(map(str, (*self.numbers, self.target)))

    @property
    def operators(self) -> str:
        """The solution's operators in order, such as `-+`."""
        return re.sub(r"[^-+*/]", "", self.solution)


def results(a: int, b: int, limit: int | None) -> Iterator[tuple[str, int]]:
    """Every equation on two numbers with an allowed result, larger operand first; as text, with its result."""
    x, y = max(a, b), min(a, b)
    candidates = [("+", x + y), ("-", x - y), ("*", x * y)] + ([("/", x // y)] if y and x % y == 0 else [])
    for operator, r in candidates:
        if limit is None or 0 < r <= limit:
            yield f"{x}{operator}{y}={r}", r
    if limit is None and x > y == 0:  # the one division with the smaller operand first that has a whole result
        yield f"0/{x}=0", 0


def chains(numbers: tuple[int, ...], limit: int | None, target: int | None = None) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every chain of equations that uses all `numbers`, with its last result; with a `target`, only the chains that end there."""
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
    """For each target that `numbers` (sorted) can reach: its distinct solutions in canonical form, sorted."""
    found: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for equations, target in chains(numbers, limit):
        found[target].append(equations)
    return {target: _distinct(ways) for target, ways in found.items()}


@cache
def solutions(numbers: tuple[int, ...], target: int, limit: int | None = None) -> tuple[str, ...]:
    """The distinct solutions of one problem in canonical form, sorted."""
    return _distinct([equations for equations, _ in chains(tuple(sorted(numbers)), limit, target)])


def _distinct(ways: list[tuple[str, ...]]) -> tuple[str, ...]:
    """One text for each solution, sorted. Two chains are one solution when they have the same equations, in whatever order."""
    found: dict[frozenset[tuple[str, int]], str] = {}
    for equations in ways:
        written, same = ",".join(equations), frozenset(Counter(equations).items())
        found[same] = min(written, found.get(same, written))
    return tuple(sorted(found.values()))


def spellings(solution: str) -> tuple[str, ...]:
    """Every text that writes this solution: operands of + and * in either order, equations in any order that works."""
    equations = solution.split(",")
    parts = [[int(x) for x in re.split(r"[-+*/=]", equation)] for equation in equations]
    target = parts[-1][2]
    # The numbers of the problem are the operands that no equation made.
    given = Counter(x for a, b, _ in parts for x in (a, b))
    given.subtract(r for _, _, r in parts[:-1])
    orders = {",".join(order) for order in permutations(equations)}
    valid = [order.split(",") for order in orders if is_solution(order, tuple(given.elements()), target)]
    return tuple(sorted({",".join(way) for order in valid for way in product(*map(_either_order, order))}))


def _either_order(equation: str) -> set[str]:
    """The equation; for + and *, also the equation with its operands swapped."""
    a, b, r = re.split(r"[-+*/=]", equation)
    operator = equation[len(a)]
    return {equation, f"{b}{operator}{a}={r}"} if operator in "+*" else {equation}


def is_solution(text: str, numbers: tuple[int, ...], target: int) -> bool:
    """Whether `text` is a solution: its equations are true, use every number and intermediate result once, and end at the target."""
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
    """All problems of `split` with `n_numbers` numbers from 1 to `largest`, each with its first canonical solution.

    `unique` keeps only problems with exactly one solution.
    """
    made = []
    for numbers in combinations_with_replacement(range(1, largest + 1), n_numbers):
        for target, forms in solutions_by_target(numbers, limit).items():
            problem = Problem(numbers, target, forms[0])
            if (len(forms) == 1 or not unique) and in_split(problem.key, split):
                made.append(problem)
    return tuple(made)
