"""Text pairs become aligned rows, or are dropped for a reason that is counted."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import processors
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hooked_diffusion import DiffusionSpec
from mechshift_tl.tasks import Example, Examples, Task, TextPair
from mechshift_tl.tasks.examples import CannotAlign, encode_pair, split_answer
from mechshift_tl.tasks.task import in_split, is_held_out


def pair(prompt: str = "w4 w5", answer: str = " w6 w7", corrupt: str = "w4 w8", foil: str = " w9 w10", **rest) -> TextPair:
    return TextPair(prompt, answer, corrupt, rest.pop("corrupt_answer", foil), foil, rest.pop("group", "g"), **rest)


class Toy(Task):
    """Ten pairs in a random order, two of which do not align and one that it screens out; one more to train on."""

    name = "toy"

    def draw(self, rng: random.Random, split) -> Iterator[TextPair]:
        if split == "train":
            yield pair()
            return
        pairs = [pair(f"w{i} w5", corrupt=f"w{i} w8", group=str(i)) for i in range(20, 27)]
        pairs += [pair("w30", corrupt="w30 w31"), pair("w31", corrupt="w31 w32"), pair("w40 w5", corrupt="w40 w8")]
        rng.shuffle(pairs)
        yield from pairs

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        return "screened" if "w40" in pair.prompt else None

    def solved(self, example: Example, decoded: str) -> bool:
        return decoded == "w6 w7"


def test_the_hash_that_holds_out_never_changes() -> None:
    keys = [f"key {i}" for i in range(2000)]
    held_out = [key for key in keys if is_held_out(key)]
    assert held_out[:5] == ["key 10", "key 14", "key 16", "key 17", "key 21"]
    assert 160 < len(held_out) < 240
    assert all(in_split(key, "held_out") != in_split(key, "train") for key in keys)


def test_the_answer_starts_where_its_first_token_ends(words, bpe) -> None:
    ids, start = split_answer(words, "Input: 5,6,7,18\nOutput: ", "5+6=11,11+7=18")
    assert words.convert_ids_to_tokens(list(ids[:start])) == "<s> Input : 5 , 6 , 7 , 18 Output :".split()
    assert words.convert_ids_to_tokens(list(ids[start:])) == "5 + 6 = 11 , 11 + 7 = 18".split()
    ids, start = split_answer(bpe, "Input: 5,6,7,18\nOutput: ", "5+6=11,11+7=18")
    assert bpe.decode(ids[start:]).strip() == "5+6=11,11+7=18" and bpe.decode(ids[:start]).endswith("Output:")
    ids, start = split_answer(bpe, "Then, Amy and Tom sat. Tom spoke to", " Amy")
    assert bpe.decode(ids[start:]) == " Amy"


def test_a_tokenizer_that_closes_the_row_itself_does_not_lengthen_the_answer(word_tokenizer) -> None:
    open_row = split_answer(word_tokenizer, "w4 w5", " w6 w7")
    backend = word_tokenizer.backend_tokenizer
    before = backend.post_processor
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    try:
        assert word_tokenizer("w4")["input_ids"] == [0, 4, 1]
        assert split_answer(word_tokenizer, "w4 w5", " w6 w7") == open_row == ((0, 4, 5, 6, 7), 3)
    finally:
        backend.post_processor = before


def test_a_pair_becomes_rows(word_tokenizer) -> None:
    example = encode_pair(word_tokenizer, pair())
    assert example.clean == (0, 4, 5, 6, 7) and example.corrupt == (0, 4, 8, 9, 10)
    assert (example.answer_start, example.answer, example.foil, example.group) == (3, (6, 7), (9, 10), "g")
    assert example.readable == (True, True)


@pytest.mark.parametrize(
    ("foil", "also_valid", "readable"),
    [
        (" w6 w9", (), (False, True)),
        (" w9 w7", (), (True, False)),
        (" w9 w10", (" w9 w7",), (False, True)),
        (" w9 w10", (" w6 w10",), (True, False)),
        (" w9 w10", (" w10 w9",), (True, True)),
    ],
)
def test_positions_where_the_foil_is_not_wrong_are_not_read(word_tokenizer, foil: str, also_valid, readable) -> None:
    assert encode_pair(word_tokenizer, pair(foil=foil, also_valid=also_valid)).readable == readable


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"corrupt": "w4 w8 w9"}, "clean and corrupt differ in length"),
        ({"corrupt": "w4", "corrupt_answer": " w9 w10 w11"}, "clean and corrupt differ in length"),
        ({"foil": " w9", "corrupt_answer": " w9 w10"}, "answer and foil differ in length"),
        ({"prompt": "w4 nobody"}, "a word is not in the vocabulary"),
        ({"foil": " w9 nobody"}, "a word is not in the vocabulary"),
        ({"foil": " w6 w7"}, "no position where the foil is wrong"),
        ({"also_valid": (" w9 w11", " w6 w10")}, "no position where the foil is wrong"),
    ],
)
def test_pairs_that_do_not_align_say_why(word_tokenizer, changes, reason: str) -> None:
    with pytest.raises(CannotAlign, match=reason):
        encode_pair(word_tokenizer, pair(**changes))


def test_examples_count_what_they_drop(word_tokenizer) -> None:
    examples = Toy().examples(word_tokenizer, None)
    assert len(examples) == 7
    assert examples.dropped == {"clean and corrupt differ in length": 2, "screened": 1}
    assert Toy().examples(word_tokenizer, n=7, seed=0).rows == examples.rows
    assert len(Toy().examples(word_tokenizer, 1, split="train")) == 1


def test_the_seed_decides(word_tokenizer) -> None:
    prompts = [[e.pair.prompt for e in Toy().examples(word_tokenizer, 5, seed=seed)] for seed in (3, 3, 4)]
    assert prompts[0] == prompts[1] != prompts[2]


def test_more_than_there_are_is_refused_with_the_reasons(word_tokenizer) -> None:
    message = "task 'toy' can make 7 held_out examples with this tokenizer, not 8; dropped .*2: clean and corrupt differ.*Ask for fewer"
    with pytest.raises(ValueError, match=message):
        Toy().examples(word_tokenizer, n=8)
    with pytest.raises(ValueError, match="task 'toy': n must be at least 1, got 0"):
        Toy().examples(word_tokenizer, n=0)


def test_examples_are_a_sequence(word_tokenizer) -> None:
    examples = Toy().examples(word_tokenizer, n=5)
    assert examples[1] == list(examples)[1] and isinstance(examples[1:3], Examples)
    assert examples[1:3].rows == examples.select([1, 2]).rows == examples.rows[1:3]
    assert examples[-1] == examples.rows[4] and examples[::2].tokenizer is word_tokenizer
    frame = examples.to_dataframe()
    assert len(frame) == 5 and set(frame["answer_tokens"]) == set(frame["positions_read"]) == {2}
    assert "<b>toy</b>: 5 examples" in examples._repr_html_()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(examples, "seed", 1)  # noqa: B010


class Fluent:
    """An ARM that has learned the rows it was given by heart."""

    def __init__(self, rows: list[tuple[int, ...]]) -> None:
        self.rows, self.spec = rows, DiffusionSpec()
        self.cfg = SimpleNamespace(d_vocab=48, d_vocab_out=-1, device="cpu", model_name="fluent")

    def token_logits(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, 48)
        for i, row in enumerate(tokens.tolist()):
            known = next(k for k in self.rows if list(k[:3]) == row[:3])
            for p in range(3, len(row)):
                logits[i, p, known[p]] = 1.0
        return logits


@pytest.mark.parametrize("batch_tokens", [1, 1000])
def test_accuracy_is_the_share_that_is_solved(word_tokenizer, batch_tokens: int) -> None:
    examples = Toy().examples(word_tokenizer, n=4)
    right, wrong = [e.clean for e in examples[:3]], [(*examples[3].clean[:4], 9)]
    model: Any = Fluent(right + wrong)
    assert Toy().accuracy(model, examples, batch_tokens=batch_tokens) == 0.75
    assert isinstance(Toy().accuracy(model, examples), float)
