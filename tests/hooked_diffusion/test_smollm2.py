"""A real language model, SmolLM2-135M-Instruct, from its Q4_1 GGUF file and from a folder saved from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.checkpoints import LoadedCheckpoint, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow
IOI = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def loaded(smollm2: Path) -> LoadedCheckpoint:
    return load_checkpoint(smollm2)


@torch.no_grad()
def next_logits(model: Any, tokenizer: Any, text: str) -> Tensor:
    return model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("The capital of France is", " Paris"),
        (IOI, " Mary"),
        (IOI.replace("Mary and John", "John and Mary"), " Mary"),
        ("After Tom and Anna left the office, Anna gave a letter to", " Tom"),
    ],
)
def test_it_talks_sense(loaded: LoadedCheckpoint, text: str, word: str) -> None:
    best = next_logits(loaded.hf_model, loaded.tokenizer, text).argmax()
    assert loaded.tokenizer is not None and loaded.tokenizer.decode([int(best)]) == word


def test_shape_spec_and_provenance(loaded: LoadedCheckpoint) -> None:
    config: Any = loaded.hf_model.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (30, 9, 3)
    assert loaded.hf_model.lm_head.weight is loaded.hf_model.model.embed_tokens.weight
    assert loaded.spec == DiffusionSpec()
    assert loaded.source["notes"] == ["weights dequantised from Q4_1 (210 of 272 tensors), Q8_0 (1 of 272 tensors)"]


def test_transformers_reads_the_same_weights(loaded: LoadedCheckpoint, smollm2: Path) -> None:
    theirs: Any = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32)
    torch.testing.assert_close(next_logits(loaded.hf_model, loaded.tokenizer, IOI), next_logits(theirs, loaded.tokenizer, IOI))


def test_folder_and_bridge_agree_with_the_file(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    expected = next_logits(loaded.hf_model, loaded.tokenizer, IOI)
    save_checkpoint(loaded.hf_model, tmp_path, loaded.spec, loaded.tokenizer)
    again = load_checkpoint(tmp_path)
    assert again.tokenizer is not None and loaded.tokenizer is not None
    assert again.tokenizer(IOI)["input_ids"] == loaded.tokenizer(IOI)["input_ids"]
    assert torch.equal(next_logits(again.hf_model, again.tokenizer, IOI), expected)
    hooked = HookedDiffusionTransformer.from_pretrained(tmp_path)
    with torch.no_grad():
        logits = hooked(torch.tensor([again.tokenizer(IOI)["input_ids"]]))[0, -1]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
