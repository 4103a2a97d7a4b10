"""Answers as token ids are read under the tokenizer whose ids they are, and under no other."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest
from transformers import PreTrainedTokenizerBase

from mechshift_tl.tasks import IOI, Prompts
from mechshift_tl.tasks.token_ids import text_of


def table(path: Path, tokenizer: PreTrainedTokenizerBase, n: int = 12, seed: int = 0) -> Path:
    """IOI as EAP-IG writes it, in a tokenizer's ids."""
    lines = [(e.pair.prompt, e.pair.corrupt_prompt, e.answer[0], e.foil[0]) for e in IOI().examples(tokenizer, n, seed)]
    pd.DataFrame(lines, columns=["clean", "corrupted", "correct_idx", "incorrect_idx"]).to_csv(path)  # with an index, as theirs have
    return path


@pytest.mark.parametrize("which", ["words", "bpe"])
def test_ids_of_this_tokenizer_open_as_texts(which, request, tmp_path) -> None:
    tokenizer = request.getfixturevalue(which)
    task = Prompts.from_file(table(tmp_path / "ioi.csv", tokenizer))
    assert (task.name, task.capacity("held_out")) == ("ioi", 12)
    found, drawn = task.examples(tokenizer, None), IOI().examples(tokenizer, 12)
    assert [(e.clean, e.foil) for e in found] == [(e.clean, e.foil) for e in drawn]
    assert task.dropped(tokenizer).empty


def test_ids_of_another_tokenizer_are_refused(words, bpe, tmp_path) -> None:
    with pytest.raises(ValueError, match="ioi.csv, row 2: correct_idx .* is no token that can follow the prompt .*; write the answers as"):
        Prompts.from_file(table(tmp_path / "ioi.csv", bpe)).examples(words, None)
    frame = pd.read_csv(table(tmp_path / "ioi.csv", words))
    # As if the vocabulary stood in another order: every id is a word, but another one.
    order = list(range(10, 200))
    random.Random(0).shuffle(order)
    moved = dict(zip(range(10, 200), order, strict=True))
    frame[["correct_idx", "incorrect_idx"]] = frame[["correct_idx", "incorrect_idx"]].map(lambda one: moved.get(one, one))
    frame.to_csv(tmp_path / "moved.csv")
    with pytest.raises(ValueError, match="moved.csv: nothing proves that its ids are this tokenizer's: .* with a chance of"):
        Prompts.from_file(tmp_path / "moved.csv").examples(words, None)


def test_too_few_rows_prove_nothing(bpe, tmp_path) -> None:
    frame = pd.read_csv(table(tmp_path / "ioi.csv", bpe)).head(1)
    frame["clean"] = "A book to"  # the answer stands there no more
    frame["corrupted"] = "A ring to"
    frame.to_csv(tmp_path / "one.csv")
    with pytest.raises(ValueError, match="nothing proves"):
        Prompts.from_file(tmp_path / "one.csv").examples(bpe, None)


def test_a_text_is_found_behind_its_prompt(words, bpe) -> None:
    assert text_of(words, "Then, Emma and", words.convert_tokens_to_ids("John")) == " John"
    assert text_of(bpe, "Then, Emma and", bpe(" John")["input_ids"][0]) == " John"
    assert text_of(bpe, "Then", len(bpe)) is None and text_of(bpe, "Then", bpe.eos_token_id) is None
