"""The two kinds of tokenizer: a word a token, and byte-level BPE with a token per digit."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import resources
from itertools import islice

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.recipes.tiny_data import make_tokenizer
from mechshift_tl.tasks import IOI, Countdown, SemanticInfilling


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    """The tiny pair's: every word and every number to 99 is one token."""
    with resources.as_file(resources.files("hooked_diffusion") / "pretrained" / "tiny" / "tokenizer") as folder:
        return AutoTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="session")
def five() -> PreTrainedTokenizerFast:
    """The one that the tiny pair's recipe makes for all five tasks."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_for(native) -> Callable[[PreTrainedTokenizerFast], dict[str, HookedDiffusionTransformer]]:
    """A random ARM and a random MDM with as many words as the tokenizer given; both were trained with one `</s>` behind."""

    def make(tokenizer: PreTrainedTokenizerFast) -> dict[str, HookedDiffusionTransformer]:
        end = tokenizer.convert_tokens_to_ids(str(tokenizer.eos_token))
        assert isinstance(end, int)
        tail = (end,)
        mask = tokenizer.convert_tokens_to_ids(str(tokenizer.mask_token))
        assert isinstance(mask, int)
        mdm = DiffusionSpec("full", mask_token_id=mask, tail=tail)
        specs = {"arm": DiffusionSpec("causal", tail=tail), "mdm": mdm}
        return {role: HookedDiffusionTransformer.from_hf(native(vocab_size=len(tokenizer)), spec=spec) for role, spec in specs.items()}

    return make


@pytest.fixture(scope="session")
def bpe() -> PreTrainedTokenizerFast:
    """Trained on the tasks' texts, as Llama-3's or Qwen's are: spaces belong to words, digits stand alone, nothing is added in front."""
    rng = random.Random(0)
    pairs = [pair for task in (IOI(), Countdown(largest=20)) for pair in islice(task.draw(rng, "held_out"), 400)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    pairs += islice(SemanticInfilling().draw(rng, "held_out"), 200)
    tokenizer.train_from_iterator([pair.prompt + pair.answer + pair.suffix for pair in pairs], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
