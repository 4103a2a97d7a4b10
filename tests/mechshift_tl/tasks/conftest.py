"""The two kinds of tokenizer: a word a token, and byte-level BPE with a token per digit."""

from __future__ import annotations

import random
from importlib import resources
from itertools import islice

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mechshift_tl.tasks import IOI, Countdown


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    """The tiny pair's: every word and every number to 99 is one token."""
    with resources.as_file(resources.files("hooked_diffusion") / "pretrained" / "tiny" / "tokenizer") as folder:
        return AutoTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="session")
def bpe() -> PreTrainedTokenizerFast:
    """Trained on both tasks' texts, as Llama-3's or Qwen's are: spaces belong to words, digits stand alone, nothing is added in front."""
    rng = random.Random(0)
    pairs = [pair for task in (IOI(), Countdown(largest=20)) for pair in islice(task.draw(rng, "held_out"), 400)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([pair.prompt + pair.answer for pair in pairs], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
