"""Tokenizers that fail, or that would, are refused by name; errors that are not theirs are let through."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.tokenizers import check_tokenizer, tokenizer_errors

ARM = DiffusionSpec()


def tokenizer_of(vocabulary: dict[str, int], *, unk: str | None = None, normalizer: Any = None) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=unk) if unk else models.WordLevel(vocabulary))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if normalizer is not None:
        inner.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=unk)


def test_one_that_works_passes():
    check_tokenizer("mine", tokenizer_of({"?": 0, "a": 1, "b": 2}, unk="?"), 3, ARM)


def test_one_of_whole_words_passes():
    check_tokenizer("mine", tokenizer_of({"x": 0}), 3, ARM)


def test_one_that_fails_on_its_own_token_is_refused():
    with pytest.raises(ValueError, match=r"mine: the tokenizer fails: .*; pass another one, or tokenizer=None and token ids"):
        check_tokenizer("mine", tokenizer_of({"x": 0}, normalizer=normalizers.Replace("x", "y")), 3, ARM)


def test_one_without_tokens_is_refused():
    with pytest.raises(ValueError, match="mine: the tokenizer (has no tokens|fails)"):
        check_tokenizer("mine", tokenizer_of({}), 3, ARM)


def test_one_that_multiplies_text_is_refused():
    bomb = normalizers.Sequence([normalizers.Replace("a", "a " * 2000)])
    with pytest.raises(ValueError, match="mine: the tokenizer makes 2000 tokens of 'a'; pass another one"):
        check_tokenizer("mine", tokenizer_of({"?": 0, "a": 1, "b": 2}, unk="?", normalizer=bomb), 3, ARM)


def test_an_error_that_is_not_the_tokenizers_shows_itself():
    with pytest.raises(ZeroDivisionError), tokenizer_errors("mine"):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), tokenizer_errors("mine"):
        raise KeyboardInterrupt
