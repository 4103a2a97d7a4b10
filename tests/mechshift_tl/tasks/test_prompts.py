"""Your own prompts: rows become examples, or are named; files of every layout are read back to the same examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mechshift_tl.tasks import IOI, TASKS, Arithmetic, Countdown, GreaterThan, Prompts, SemanticInfilling
from mechshift_tl.tasks.examples import TextPair
from mechshift_tl.tasks.prompts import ONE_WORD
from mechshift_tl.tasks.task import AGAIN, Task

SENTENCE = "Then, {} and {} went to the store. {} gave a drink to"
ROW = {
    "clean": SENTENCE.format("Emma", "John", "John"), "corrupted": SENTENCE.format("Emma", "John", "Maria"), "answer": " Emma",
    "foil": " John",
}  # fmt: skip
OTHER = ROW | {"clean": SENTENCE.format("Mary", "John", "John"), "corrupted": SENTENCE.format("Mary", "John", "Emma"), "answer": " Mary"}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_gives_what_its_rows_give(words, tmp_path, ending) -> None:
    rows = [ROW | {"group": "a", "suffix": " ."}, OTHER | {"group": "b"}]
    task = Prompts.from_file(written(tmp_path / f"names.{ending}", rows))
    assert (task.name, task.capacity("held_out"), task.capacity("train")) == ("names", 2, 0)
    one, two = task.examples(words, None)
    assert words.decode(one.answer) == "Emma" and words.decode(one.suffix) == "." and one.pair.corrupt_suffix == " ."
    assert (one.group, two.group, two.suffix) == ("a", "b", ())
    assert [e.pair for e in Prompts(rows).examples(words, None)] == [one.pair, two.pair]
    assert [e.pair for e in Prompts(pd.DataFrame(rows)).examples(words, None)] == [one.pair, two.pair]
    assert task.solved(one, "Emma ") and not task.solved(one, "John")


def test_the_corrupt_prompt_has_the_foil_for_its_answer_unless_it_says_another(words) -> None:
    plain, own = Prompts([ROW, OTHER | {"corrupt_answer": " Mary"}]).rows
    assert (plain.corrupt_answer, own.corrupt_answer, plain.group) == (" John", " Mary", "all")


def test_answers_of_several_tokens_are_read_at_each(words) -> None:
    row = {"clean": "Compute: 5+6", "corrupted": "Compute: 7+8", "answer": "=11,", "foil": "=15,", "also_valid": ["=12,"]}
    (example,) = Prompts([row]).examples(words, None)
    assert len(example.answer) == 3 and example.readable == (False, True, False)
    assert Prompts([row]).solved(example, "=12,")


def test_what_cannot_be_aligned_is_counted_and_listed(words) -> None:
    rows = [
        ROW, ROW, OTHER | {"clean": SENTENCE.format("Zorg", "John", "John")}, OTHER | {"corrupted": "Then, they sat"},
        OTHER | {"foil": " John and"}, OTHER | {"answer": "Mary"}, OTHER,
    ]  # fmt: skip
    task = Prompts(rows)
    reasons = {
        2: AGAIN, 3: "a word is not in the vocabulary", 4: "clean and corrupt differ in length", 5: "answer and foil differ in length",
        6: ONE_WORD,
    }  # fmt: skip
    kept = task.examples(words, None)
    assert len(kept) == 2 and kept.dropped == dict.fromkeys(reasons.values(), 1)
    listed = task.dropped(words)
    assert dict(zip(listed["row"], listed["reason"], strict=True)) == {f"Prompts, row {row}": reason for row, reason in reasons.items()}


def test_scripts_without_capitals_need_no_space(words) -> None:
    row = TextPair("首都は", "東京", "首府は", "大阪", "大阪", "all")
    assert Prompts([row]).screen(words, row) is None and Prompts([ROW]).screen(words, TextPair("17", "41", "", "", "02", "")) is None


@pytest.mark.parametrize("task", [IOI(), GreaterThan(), Countdown(largest=20), SemanticInfilling(), Arithmetic()], ids=lambda one: one.name)
def test_what_commands_write_is_read_back(five, tmp_path, task: Task) -> None:
    drawn = task.examples(five, 6, 1)
    drawn.write_csv(tmp_path / "prompts.csv")
    back = Prompts.from_file(tmp_path / "prompts.csv")
    assert (back.name, back.correct, back.dependency) == (task.name, task.correct, task.dependency)
    again = back.examples(five, None)
    assert again.rows == drawn.rows and not again.dropped
    assert all(back.solved(example, example.pair.answer) for example in again) and back.kinds(again[0]) == task.kinds(drawn[0])


def test_a_task_judges_the_answers(words) -> None:
    example = Countdown(largest=20).examples(words, 1)[0]
    row = {"clean": example.pair.prompt, "corrupted": example.pair.corrupt_prompt, "answer": example.pair.answer, "foil": example.pair.foil}
    assert Prompts([row], like=Countdown()).solved(example, example.pair.answer)
    with pytest.raises(ValueError, match="Prompts, row 1: '1\\+1=2' after .* is no right answer of task 'countdown'"):
        Prompts([row | {"answer": "1+1=2"}], like=Countdown())
    with pytest.raises(ValueError, match="is no right answer of task 'greater_than'"):
        Prompts([row], like=GreaterThan())


ANY: Any = "text"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prompts([{"clean": "a", "corrupted": "b", "answer": "c"}]), "Prompts, row 1 has no foil; a row has clean, corrupted"),
        (lambda: Prompts([ROW, ROW | {"anwser": "x"}]), "Prompts, row 2: there is no entry 'anwser'; did you mean 'answer'"),
        (lambda: Prompts([ROW | {"answer": 5}]), "Prompts, row 1: answer is 5; give a text"),
        (lambda: Prompts([ROW | {"clean": " "}]), "Prompts, row 1: clean is ' '; give a text"),
        (lambda: Prompts([ROW | {"also_valid": "x"}]), "also_valid is 'x'; give a list of texts"),
        (lambda: Prompts([ANY]), "Prompts, row 1 is 'text'; give a mapping"),
        (lambda: Prompts([]), "there are no rows"),
        (lambda: Prompts([ROW], name=" "), "the name is ' '"),
    ],
)
def test_rows_that_are_none_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rows", ["prompts.csv", Path("prompts.csv"), ROW, 5, None])
def test_what_holds_no_rows_is_refused(rows: Any) -> None:
    with pytest.raises(TypeError, match=r"give a list of rows, or read a file by Prompts.from_file\(path\)"):
        Prompts(rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "clean,corrupted,answer\na,b,c\n", "x.csv: no column foil; it has clean, corrupted, answer"),
        ("x.csv", "clean,corrupted,answer,foil\n", "x.csv holds no prompts"),
        ("x.csv", "clean,corrupted,answer,foil\na,b,,d\n", "x.csv, row 2: the cell 'answer' is empty"),
        ("x.csv", "clean,corrupted,answer,foil,also_valid\na,b,c,d,e\n", "x.csv, row 2: also_valid is 'e'; write a JSON list"),
        ("x.jsonl", json.dumps(ROW) + "\n{\n", "x.jsonl, line 2: '{' is no JSON"),
        ("x.jsonl", json.dumps(ROW) + '\n{"clean": "a"}\n', "x.jsonl, line 2: 'corrupted' is None, not a text"),
        ("x.json", "[\n" + json.dumps(ROW) + "\n]", "x.json, line 1: '\\[' is no JSON"),
        ("x.csv", "clean,corrupted,correct_idx,incorrect_idx\na,b,5,-1\n", "x.csv, row 2: incorrect_idx is '-1', not one token id"),
        ("x.csv", 'clean,corrupted,correct_idx,incorrect_idx\na,b,5,"[1, 2]"\n', "incorrect_idx is '.1, 2.', not one token id; write the"),
    ],
)
def test_files_that_are_none_are_named(tmp_path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        Prompts.from_file(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["IOI", "ioi", "Greater-Than", "greaterthan", "COUNTDOWN", "SemanticInfilling", "infilling", "arithmetic"])
def test_names_in_any_case(text: str) -> None:
    from mechshift_tl.tasks import task_class

    assert task_class(text) in TASKS.values()


@pytest.mark.parametrize(
    ("text", "near"), [("iio", "ioi"), ("contdown", "countdown"), ("greater_then", "greater_than"), ("infil", "infilling")]
)
def test_a_slip_is_answered_with_the_nearest_name(text: str, near: str) -> None:
    from mechshift_tl.tasks import task_class

    with pytest.raises(ValueError, match=f"unknown task '{text}'; did you mean {near}\\?"):
        task_class(text)
