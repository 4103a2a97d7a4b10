"""Sentences, their corruptions and their answers; files of other people's sentences."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mechshift_tl.tasks import IOI, TextPair
from mechshift_tl.tasks.ioi import NAMES, TEMPLATES
from mechshift_tl.tasks.task import Split


def drawn(task: IOI, n: int = 200, split: Split = "held_out") -> list[TextPair]:
    return list(islice(task.draw(random.Random(0), split), n))


def names_in(sentence: str) -> list[str]:
    return [word for word in re.findall(r"\w+", sentence) if word in NAMES]


def test_the_indirect_object_is_named_once_and_the_subject_twice() -> None:
    for pair in drawn(IOI()):
        first, second, repeated = names_in(pair.prompt)
        io, s = pair.answer.strip(), pair.foil.strip()
        assert repeated == s and {first, second} == {io, s} and io != s
        index, order = pair.group.split(":")
        assert order == ("BABA" if first == s else "ABBA")
        assert re.sub(r"\{.*?\}", "", TEMPLATES[int(index)])[:4].strip() in pair.prompt


@pytest.mark.parametrize("corruption", ["s2_to_other", "s2_to_io", "abc"])
def test_what_a_corruption_changes(corruption) -> None:
    for pair in drawn(IOI(corruption=corruption)):
        clean, corrupt = names_in(pair.prompt), names_in(pair.corrupt_prompt)
        assert re.sub("|".join(NAMES), "_", pair.prompt) == re.sub("|".join(NAMES), "_", pair.corrupt_prompt)
        io, s = pair.answer.strip(), pair.foil.strip()
        if corruption == "abc":
            assert len(set(corrupt)) == 3 and not set(corrupt) & set(clean)
        else:
            assert corrupt[:2] == clean[:2]
            assert corrupt[2] == io if corruption == "s2_to_io" else corrupt[2] not in clean
        assert pair.corrupt_answer.strip() == (s if corruption == "s2_to_io" else io)


def test_draws_are_distinct_and_repeatable() -> None:
    pairs = drawn(IOI(), 500)
    assert len({pair.prompt for pair in pairs}) == 500
    assert pairs == drawn(IOI(), 500)
    assert {pair.group for pair in pairs} == {f"{i}:{order}" for i in range(len(TEMPLATES)) for order in ("ABBA", "BABA")}


def test_held_out_are_pairs_of_names_and_every_name_is_trained() -> None:
    task = IOI()
    held_out, train = task.name_pairs("held_out"), task.name_pairs("train")
    assert not set(held_out) & set(train) and len(held_out) + len(train) == len(NAMES) * (len(NAMES) - 1) // 2
    assert 0.05 < len(held_out) / (len(held_out) + len(train)) < 0.15
    assert {name for pair in train for name in pair} == set(NAMES)
    reversed_names = IOI(names=NAMES[::-1])
    assert reversed_names.name_pairs("held_out") == held_out
    splits: list[tuple[Split, list[tuple[str, str]]]] = [("held_out", held_out), ("train", train)]
    for split, pairs in splits:
        assert {tuple(sorted(set(names_in(pair.prompt)))) for pair in drawn(task, 300, split)} <= set(pairs)


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_examples_read_one_position(request, kind: str) -> None:
    tokenizer = request.getfixturevalue(kind)
    task = IOI()
    examples = task.examples(tokenizer, n=30, seed=1)
    for example in examples:
        assert len(example.clean) == len(example.corrupt) == example.answer_start + 1
        assert tokenizer.decode(example.answer).strip() == example.pair.answer.strip()
        assert tokenizer.decode(example.foil).strip() == example.pair.foil.strip()
        assert example.readable == (True,) and example.group == example.pair.group
        assert Counter(example.clean)[example.answer[0]] == 2 and Counter(example.clean)[example.foil[0]] == 2
        assert task.solved(example, f" {example.pair.answer.strip()} ") and not task.solved(example, example.pair.foil)
    if kind == "words":
        assert examples[-1].clean[0] == tokenizer.bos_token_id


def test_names_of_several_tokens_are_dropped_and_counted(bpe) -> None:
    task = IOI(names=(*NAMES[:6], "Quetzalcoatl", "Nebuchadnezzar"))
    examples = task.examples(bpe, n=20)
    assert examples.dropped["a name has more than one token"] > 0
    assert not any(re.search("Quetz|Nebuch", e.pair.prompt) for e in examples)
    assert all(len(bpe(e.pair.prompt)["input_ids"]) == len(bpe(e.pair.corrupt_prompt)["input_ids"]) for e in examples)


def test_words_that_the_tokenizer_lacks_are_dropped_and_counted(words) -> None:
    task = IOI(names=(*NAMES[:6], "Quetzalcoatl", "Nebuchadnezzar"))
    examples = task.examples(words, n=20)
    assert list(examples.dropped) == ["a word is not in the vocabulary"]
    assert not any(re.search("Quetz|Nebuch", e.pair.prompt + e.pair.corrupt_prompt) for e in examples)


def test_a_task_that_runs_dry_says_how_much_it_made(words) -> None:
    task = IOI(names=NAMES[:12], templates=("{0} and {1} gave a drink. {s} gave it to", "Then {0} and {1} sat. {s} read to"))
    capacity = len(task.name_pairs("held_out")) * 2 * 2 * 2
    assert len(task.examples(words, None)) == capacity > 0
    with pytest.raises(ValueError, match=f"task 'ioi' can make at most {capacity} held_out examples, not {capacity + 1}"):
        task.examples(words, n=capacity + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corruption": "s2"}, "unknown corruption 's2'; choose one of s2_to_other, s2_to_io, abc"),
        ({"names": NAMES[:4]}, "IOI: 4 names; give at least 5"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IOI(**settings)


def write_csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


CLEAN = "Then, Amy and Tom sat. Tom spoke to"


def test_answers_are_read_off_the_sentence(tmp_path) -> None:
    path = write_csv(
        tmp_path / "x.csv",
        "clean,corrupted,corrupted_hard,correct_idx",
        f'"{CLEAN}","Then, Amy and Tom sat. Ann spoke to","Then, Amy and Tom sat. Amy spoke to",17',
        '"Then, Tom and Amy sat. Tom spoke to","Then, Tom and Amy sat. Ann spoke to","Then, Tom and Amy sat. Amy spoke to",9',
    )
    easy, hard = IOI.from_csv(path), IOI.from_csv(path, corruption="corrupted_hard")
    assert easy.rows == (
        TextPair(CLEAN, " Amy", "Then, Amy and Tom sat. Ann spoke to", " Amy", " Tom", "ABBA"),
        TextPair("Then, Tom and Amy sat. Tom spoke to", " Amy", "Then, Tom and Amy sat. Ann spoke to", " Amy", " Tom", "BABA"),
    )
    assert hard.rows is not None and [row.corrupt_answer for row in hard.rows] == [" Tom", " Tom"]
    assert drawn(easy) == list(easy.rows or ()) and drawn(easy, split="train") == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["clean,hard", f'"{CLEAN}",x'], "x.csv: no column corrupted; it has clean, hard"),
        (["clean,corrupted", f'"{CLEAN}",x', '"It lasted from 1352 to 13",x'], "x.csv, row 3: 'It lasted.*does not name two people"),
        (["clean,corrupted", '"Then, Amy and Tom sat. Ann spoke to",x'], "row 2.*does not name two people, one of them twice"),
    ],
)
def test_files_that_are_not_ioi_are_refused(tmp_path, lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IOI.from_csv(write_csv(tmp_path / "x.csv", *lines))


@pytest.mark.shared
@pytest.mark.parametrize("corruption", ["corrupted", "corrupted_hard"])
def test_every_given_sentence_names_its_answer(shared, corruption: str) -> None:
    task = IOI.from_csv(shared / "data" / "ioi_llama.csv", corruption=corruption)
    assert task.rows is not None and len(task.rows) == 499
    for row in task.rows:
        words = re.findall(r"\w+", row.prompt)
        assert words.count(row.answer.strip()) == 1 and words.count(row.foil.strip()) == 2
        assert row.corrupt_answer == (row.foil if corruption == "corrupted_hard" else row.answer)
        assert len(words) == len(re.findall(r"\w+", row.corrupt_prompt))


@pytest.mark.shared
def test_a_file_of_another_task_is_refused(shared) -> None:
    with pytest.raises(ValueError, match="greater_than.csv, row 2: .* does not name two people"):
        IOI.from_csv(shared / "data" / "greater_than.csv")


@pytest.mark.shared
@pytest.mark.slow
def test_what_is_left_of_the_given_sentences_under_smollm2(shared, smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    examples = IOI.from_csv(shared / "data" / "ioi_llama.csv").examples(tokenizer, None)
    assert len(examples) == 266 and sum(examples.dropped.values()) == 499 - 266
