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
from functools import cache, lru_cache
from itertools import combinations, combinations_with_replacement, permutations, product
from math import comb, inf, prod
from typing import TypeAlias

from mechshift_tl.tasks.task import Split, in_split

#: More digits than any number of a solution has; Python refuses to read numbers of thousands.
EQUATION = re.compile(r"^([0-9]{1,99})([-+*/])([0-9]{1,99})=([0-9]{1,99})$")
#: Chains that are tried to list all problems, in half a minute or so.
MOST_CHAINS = 2 * 10**7
#: Each answer of a prompt is tokenised, to tell where a foil is wrong; more of them would take many seconds for one prompt.
MOST_ANSWERS = 5000
#: Numbers of a problem that is solved within a second or two; each further one takes some fifty times as long.
MOST_NUMBERS = 6


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


Ways: TypeAlias = dict[int, set[tuple[str, ...]]]


def ways(numbers: tuple[int, ...], limit: int | None, target: int | None = None, enough: float = inf) -> Ways:
    """For each result that uses all `numbers`: its distinct solutions, each as its equations in sorted order.

    With a `target`, only that result is kept, and the search stops once it has `enough` solutions.

    Every set of numbers is split in two in all ways, and the results of one half meet those of the other. So a solution whose independent
    equations may change places is found once, where a search by chains finds it in every order.
    """
    known: dict[tuple[int, ...], Ways] = {}

    def of(part: tuple[int, ...], wanted: int | None) -> Ways:
        if len(part) == 1:
            return {part[0]: {()}}
        if wanted is None and part in known:
            return known[part]
        found: Ways = defaultdict(set)
        for chosen, others in _halves(len(part)):
            if wanted is not None and len(found[wanted]) >= enough:
                break
            one, other = of(tuple(part[i] for i in chosen), None), of(tuple(part[i] for i in others), None)
            for (a, first), (b, second) in product(one.items(), other.items()):
                for equation, r in results(a, b, limit):
                    if wanted in (None, r):
                        found[r].update(tuple(sorted((*x, *y, equation))) for x in first for y in second)
        if wanted is None:
            known[part] = found
        return found

    found = of(tuple(sorted(numbers)), target)
    return found if target is None else {r: way for r, way in found.items() if r == target}


@cache
def _halves(n: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every way to part the places 0 … n − 1 in two, neither of them empty; place 0 is always in the first.

    Parts of like size come first: their results are few, so a search that may stop early stops sooner.
    """
    chosen = [(0, *some) for size in range(n - 1) for some in combinations(range(1, n), size)]
    chosen.sort(key=lambda some: abs(n - 2 * len(some)))
    return [(some, tuple(i for i in range(n) if i not in some)) for some in chosen]


@lru_cache(maxsize=2**14)
def solutions(numbers: tuple[int, ...], target: int, limit: int | None = None) -> tuple[str, ...]:
    """The distinct solutions of one problem in canonical form, sorted. Raises ValueError on more than `MOST_NUMBERS` numbers."""
    check_size(numbers)
    return _written(numbers, ways(numbers, limit, target).get(target, set()))


@lru_cache(maxsize=2**14)
def has_one_solution(numbers: tuple[int, ...], target: int, limit: int | None = None) -> bool:
    """Whether a problem has exactly one solution. Raises ValueError on more than `MOST_NUMBERS` numbers."""
    check_size(numbers)
    return len(ways(numbers, limit, target, enough=2).get(target, ())) == 1


def check_size(numbers: tuple[int, ...]) -> None:
    """Raise ValueError on a problem that has more than `MOST_NUMBERS` numbers, or fewer than 2."""
    if not 2 <= len(numbers) <= MOST_NUMBERS:
        raise ValueError(f"a Countdown problem has 2 to {MOST_NUMBERS} numbers, not {len(numbers)}; more take too long to solve")


@lru_cache(maxsize=2**14)
def answers(problem: Problem, limit: int | None = None) -> tuple[str, ...] | None:
    """Every text that solves a problem, sorted; None where there are more than `MOST_ANSWERS`."""
    found: set[str] = set()
    for solution in (problem.solution, *solutions(problem.numbers, problem.target, limit)):
        found.update(spellings(solution))
        if len(found) > MOST_ANSWERS:
            return None
    return tuple(sorted(found))


def _written(numbers: tuple[int, ...], found: set[tuple[str, ...]]) -> tuple[str, ...]:
    """Each solution as text, its equations in the first order that works; sorted."""
    return tuple(sorted(",".join(_in_order(way, Counter(numbers)) or ()) for way in found))


def _in_order(equations: tuple[str, ...], pool: Counter[int]) -> tuple[str, ...] | None:
    """The first order, by the alphabet, in which every equation finds its operands in the pool; None where there is none."""
    if not equations:
        return ()
    for i, equation in enumerate(equations):
        a, b, r = map(int, re.split(r"[-+*/=]", equation))
        left = pool - Counter((a, b))
        if left.total() == pool.total() - 2 and (tail := _in_order(equations[:i] + equations[i + 1 :], left + Counter([r]))) is not None:
            return (equation, *tail)
    return None


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


def chains(numbers: tuple[int, ...], limit: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every chain of equations that uses all `numbers`, with its last result."""
    if len(numbers) == 1:
        yield (), numbers[0]
        return
    for i, j in combinations(range(len(numbers)), 2):
        rest = tuple(x for k, x in enumerate(numbers) if k not in (i, j))
        for equation, r in results(numbers[i], numbers[j], limit):
            for tail, last in chains((*rest, r), limit):
                yield (equation, *tail), last


@cache
def ways_in_order(numbers: tuple[int, ...], limit: int) -> Ways:
    """What `ways` gives, its targets in the order in which a search by chains meets them: a seed's draws depend on that order."""
    found: Ways = defaultdict(set)
    for equations, target in chains(numbers, limit):
        found[target].add(tuple(sorted(equations)))
    return found


@cache
def problems(n_numbers: int, largest: int, limit: int, unique: bool, split: Split) -> tuple[Problem, ...]:
    """All problems of `split` with `n_numbers` numbers from 1 to `largest`, each with its first canonical solution.

    `unique` keeps only problems with exactly one solution. Raises ValueError where listing all problems would take minutes or more.
    """
    # With k numbers left, a chain goes on with one of four operators on one of the pairs.
    each = prod(4 * comb(k, 2) for k in range(2, n_numbers + 1))
    sets = comb(largest + n_numbers - 1, n_numbers)
    if sets * each > MOST_CHAINS:
        raise ValueError(
            f"Countdown: {n_numbers} numbers up to {largest} make {sets} sets, which take too long to solve; take fewer or smaller numbers"
        )
    made = []
    for numbers in combinations_with_replacement(range(1, largest + 1), n_numbers):
        for target, found in ways_in_order(numbers, limit).items():
            if (len(found) == 1 or not unique) and in_split(Problem(numbers, target, "").key, split):
                made.append(Problem(numbers, target, _written(numbers, found)[0]))
    return tuple(made)
