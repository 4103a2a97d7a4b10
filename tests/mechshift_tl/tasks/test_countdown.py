"""The checker on hand-made answers, the solver against brute force, and the problems that follow."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest

from mechshift_tl.tasks import Countdown
from mechshift_tl.tasks.countdown_problems import Problem, is_solution, problems, solutions, spellings
from mechshift_tl.tasks.examples import split_answer


@pytest.mark.parametrize(
    ("text", "numbers", "target"),
    [
        ("44-15=29,79-29=50", (15, 44, 79), 50),
        (" 44 - 15 = 29 , 79 - 29 = 50\n", (15, 44, 79), 50),
        ("15+35=50,79-50=29", (79, 15, 35), 29),
        ("5*8=40,11+40=51", (11, 5, 8), 51),
        ("8/4=2,2*3=6", (3, 4, 8), 6),
        ("3-3=0,24+0=24", (3, 3, 24), 24),
        ("0/5=0,0+2=2", (5, 0, 2), 2),
        ("2+2=4,4*4=16", (2, 2, 4), 16),
        ("86+28=114,31-13=18,114-18=96", (86, 28, 13, 31), 96),
        ("7+0=7", (7, 0), 7),
    ],
)
def test_the_checker_accepts(text: str, numbers: tuple[int, ...], target: int) -> None:
    assert is_solution(text, numbers, target)


@pytest.mark.parametrize(
    ("text", "numbers", "target", "why"),
    [
        ("44-15=28,79-28=51", (15, 44, 79), 51, "an equation is false"),
        ("44-15=29,79-29=50", (15, 44, 79), 51, "the target is another"),
        ("44-15=29", (15, 44, 79), 29, "79 is not used"),
        ("44-15=29,79-29=50,50+7=57", (15, 44, 79), 57, "7 was not given"),
        ("15+15=30,79-30=49", (15, 44, 79), 49, "15 is used twice, 44 never"),
        ("44-15=29,29+29=58", (15, 44, 79), 58, "the intermediate 29 is used twice"),
        ("44-15=29,79-44=35", (15, 44, 79), 35, "44 is used twice, 29 never"),
        ("79-29=50,44-15=29", (15, 44, 79), 29, "29 is used before it is made"),
        ("44-15=29,79-29=50", (15, 44, 79, 1), 50, "1 is not used"),
        ("44-15=29,79-29=50", (15, 15, 44, 79), 50, "the second 15 is not used"),
        ("7/2=3,3+1=4", (7, 2, 1), 4, "7/2 is not whole"),
        ("7/0=0,0+1=1", (7, 0, 1), 1, "division by zero"),
        ("3-5=-2,9+-2=7", (3, 5, 9), 7, "a negative number"),
        ("44-15=29;79-29=50", (15, 44, 79), 50, "another separator"),
        ("44-15=29,79-29", (15, 44, 79), 50, "an equation without a result"),
        ("44-15=29,79-29=50,", (15, 44, 79), 50, "a trailing comma"),
        ("79-44+15=50", (15, 44, 79), 50, "two operators in one equation"),
        ("__import__('os')", (1,), 1, "not arithmetic"),
        ("", (50,), 50, "nothing"),
    ],
)
def test_the_checker_refuses(text: str, numbers: tuple[int, ...], target: int, why: str) -> None:
    assert not is_solution(text, numbers, target), why


def brute_force(pool: tuple[int, ...], target: int, limit: int | None) -> set[str]:
    """Every text that solves the problem: any operand order, any equation order, whole results (positive up to `limit`, if given)."""
    if len(pool) == 1:
        return {""} if pool[0] == target else set()
    found = set()
    for i, j in permutations(range(len(pool)), 2):
        a, b = pool[i], pool[j]
        for operator, r in (("+", a + b), ("-", a - b), ("*", a * b), ("/", a / b if b else 0.5)):
            if r == int(r) and (r >= 0 if limit is None else 0 < r <= limit):
                rest = (*(x for k, x in enumerate(pool) if k not in (i, j)), int(r))
                found |= {f"{a}{operator}{b}={int(r)},{tail}".strip(",") for tail in brute_force(rest, target, limit)}
    return found


def unordered(text: str) -> frozenset[tuple[str, int]]:
    """A solution up to commutation and the order of its equations."""
    parts = [re.split(r"([-+*/=])", equation) for equation in text.split(",")]
    return frozenset(Counter(f"{sorted([a, b]) if o in '+*' else [a, b]}{o}{r}" for a, o, b, _, r in parts).items())


@pytest.mark.parametrize(
    ("numbers", "targets", "limit"),
    [
        ((3, 5, 8), range(1, 50), 99),
        ((4, 4, 1), range(1, 20), 99),
        ((2, 2, 2), range(0, 10), None),
        ((3, 3, 24), [24, 1, 3, 72], None),
        ((6, 3, 2), range(0, 40), 20),
        ((2, 3, 4, 10), [24, 7, 30], 99),
        ((1, 5, 5, 6), [11, 36, 6], None),
        ((3, 8, 2, 2), [6, 24, 0], None),
    ],
)
def test_the_solver_finds_what_brute_force_finds(numbers: tuple[int, ...], targets, limit: int | None) -> None:
    for target in targets:
        texts = brute_force(numbers, target, limit)
        found = solutions(numbers, target, limit)
        assert {spelling for solution in found for spelling in spellings(solution)} == texts, target
        assert len(found) == len({unordered(text) for text in texts}), target
        assert all(is_solution(text, numbers, target) for text in texts)
        assert found == solutions(numbers[::-1], target, limit)


def test_spellings_swap_operands_and_independent_equations() -> None:
    assert spellings("8-3=5,5*2=10") == ("8-3=5,2*5=10", "8-3=5,5*2=10")
    assert spellings("6/2=3,7-4=3,3-3=0") == ("6/2=3,7-4=3,3-3=0", "7-4=3,6/2=3,3-3=0")
    assert len(spellings("86+28=114,31-13=18,114-18=96")) == 4


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_problems_are_unique_and_written_in_canonical_form(split) -> None:
    made = problems(3, 12, 99, True, split)
    assert len({p.key for p in made}) == len(made) > 50
    for problem in made:
        assert solutions(problem.numbers, problem.target, 99) == (problem.solution,)
        assert is_solution(problem.solution, problem.numbers, problem.target)
        for equation in problem.solution.split(","):
            match = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", equation)
            assert match is not None and int(match[1]) >= int(match[3]) and 0 < int(match[4]) <= 99
    everything = problems(3, 12, 99, False, split)
    assert {p.key for p in made} < {p.key for p in everything}
    assert all(p.solution == min(solutions(p.numbers, p.target, 99)) for p in everything)


def test_the_splits_are_disjoint_and_do_not_depend_on_order() -> None:
    task = Countdown(largest=12)
    train, held_out = ({p.key for p in task.problems(split)} for split in ("train", "held_out"))
    assert not train & held_out
    assert 0.05 < len(held_out) / len(train | held_out) < 0.15
    assert Problem((3, 1, 2), 9, "").key == Problem((1, 2, 3), 9, "").key == "countdown:[1, 2, 3]=9"
    prompts = {prompt for prompt, _ in task.training_texts()}
    for number in range(1, 13):
        assert any(re.search(rf"\b{number}\b", prompt) for prompt in prompts), number


def test_shape_and_operators_of_a_problem() -> None:
    problem = Problem((15, 44, 79), 50, "44-15=29,79-29=50")
    assert problem.shown == "15,44,79,50" and problem.operators == "--"
    assert problem.shape == (2,) * 10
    assert Problem((5, 44, 79), 40, "44-5=39,79-39=40").shape == (1, 2, 2, 2, 2, 1, 2, 2, 2, 2)


def shown_in(prompt: str) -> str:
    match = re.search(r"Input: (\S+)\nOutput: $", prompt)
    assert match is not None
    return match[1]


def read_row(shown: str) -> tuple[tuple[int, ...], int]:
    *numbers, target = map(int, shown.split(","))
    return tuple(numbers), target


@pytest.mark.parametrize("kind", ["words", "bpe"])
@pytest.mark.parametrize("task", [Countdown(largest=20), Countdown(largest=12, unique=False)], ids=["unique", "any"])
def test_examples_are_aligned_and_solved(request, kind: str, task: Countdown) -> None:
    tokenizer = request.getfixturevalue(kind)
    examples = task.examples(tokenizer, n=40, seed=3)
    assert len(examples) == 40 and len({e.pair.prompt for e in examples}) == 40
    for example in examples:
        pair = example.pair
        assert len(example.clean) == len(example.corrupt) and len(example.foil) == len(example.answer) == len(example.readable)
        assert tokenizer.decode(example.foil) == tokenizer.decode(example.corrupt[example.answer_start :])
        assert task.solved(example, tokenizer.decode(example.answer)) and not task.solved(example, tokenizer.decode(example.foil))
        assert pair.foil == pair.corrupt_answer and pair.group == re.sub(r"[^-+*/]", "", pair.answer)
        (numbers, target), (others, other) = (read_row(shown_in(prompt)) for prompt in (pair.prompt, pair.corrupt_prompt))
        assert (sorted(numbers), target) != (sorted(others), other) and is_solution(pair.corrupt_answer, others, other)
        assert set(pair.also_valid) == brute_force(numbers, target, task.limit)


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_every_field_has_as_many_tokens_on_both_sides(request, kind: str) -> None:
    tokenizer = request.getfixturevalue(kind)
    for example in Countdown(largest=20).examples(tokenizer, n=20):
        for clean, corrupt in zip(*(re.findall(r"\d+|\D", tokenizer.decode(ids)) for ids in (example.clean, example.corrupt)), strict=True):
            assert clean.isdigit() == corrupt.isdigit()
            assert len(tokenizer(clean)["input_ids"]) == len(tokenizer(corrupt)["input_ids"])


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_a_position_is_read_unless_the_foil_begins_a_solution(request, kind: str) -> None:
    tokenizer = request.getfixturevalue(kind)
    for example in Countdown(largest=20, unique=False).examples(tokenizer, n=30):
        texts = brute_force(*read_row(shown_in(example.pair.prompt)), 99)
        valid = [ids[start:] for ids, start in (split_answer(tokenizer, example.pair.prompt, text) for text in texts)]
        for i, (foil, readable) in enumerate(zip(example.foil, example.readable, strict=True)):
            assert readable == all(ids[: i + 1] != (*example.answer[:i], foil) for ids in valid)


def test_digits_stand_alone_under_bpe(bpe) -> None:
    example = Countdown(largest=20).examples(bpe, n=1)[0]
    tokens = bpe.convert_ids_to_tokens(list(example.answer))
    assert [token for token in tokens if token != "Ġ"] == list(example.pair.answer)


def test_more_than_there_are_is_refused(words) -> None:
    task = Countdown(largest=6)
    everything = task.examples(words, None)
    assert 0 < len(everything) <= len(task.problems())
    with pytest.raises(ValueError, match=rf"task 'countdown' can make at most \d+ held_out examples, not {len(task.problems()) + 1}"):
        task.examples(words, n=len(task.problems()) + 1)
    assert len(task.examples(words, n=len(everything))) == len(everything)


def write_rows(path: Path, *rows: tuple[str, str]) -> Path:
    path.write_text("".join(json.dumps({"input": shown, "output": solution}) + "\n" for shown, solution in rows))
    return path


ROWS = (
    ("15,44,79,50", "44-15=29,79-29=50"),
    ("65,34,56,25", "65-34=31,56-31=25"),
    ("27,34,72,65", "34-27=7,72-7=65"),
    ("3,3,24,24", "3-3=0,24+0=24"),
    ("13,48,97,62", "48-13=35,97-35=62"),
)


def test_a_file_gives_shots_and_problems(tmp_path) -> None:
    task = Countdown.from_jsonl(write_rows(tmp_path / "rows.jsonl", *ROWS), header="Use +-*/.", n_shots=2, unique=False)
    assert [p.solution for p in task.problems()] == [solution for _, solution in ROWS[2:]]
    assert task.problems("train") == ()
    assert task.prompt(task.problems()[0]) == (
        "Use +-*/.\n\nInput: 15,44,79,50\nOutput: 44-15=29,79-29=50\n\nInput: 65,34,56,25\nOutput: 65-34=31,56-31=25\n\n"
        "Input: 27,34,72,65\nOutput: "
    )


def test_given_rows_are_kept_as_they_are_written(tmp_path, bpe) -> None:
    """Numbers in the file's order, its own solution as the answer; 3-3=0,24+0=24 is one of several."""
    task = Countdown.from_jsonl(write_rows(tmp_path / "rows.jsonl", *ROWS), n_shots=0)
    unique = {(p.shown, p.solution) for p in task.problems()}
    assert unique == {row for row in ROWS if len(solutions(*read_row(row[0]))) == 1} and ROWS[3] not in unique
    examples = Countdown.from_jsonl(write_rows(tmp_path / "rows.jsonl", *ROWS), n_shots=0, unique=False).examples(bpe, None)
    assert {(shown_in(e.pair.prompt), e.pair.answer) for e in examples} <= set(ROWS)


