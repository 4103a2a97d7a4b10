"""Sentences, years above and below, and a file of other people's sentences."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest
from transformers import AutoTokenizer

from mechshift_tl.readouts import readouts
from mechshift_tl.readouts.pool import read_correctly
from mechshift_tl.tasks import IOI, GreaterThan, TextPair
from mechshift_tl.tasks.examples import encode_pair
from mechshift_tl.tasks.excluding import Excluding
from mechshift_tl.tasks.greater_than import CENTURIES, NOUNS, STARTS, start_year
from mechshift_tl.tasks.task import Split


def drawn(task: GreaterThan, n: int = 300, split: Split = "held_out") -> list[TextPair]:
    return list(islice(task.draw(random.Random(0), split), n))


@pytest.mark.parametrize("gap", ["", " "])
def test_the_answer_lies_above_the_start_and_the_foil_does_not(gap: str) -> None:
    for pair in drawn(GreaterThan(gap=gap)):
        match = re.search(rf"from the year (\d\d){gap}(\d\d) to", pair.prompt)
        assert match is not None
        century, start = match.groups()
        assert pair.prompt.endswith(f" to the year {century}") and start_year(pair.prompt) == int(start)
        assert 2 <= int(pair.foil) <= int(start) < int(pair.answer) <= 99
        assert pair.corrupt_prompt == pair.prompt.replace(f"{century}{gap}{start}", f"{century}{gap}01")
        assert pair.corrupt_answer == pair.answer and pair.group == f"{start[0]}0s"
        assert [int(text) for text in pair.also_valid] == list(range(int(start) + 1, 100))


def test_answers_and_foils_take_every_value() -> None:
    pairs = drawn(GreaterThan(), 40_000, "train")
    assert set(range(10, 100)) <= {int(p.answer) for p in pairs} <= set(range(3, 100)) and {int(p.foil) for p in pairs} == set(range(2, 99))


def test_held_out_are_centuries_with_starts_and_every_number_is_trained() -> None:
    task = GreaterThan()
    held_out, train = set(task.starts("held_out")), set(task.starts("train"))
    assert not held_out & train and len(held_out | train) == len(CENTURIES) * len(STARTS)
    assert {start for _, start in train} == set(STARTS) and {century for century, _ in held_out} == set(CENTURIES)
    prompts = {prompt for prompt, _ in task.training_texts(30_000)}
    assert not prompts & {pair.prompt for pair in drawn(task, 10_000)}
    assert task.capacity("held_out") == len(held_out) * len(NOUNS) == len({pair.prompt for pair in drawn(task, 10_000)})


def test_training_texts_repeat_with_other_answers() -> None:
    task = GreaterThan(nouns=("war",), centuries=(17,))
    texts = task.training_texts(1000)
    assert len(texts) == 1000 and texts == task.training_texts(1000) and len({prompt for prompt, _ in texts}) == len(task.starts("train"))
    assert all(int(answer) > start_year(prompt) for prompt, answer in texts)


def test_a_word_a_token_reads_one_position(five) -> None:
    task = GreaterThan()
    examples = task.examples(five, 60)
    assert not examples.dropped and all(len(e.answer) == 1 and e.readable == (True,) for e in examples)
    differ = {tuple(a != b for a, b in zip(e.clean, e.corrupt, strict=True)) for e in examples}
    assert len(differ) == 1 and sum(next(iter(differ))) == 1
    start = start_year(examples[0].pair.prompt)
    verdicts = [task.solved(examples[0], f" {year:02d}") for year in (start - 1, start, start + 1, 99)]
    assert verdicts == [False, False, True, True] and not task.solved(examples[0], "war") and not task.solved(examples[0], "9")


def test_an_answer_above_its_foil_is_read_correctly(five, tiny_for) -> None:
    """Many years are right, so the pool asks for no first rank."""
    model, examples = tiny_for(five)["arm"], GreaterThan().examples(five, 40)
    made = readouts(model, examples)
    (batch,) = made.batches(10_000)
    logits = batch.logits(model)[:, 0]
    expected = [(row[e.answer[0]] > row[e.foil[0]]).item() for row, e in zip(logits, examples, strict=True)]
    assert read_correctly(model, made, correct="above_foil").tolist() == expected and 0 < sum(expected) < 40
    assert Excluding(GreaterThan(), [], "seen").correct == "above_foil" and IOI().correct == "first"


@pytest.mark.parametrize(
    ("start", "answer", "foil", "readable"),
    [
        (41, "47", "30", (True, True)),  # 3x is below; 40 is, too
        (41, "52", "40", (False, False)),  # 4x may be above, and 50 is
        (41, "52", "37", (True, False)),  # 57 is above
        (45, "47", "41", (False, True)),
    ],
)
def test_a_digit_of_the_foil_that_begins_a_year_above_is_not_read(bpe, start: int, answer: str, foil: str, readable) -> None:
    sentence = "The war lasted from the year 17{} to the year 17"
    valid = tuple(str(year) for year in range(start + 1, 100))
    pair = TextPair(sentence.format(start), answer, sentence.format("01"), answer, foil, "40s", valid)
    if any(readable):
        assert encode_pair(bpe, pair).readable == readable
    else:
        with pytest.raises(ValueError, match="no position where the foil is wrong"):
            encode_pair(bpe, pair)


def test_digits_stand_alone_under_bpe(bpe) -> None:
    task = GreaterThan(gap="")
    examples = task.examples(bpe, 40)
    assert {len(e.answer) for e in examples} == {2} and set(examples.dropped) <= {"no position where the foil is wrong"}
    assert all(task.solved(e, bpe.decode(e.answer)) and not task.solved(e, bpe.decode(e.foil)) for e in examples)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"gap": "-"}, "gap is '-'; choose '' or ' '"), ({"centuries": (9, 17)}, "centuries are two-digit numbers")],
)
def test_settings_that_cannot_be(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GreaterThan(**settings)


CLEAN, CORRUPT = "The contract lasted from the year 1352 to the year 13", "The contract lasted from the year 1301 to the year 13"


def test_a_file_gives_sentences(tmp_path, bpe) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"clean,corrupted,label\n{CLEAN},{CORRUPT},52\n{CLEAN},{CORRUPT},52\n")
    task = GreaterThan.from_csv(path)
    assert task.rows is not None and len(task.rows) == task.capacity("held_out") == 2 and drawn(task, split="train") == []
    (row,) = set(task.rows)
    examples = task.examples(bpe, None)
    assert [e.pair for e in examples] == [row] and examples.dropped == {"a prompt that came before": 1}
    assert (row.prompt, row.corrupt_prompt, row.group) == (CLEAN, CORRUPT, "50s") and int(row.foil) <= 52 < int(row.answer)
    assert GreaterThan.from_csv(path).rows == task.rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{CLEAN},{CLEAN}", "row 2: the corrupt side is 'The contract.*1352.*', not '.*1301"),
        (f"{CLEAN.replace('52', '99')},{CORRUPT}", "row 2: .*1399.* is no sentence"),
        ("Then Amy sat,Then Tom sat", "row 2: 'Then Amy sat' is no sentence"),
    ],
)
def test_files_that_are_not_greater_than_are_refused(tmp_path, line: str, message: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"clean,corrupted\n{line}\n")
    with pytest.raises(ValueError, match=message):
        GreaterThan.from_csv(path)
    path.write_text("clean,hard\n")
    with pytest.raises(ValueError, match="no column corrupted; it has clean, hard"):
        GreaterThan.from_csv(path)


@pytest.mark.shared
def test_every_given_sentence_is_read(shared, bpe) -> None:
    task = GreaterThan.from_csv(shared / "data" / "greater_than.csv")
    assert task.rows is not None and len(task.rows) == 1000
    examples = task.examples(bpe, None)
    assert (
        len(examples) + sum(examples.dropped.values()) == 1000
        and examples.dropped["a prompt that came before"] == 18  # of prompts that were kept; the others fail again as before
        and len(examples) > 700
    )


@pytest.mark.shared
@pytest.mark.slow
def test_given_sentences_under_smollm2(shared, smollm2) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    examples = GreaterThan.from_csv(shared / "data" / "greater_than.csv").examples(tokenizer, None)
    assert len(examples) > 700 and {len(e.answer) for e in examples} == {2}
