"""Files of prompts as people have them: other separators, marks and line ends are read; what cannot be read is named."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from mechshift_tl.tasks import IOI, Countdown
from mechshift_tl.tasks.countdown_problems import MOST_NUMBERS, Problem, answers, has_one_solution, problems, solutions, ways, ways_in_order
from mechshift_tl.tasks.ioi import NAMES
from mechshift_tl.tasks.task import AGAIN

CLEAN, OTHER = "Then, Amy and Tom sat. Tom spoke to", "Then, Amy and Tom sat. Ann spoke to"
TABLE = f'clean,corrupted\n"{CLEAN}","{OTHER}"\n"Then, Tom and Amy sat. Tom spoke to","Then, Tom and Amy sat. Ann spoke to"\n'
FRACTION: dict[str, Any] = {"largest": 2.5}
LINES = '{"input": "15,44,79,50", "output": "44-15=29,79-29=50"}\n{"input": "65,34,56,25", "output": "65-34=31,56-31=25"}\n'


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        b"\xef\xbb\xbf" + TABLE.encode(),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace('","', '";"').replace("clean,", "clean;").encode(),
        TABLE.replace('","', '"\t"').replace("clean,", "clean\t").encode(),
        TABLE.replace("clean,", " clean , ").encode(),
        (TABLE + "\n\n,\n").encode(),
    ],
    ids=["plain", "byte order mark", "CRLF", "semicolons", "tabs", "spaced header", "empty rows"],
)
def test_tables_that_spreadsheets_write(tmp_path, content: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    rows = IOI.from_csv(path).rows
    assert rows is not None and [(row.prompt, row.answer, row.foil, row.group) for row in rows] == [
        (CLEAN, " Amy", " Tom", "ABBA"),
        ("Then, Tom and Amy sat. Tom spoke to", " Amy", " Tom", "BABA"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TABLE.replace("Amy", "Zoë").encode("latin-1"), "x.csv, line 2: byte 0xeb is not UTF-8 .*save the file as UTF-8"),
        (TABLE.encode("utf-16"), "x.csv is encoded in UTF-16; save it as UTF-8"),
        (b"", "x.csv: no column clean, corrupted; it has no header"),
        (
            f"clean,corrupted\n{CLEAN},{OTHER}\n".encode(),
            'x.csv, row 2 has 4 cells, but the header has 2; put a sentence with commas in "quotes"',
        ),
        (f'clean,corrupted\n"{CLEAN}"\n'.encode(), "x.csv, row 2 has 1 cells, but the header has 2"),
        (f'clean,corrupted\n"{CLEAN}",\n'.encode(), "x.csv, row 2: the cell 'corrupted' is empty"),
        (f'clean,clean,corrupted\n"{CLEAN}",x,y\n'.encode(), "x.csv has the column 'clean' twice; keep one of them"),
        (f'clean,corrupted\n"{CLEAN}","{"x" * 200_000}"\n'.encode(), "x.csv is no CSV table .field larger than field limit"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path, content: bytes, message: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        IOI.from_csv(tmp_path / "x.csv")
    assert "\n" not in str(raised.value)


def test_only_ordinary_files_are_read(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ValueError, match="is a folder, a pipe or a device; write the prompts to a file"):
            IOI.from_csv(tmp_path / name)
    with pytest.raises(ValueError, match="absent.jsonl does not exist; give a file of prompts"):
        Countdown.from_jsonl(tmp_path / "absent.jsonl")
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ValueError, match="large.csv has 65 MiB, more than 64; give fewer prompts"):
        IOI.from_csv(tmp_path / "large.csv")


@pytest.mark.parametrize("content", [LINES, "\ufeff" + LINES, LINES.replace("\n", "\r\n"), "\n" + LINES + "\n  \n"])
def test_json_lines_that_editors_write(tmp_path, content: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(content.encode())
    assert [p.shown for p in Countdown.from_jsonl(tmp_path / "x.jsonl", n_shots=0).rows or ()] == ["15,44,79,50", "65,34,56,25"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'input': 1}", 'x.jsonl, line 3: .* is no JSON; write .*"input": "…", "output": "…"'),
        ("[" * 100_000, "x.jsonl, line 3: .*… is no JSON"),
        ("[1, 2]", "x.jsonl, line 3: '.1, 2.' is no JSON object"),
        ('{"input": "1,2,3"}', "x.jsonl, line 3: 'output' is None, not a text"),
        ('{"input": 5, "output": "5"}', "x.jsonl, line 3: 'input' is 5, not a text"),
        (
            '{"input": "1;2;3", "output": "1+2=3"}',
            "x.jsonl, line 3: the input '1;2;3' is no list of numbers; write the numbers and the target",
        ),
        ('{"input": "1,2,-3", "output": "1+2=3"}', "is no list of numbers"),
        ('{"input": "1,٢,3", "output": "1+2=3"}', "is no list of numbers"),
        ('{"input": "1,2,3", "output": "1+2=4"}', "x.jsonl, line 3: '1\\+2=4' does not solve '1,2,3'"),
        (json.dumps({"input": "1,2,3", "output": "1+2=" + "9" * 5000}), "x.jsonl, line 3: '1\\+2=999.*… does not solve"),
        ('{"input": "1,2,3,4,5,6,7,28", "output": "1"}', "x.jsonl, line 3: a Countdown problem has 2 to 6 numbers, not 7"),
    ],
)
def test_lines_that_are_no_problem_are_named(tmp_path, line: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(LINES + line + "\n")
    with pytest.raises(ValueError, match=message) as raised:
        Countdown.from_jsonl(tmp_path / "x.jsonl")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_what_a_file_does_not_give_is_counted(tmp_path, bpe) -> None:
    rows = [
        ("3,3,24,24", "3-3=0,24+0=24"),  # the worked example
        ("3,3,24,24", "3-3=0,24+0=24"),
        ("33,25,12,96", "33-25=8,12*8=96"),
        ("34,26,12,96", "34-26=8,12*8=96"),
        ("34,26,12,96", "34-26=8,12*8=96"),
        ("3,85,5,30", "85+5=90,90/3=30"),
    ]
    lines = ['["input", "output"]', *(json.dumps({"input": shown, "output": solution}) for shown, solution in rows)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    task = Countdown.from_jsonl(tmp_path / "x.jsonl", n_shots=1)
    left_out = {
        "a header line": 1, "a worked example": 1, "a problem with several solutions": 1, "a problem without another of its shape": 1,
    }  # fmt: skip
    assert task.left_out("held_out") == left_out and task.left_out("train") == {}
    with pytest.raises(
        ValueError, match="at most 4 held_out examples, not 9; left out 1: a header line; left out 1: a worked example; left"
    ):
        task.examples(bpe, 9)
    examples = task.examples(bpe, None)
    assert examples.dropped == left_out | {AGAIN: 1}
    assert len({example.pair.prompt for example in examples}) == len(examples) == 2


def test_a_prompt_that_comes_twice_counts_once(words) -> None:
    pairs = tuple(example.pair for example in IOI().examples(words, 3))
    examples = IOI(rows=pairs + pairs[:2]).examples(words, None)
    assert len(examples) == 3 and examples.dropped == {AGAIN: 2}
    with pytest.raises(ValueError, match="can make 3 held_out examples.*dropped 2: a prompt that came before"):
        IOI(rows=pairs + pairs[:2]).examples(words, 4)


def test_every_example_ends_though_two_templates_give_one_sentence(words) -> None:
    task = IOI(
        names=NAMES[:10], templates=("{0} and {1} sat. {s} read to", "{0} and {1} sat.  {s} read to", "{0} and {1} sat. {s} read to")
    )
    drawn = task.examples(words, None)
    assert len(drawn) == len({example.pair.prompt for example in drawn}) == len(task.name_pairs("held_out")) * 2 * 2 * 2


@pytest.mark.parametrize("corruption", ["s2_to_other", "s2_to_io", "abc"])
def test_the_rest_is_listed_as_it_is_drawn(monkeypatch, words, corruption) -> None:
    task = IOI(names=NAMES[:12], templates=("Then, {0} and {1} went to the {place}. {s} gave a book to",), corruption=corruption)
    by_chance = task.examples(words, None)
    monkeypatch.setattr("mechshift_tl.tasks.ioi.MOST_MISSES", 1)
    listed = task.examples(words, None)
    assert {e.pair.prompt for e in by_chance} == {e.pair.prompt for e in listed} and len(by_chance) == len(listed)
    assert {(e.pair.prompt, e.pair.answer, e.pair.foil) for e in by_chance} == {(e.pair.prompt, e.pair.answer, e.pair.foil) for e in listed}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"n": 2.0}, "n is a whole number, or None for all there are, got 2.0"),
        ({"n": True}, "n is a whole number"),
        ({"n": "3"}, "n is a whole number"),
        ({"n": 2, "seed": None}, "seed is a whole number .*got None"),
        ({"n": 2, "seed": 2**64}, "seed is a whole number"),
        ({"n": 2, "split": "test"}, "split is 'test'; choose one of train, held_out"),
        ({"n": 2, "tokenizer": None}, "task 'ioi' needs a fast tokenizer, .* got None"),
    ],
)
def test_requests_that_cannot_be_are_refused(words, request_: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IOI().examples(**{"tokenizer": words, **request_})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IOI(names=(*NAMES[:6], " ")), "a name is ' '"),
        (lambda: IOI(templates=()), "there are no templates"),
        (lambda: IOI(templates=("{0} and {1} sat",)), r"needs \{0\}, \{1\} and \{s\}"),
        (lambda: IOI(templates=("{0} {1} {s} {where}",)), r"may have \{place\} and \{thing\}"),
        (lambda: IOI(templates=("{0} {1} {s",)), "is no format string"),
        (lambda: IOI.from_csv("x.csv", corruption=""), "the column of corrupt sentences is ''"),
        (lambda: Countdown(n_numbers=1), "n_numbers is 1; give a whole number of at least 2"),
        (lambda: Countdown(**FRACTION), "largest is 2.5"),
        (lambda: Countdown(rows=(Problem((1,), 1, ""),)), "2 to 6 numbers, not 1"),
        (lambda: Countdown(n_numbers=6).problems(), "6 numbers up to 60 make .* sets, which take too long to solve"),
    ],
)
def test_settings_that_would_do_harm_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_both_searches_find_the_same_solutions() -> None:
    for numbers in ((3, 4, 5), (2, 2, 3, 9), (1, 1, 1), (4, 5, 6, 6)):
        assert dict(ways_in_order(numbers, 99)) == dict(ways(numbers, 99))
        for target, found in ways(numbers, 99).items():
            assert ways(numbers, 99, target) == {target: found}
            assert has_one_solution(numbers, target, 99) == (len(found) == 1) == (len(solutions(numbers, target, 99)) == 1)


def test_the_search_is_bounded() -> None:
    started = time.process_time()
    assert not has_one_solution((3, 7, 12, 25, 50, 9), 100) and not has_one_solution((1, 2, 3, 4, 5, 6), 10)
    assert answers(Problem((1, 2, 3, 4, 5, 6), 10, "1+2=3,3-3=0,4*0=0,5*0=0,6*0=0")) is None
    with pytest.raises(ValueError, match=f"2 to {MOST_NUMBERS} numbers, not 7"):
        solutions(tuple(range(7)), 21)
    assert time.process_time() - started < 20
    assert problems(2, 4, 9, True, "train")


def test_a_prompt_with_too_many_answers_is_dropped(monkeypatch, words) -> None:
    monkeypatch.setattr("mechshift_tl.tasks.countdown_problems.MOST_ANSWERS", 3)
    answers.cache_clear()
    dropped = Countdown(largest=8, unique=False).examples(words, None).dropped
    answers.cache_clear()
    assert dropped["too many right answers to tell where the foil is wrong"] > 0


def test_paths_may_be_texts(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(TABLE)
    assert IOI.from_csv(str(tmp_path / "x.csv")).rows == IOI.from_csv(tmp_path / "x.csv").rows
