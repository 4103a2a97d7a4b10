"""Prompts with answers to train on: the training split of a task, which shares no prompt with the split that studies draw from."""

from __future__ import annotations

import random
from itertools import islice

from mechshift_tl.tasks.arithmetic import Arithmetic
from mechshift_tl.tasks.countdown import Countdown
from mechshift_tl.tasks.countdown_problems import Problem
from mechshift_tl.tasks.greater_than import GreaterThan
from mechshift_tl.tasks.infilling import SemanticInfilling
from mechshift_tl.tasks.task import Task


def training_texts(task: Task, n: int, seed: int = 0) -> list[tuple[str, ...]]:
    """At most `n` training prompts of a task in a random order, as (prompt, answer) or (prompt, answer, suffix).

    Raises ValueError where the task has none, as on prompts that a file gave: those are all held out.
    """
    if isinstance(task, (GreaterThan, Arithmetic, SemanticInfilling)):
        texts: list[tuple[str, ...]] = [*task.training_texts(n, seed)]
    elif isinstance(task, Countdown):
        texts = _countdown(task, n, random.Random(f"{task.name}:texts:{seed}"))
    else:
        pairs = islice(task.draw(random.Random(f"{task.name}:texts:{seed}"), "train"), n)
        texts = [(pair.prompt, pair.answer, *([pair.suffix] if pair.suffix else [])) for pair in pairs]
    if not texts:
        raise ValueError(f"task {task.name!r} has no training prompts; leave out its file, whose prompts are all held out")
    return texts


def _countdown(task: Countdown, n: int, rng: random.Random) -> list[tuple[str, ...]]:
    """Every problem comes before one comes again, its numbers in another order."""
    problems, texts = list(task.problems("train")), []
    while problems and len(texts) < n:
        rng.shuffle(problems)
        for problem in problems[: n - len(texts)]:
            shown = Problem(tuple(rng.sample(problem.numbers, len(problem.numbers))), problem.target, problem.solution)
            texts.append((task.prompt(shown), problem.solution))
    return texts
