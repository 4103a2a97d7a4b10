"""Texts from prompts, files, records and the model itself; and how they are drawn and packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hooked_diffusion.posttrain import Mixture, Source, Text, pack
from hooked_diffusion.posttrain.sampling import own_samples
from hooked_diffusion.posttrain.texts import answered, cut, from_records, read_texts

END = 1


def test_the_answer_counts_and_the_end_of_text(word_tokenizer: PreTrainedTokenizerFast) -> None:
    plain, inside = answered(word_tokenizer, [("w4 w5 ", "w6"), ("w4", " w5", " w6")], END)
    assert plain == Text((0, 4, 5, 6, 1), (False, False, False, True, True))
    assert inside == Text((0, 4, 5, 6, 1), (False, False, True, False, False))


def test_documents_are_joined_and_cut(word_tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = cut(word_tokenizer, ["w4 w5", "w6 w7 w8"], 3, END)
    assert [piece.tokens for piece in pieces] == [(4, 5, 1), (6, 7, 8)] and all(all(piece.is_answer) for piece in pieces)


def test_files_and_datasets(word_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    records = [{"text": "w4 w5 w6"}, {"prompt": "w7", "answer": " w8"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    (tmp_path / "b.txt").write_text("w9 w10")
    texts = read_texts([tmp_path / "a.jsonl", tmp_path / "b.txt"], word_tokenizer, 4, END)
    assert [text.tokens for text in texts] == [(0, 7, 8, 1), (4, 5, 6, 1)]
    whole = Dataset.from_list([{"text": "w4 w5 w6"}])
    assert from_records(whole, word_tokenizer, 4, END) == [texts[1]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"w4", "all of it is shorter than a row of 4 tokens"),
        ("a.txt", b"\xff", "is not UTF-8 at byte 0"),
        ("a.jsonl", b"{", "line 1 is no JSON"),
        ("a.jsonl", b"[1]", "line 1 holds no object"),
        ("a.jsonl", b'{"x": 1}', 'record 1: it has x; give a "text"'),
        ("a.jsonl", b'{"prompt": "w4 w5 w6", "answer": " w7"}', "has 6 tokens, a row 4; ask for longer rows"),
    ],
)
def test_bad_files_are_named(word_tokenizer, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_texts([tmp_path / name], word_tokenizer, 4, END)
    with pytest.raises(ValueError, match="is no file"):
        read_texts([tmp_path / "none"], word_tokenizer, 4, END)


def text(n: int, first: int = 0) -> Text:
    return Text(tuple(range(first, first + n)), (True,) * n)


def test_packing_by_hand() -> None:
    packed = pack([text(3), text(2, 10), text(2, 20), text(1, 30)], 5, 9)
    assert packed.tokens.tolist() == [[0, 1, 2, 10, 11], [20, 21, 30, 9, 9]]
    assert packed.segment is not None and packed.segment.tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, -1, -1]]
    assert packed.place.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 1]] and packed.n_texts == 4
    assert packed.text[packed.visible].tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    with pytest.raises(ValueError, match="text 0 has 6 tokens, a row 5"):
        pack([text(6)], 5, 9)
    with pytest.raises(ValueError, match="there are no texts"):
        pack([], 5, 9)


def test_a_mixture_draws_by_the_step_and_knows_its_tokens() -> None:
    mixture = Mixture({"a": Source([text(3), text(4)], 5), "b": Source([text(2, 50)], 2)}, 8, 9)
    one, same = (mixture(torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(one.tokens, same.tokens) and one.n_texts == 7 and (one.tokens == 50).sum() == 2
    assert mixture.holds(51) == "b" and mixture.holds(99) is None
    with pytest.raises(ValueError, match="source 'c' has 0 texts"):
        Mixture({"c": Source([], 1)}, 8, 9)


def test_own_samples_follow_the_model(native: Callable[..., PreTrainedModel]) -> None:
    model = native("llama")
    texts = own_samples(model, 5, 6, 0, seed=1, batch=4)
    again = own_samples(model, 8, 6, 0, seed=1, batch=4)
    assert len(texts) == 5 and again[:5] == texts and len({sample.tokens for sample in again}) > 4
    assert all(sample.tokens[0] == 0 and len(sample.tokens) == 6 for sample in texts)
    many = own_samples(model, 2000, 2, 0, batch=2000)
    counts = torch.bincount(torch.tensor([sample.tokens[1] for sample in many]), minlength=48) / 2000
    with torch.no_grad():
        assert (counts - model(input_ids=torch.tensor([[0]])).logits[0, 0].softmax(-1)).abs().max() < 0.04