def test_a_file_that_does_not_solve_itself_is_refused(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", *ROWS[:2], ("1,2,3,7", "1+2=3,3+3=7"))
    with pytest.raises(ValueError, match="rows.jsonl, line 3: '1\\+2=3,3\\+3=7' does not solve '1,2,3,7'"):
        Countdown.from_jsonl(path)


def test_solved_reads_the_last_question(words) -> None:
    shots = (Problem((15, 44, 79), 50, "44-15=29,79-29=50"),)
    task = Countdown(largest=12, shots=shots, header="Use them all.")
    assert task.prompt(Problem((1, 2, 3), 6, "")).count("Input: ") == 2
    plain = Countdown(largest=12).examples(words, n=1)[0]
    example = dataclasses.replace(plain, pair=dataclasses.replace(plain.pair, prompt=task.prompt(Problem((1, 2, 3), 6, ""))))
    assert task.solved(example, " 2 + 1 = 3 , 3 + 3 = 6") and not task.solved(example, shots[0].solution)


@pytest.mark.shared
@pytest.mark.parametrize("n", [3, 4, 5])
def test_every_row_of_dream_s_files_solves(shared, n: int) -> None:
    task = Countdown.from_jsonl(shared / "data" / f"dream_cd{n}_test.jsonl", n_shots=0, unique=False)
    assert len(task.problems()) == 1000 and all(len(p.numbers) == n for p in task.problems())
    shots = Countdown.from_jsonl(shared / "data" / f"dream_cd{n}_test.jsonl", unique=False)
    assert len(shots.problems()) == 992 and shots.preamble.count("Input: ") == 8


@pytest.mark.shared
def test_how_many_solutions_dream_s_problems_have(shared) -> None:
    task = Countdown.from_jsonl(shared / "data" / "dream_cd3_test.jsonl", n_shots=0, unique=False)
    forms = [solutions(p.numbers, p.target) for p in task.problems()]
    written = [{spelling for form in ways for spelling in spellings(form)} for ways in forms]
    assert all(p.solution in ways for p, ways in zip(task.problems(), written, strict=True))
    assert sum(map(len, written)) / 1000 == pytest.approx(4.45, abs=0.005)
    assert sum(len(ways) == 1 for ways in forms) / 1000 == pytest.approx(0.23, abs=0.005)
