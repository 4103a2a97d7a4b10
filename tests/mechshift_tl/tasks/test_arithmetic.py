"""Sums worked by hand, what a corrupt side keeps, and local and global reads."""

from __future__ import annotations

import random
import re
from itertools import islice
from typing import Any, cast

import pytest

from mechshift_tl.tasks import Arithmetic, TextPair
from mechshift_tl.tasks.arithmetic import Sum, prompt
from mechshift_tl.tasks.fields import fields_of
from mechshift_tl.tasks.task import Split


def drawn(task: Arithmetic, n: int = 300, split: Split = "held_out") -> list[TextPair]:
    return list(islice(task.draw(random.Random(0), split), n))


@pytest.mark.parametrize(
    ("terms", "operators", "shown", "steps", "shape"),
    [
        ((25, 17, 8), "+-", "25+17-8", "25+17=42,42-8=34", (2, 2, 1, 2, 2)),
        ((9, 8, 7), "-+", "9-8+7", "9-8=1,1+7=8", (1, 1, 1, 1, 1)),
        ((40, 5), "-", "40-5", "40-5=35", (2, 1, 2)),
        ((1, 2, 3, 4), "+++", "1+2+3+4", "1+2=3,3+3=6,6+4=10", (1, 1, 1, 1, 1, 1, 2)),
    ],
)
def test_sums_by_hand(terms, operators: str, shown: str, steps: str, shape) -> None:
    made = Sum(terms, tuple(operators))
    assert (made.shown, made.steps, made.shape) == (shown, steps, shape)
    assert prompt(made) == f"Compute: {shown}\nSteps: "


def test_a_sum_is_the_same_whatever_the_order_of_its_terms() -> None:
    assert Sum((25, 17, 8), ("+", "-")).key == Sum((17, 25, 8), ("+", "-")).key == Sum((25, 8, 17), ("-", "+")).key
    assert Sum((25, 17, 8), ("+", "-")).key != Sum((25, 17, 8), ("-", "+")).key


@pytest.mark.parametrize("n_terms", [2, 3, 4])
def test_the_corrupt_side_has_the_same_shape_and_no_number_in_its_place(n_terms: int) -> None:
    for pair in drawn(Arithmetic(n_terms=n_terms), 100):
        clean, corrupt = (re.findall(r"\d+|\D", p + a) for p, a in ((pair.prompt, pair.answer), (pair.corrupt_prompt, pair.corrupt_answer)))
        assert len(clean) == len(corrupt) and pair.foil == pair.corrupt_answer and len(pair.group) == n_terms - 1
        for a, b in zip(clean, corrupt, strict=True):
            assert (a != b and len(a) == len(b)) if a.isdigit() else a == b
        numbers = [int(x) for x in re.findall(r"\d+", pair.answer)]
        assert all(1 <= x <= 99 for x in numbers)
        assert eval(pair.prompt.split()[1]) == numbers[-1]


def test_the_splits_are_disjoint() -> None:
    def key(text: str) -> str:
        terms = re.findall(r"\d+", shown := text.split()[1])
        return Sum(tuple(map(int, terms)), tuple(re.findall(r"[-+]", shown))).key

    task = Arithmetic()
    train, held_out = {key(p) for p, _ in task.training_texts(20_000)}, {key(p.prompt) for p in drawn(task, 2000)}
    assert not train & held_out and len(held_out) > 1000
    assert {int(x) for p, a in task.training_texts(5000) for x in re.findall(r"\d+", p + a)} == set(range(1, 100))
    assert task.training_texts(50) == task.training_texts(50) != task.training_texts(50, seed=1)


@pytest.mark.parametrize("kind", ["five", "bpe"])
def test_every_number_is_read_and_no_sign(request, kind: str) -> None:
    tokenizer = request.getfixturevalue(kind)
    task = Arithmetic()
    examples = task.examples(tokenizer, 40)
    assert len({e.pair.prompt for e in examples}) == 40
    for example in examples:
        assert task.solved(example, tokenizer.decode(example.answer)) and not task.solved(example, tokenizer.decode(example.foil))
        text = [tokenizer.decode([i]).strip() for i in example.answer]
        if kind == "five":
            assert [token for token, read in zip(text, example.readable, strict=True) if read] == re.findall(r"\d+", example.pair.answer)
        assert not any(read for token, read in zip(text, example.readable, strict=True) if not token.isdigit())


@pytest.mark.parametrize(
    ("read", "at"),
    [(("operand",), [0, 2, 8]), (("intermediate",), [6]), (("result",), [4, 10]), (("operand", "intermediate"), [0, 2, 6, 8])],
)
def test_local_and_global_reads(five, read, at: list[int]) -> None:
    whole, some = Arithmetic().examples(five, 20), Arithmetic(read=read).examples(five, 20)
    for example, of in zip(some, whole, strict=True):
        assert example.pair == of.pair and [i for i, readable in enumerate(example.readable) if readable] == at
        assert len(fields_of(example.pair.answer)) == len(example.answer)


def test_a_task_that_has_few_sums_ends(five) -> None:
    pairs = drawn(Arithmetic(n_terms=2, largest=6), 10_000, "train")
    assert 5 < len(pairs) == len({p.prompt for p in pairs}) < 72


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="n_terms, largest and limit are at least 2, got 1, 40, 99"):
        Arithmetic(n_terms=1)
    with pytest.raises(ValueError, match="Arithmetic: read holds 'copies'; choose among first operand, operand"):
        Arithmetic(read=cast(Any, ("copies",)))
