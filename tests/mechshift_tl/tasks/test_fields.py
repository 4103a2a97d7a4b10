"""Kinds of fields and of tokens, hard foils by hand, and Countdown read at some kinds alone."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from mechshift_tl.readouts import readouts
from mechshift_tl.tasks import Countdown
from mechshift_tl.tasks.countdown_problems import spellings
from mechshift_tl.tasks.fields import field_kinds, fields_of, hard_foil, token_kinds


def shown_in(prompt: str) -> list[str]:
    """The numbers of a prompt, and its target."""
    return prompt.split("Input: ")[1].split("\n")[0].split(",")


def letters(kinds) -> str:
    """One letter per field: f(irst operand), d (operand), i, o, r, t, s; - for none."""
    short = {"operand": "d", "intermediate": "i", "operator": "o", "result": "r", "target": "t", "sign": "s"}
    return "".join("f" if "first operand" in kind else "".join(short[k] for k in kind) or "-" for kind in kinds)


def test_fields_by_hand() -> None:
    answer = "44-15=29,79-29=50"
    assert fields_of(answer) == ["44", "-", "15", "=", "29", ",", "79", "-", "29", "=", "50"]
    assert letters(field_kinds(answer)) == "fodsrsdodsr"
    assert letters(field_kinds(answer, ends_at_target=True)) == "fodsrsdodst"
    assert letters(field_kinds("25+17=42,42-8=34", chained=True)) == "fodsrsiodsr"


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_every_token_has_its_fields_kind(request, kind: str) -> None:
    tokenizer = request.getfixturevalue(kind)
    for example in Countdown(largest=20).examples(tokenizer, 20):
        kinds = token_kinds(tokenizer, example, field_kinds(example.pair.answer, ends_at_target=True))
        assert len(kinds) == len(example.answer)
        by_letter = [letter for letter, field in zip("fodsrsdodst", fields_of(example.pair.answer), strict=True) for _ in field]
        one_each = list("fodsrsdodst") if kind == "words" else by_letter
        assert [letter for letter in letters(kinds) if letter != "-"] == one_each


@pytest.mark.parametrize(
    ("answer", "numbers", "target", "turn", "foil"),
    [
        ("44-15=29,79-29=50", (15, 44, 79), 50, 0, "15-44=15,15-15=15"),
        ("44-15=29,79-29=50", (15, 44, 79), 50, 1, "79-44=44,44-44=44"),
        ("8*4=32,32+7=39", (7, 8, 4), 39, 0, "7*7=39,39+8=39"),  # 4*8 is as right as 8*4; no given number has two digits
    ],
)
def test_hard_foils_by_hand(answer: str, numbers, target: int, turn: int, foil: str) -> None:
    assert hard_foil(answer, numbers, target, spellings(answer), turn) == foil


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_a_hard_foil_is_another_number_of_the_prompt_and_begins_no_solution(request, kind: str) -> None:
    tokenizer = request.getfixturevalue(kind)
    plain, hard = (Countdown(largest=20, foil=foil).examples(tokenizer, 60) for foil in ("corrupt", "prompt"))
    by_prompt = {e.pair.prompt: e.pair for e in Countdown(largest=20).examples(tokenizer, None)}
    assert len(plain) == 60
    for example in hard:
        pair, shown = example.pair, shown_in(example.pair.prompt)
        assert pair.corrupt_answer == by_prompt[pair.prompt].corrupt_answer != pair.foil
        written = ""
        for answer, foil in zip(fields_of(pair.answer), fields_of(pair.foil), strict=True):
            if answer != foil:
                assert foil in shown and len(foil) == len(answer)
                assert not any(re.match(re.escape(written + foil) + r"(?!\d)", text) for text in pair.also_valid)
            written += answer


@pytest.mark.parametrize(("read", "at"), [(("operand",), {0, 2, 6, 8}), (("result",), {4}), (("target",), {10}), (("operator",), {1, 7})])
def test_countdown_reads_the_kinds_asked_for(words, read, at: set[int]) -> None:
    whole = {e.pair.prompt: e for e in Countdown(largest=20).examples(words, None)}
    for example in Countdown(largest=20, read=read).examples(words, 30):
        of = whole[example.pair.prompt]
        assert [i for i, r in enumerate(example.readable) if r] == [i for i, r in enumerate(of.readable) if r and i in at]
    assert all(len(e.answer) == 11 for e in whole.values())


def test_problems_with_nothing_to_read_are_counted(words) -> None:
    examples = Countdown(largest=20, read=("operator",)).examples(words, None)
    assert examples.dropped["no position to read among operator"] > 0


def test_the_planning_read_sees_masks_alone(words, tiny_for) -> None:
    task = Countdown(largest=20, foil="prompt", read=("first operand",))
    examples = task.examples(words, 20)
    models = tiny_for(words)
    made = readouts(models["mdm"], examples, order="left_to_right")
    assert made.n_examples == len(made.clean) == 20 and set(made.step.tolist()) == {0}
    for example, row, answer, foil in zip(examples, made.clean.tolist(), made.answer_ids.tolist(), made.foil_ids.tolist(), strict=True):
        start, stop = example.answer_start, len(example.clean)
        assert set(row[start:stop]) == {words.mask_token_id}
        shown = shown_in(example.pair.prompt)
        assert words.decode(answer) in shown[:3] and words.decode(foil) in shown and answer != foil
    assert readouts(models["arm"], examples).target_pos.tolist() == made.target_pos.tolist()


def test_defaults_read_as_before(words) -> None:
    plain, explicit = Countdown(largest=12).examples(words, 20), Countdown(largest=12, foil="corrupt", read=None).examples(words, 20)
    assert plain.rows == explicit.rows and all(e.pair.foil == e.pair.corrupt_answer for e in plain)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="unknown foil 'near'; choose one of corrupt, prompt"):
        Countdown(foil=cast(Any, "near"))
    with pytest.raises(ValueError, match="Countdown: read holds 'number'"):
        Countdown(read=cast(Any, ("number",)))
