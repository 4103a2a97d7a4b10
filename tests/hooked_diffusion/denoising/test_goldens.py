"""Token for token against Dream's and LLaDA's own samplers, run on the same random weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hooked_diffusion import HookedDiffusionTransformer

pytestmark = pytest.mark.shared

SELECT = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy", "low_confidence": "confidence"}


class Golden:
    """A tiny checkpoint, the samples its original sampler drew, and the canvas they started from."""

    def __init__(self, folder: Path):
        self.model = HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None)
        self.tensors = load_file(folder / "reference.safetensors")
        self.samples = json.loads((folder / "reference.json").read_text())["samples"]

    def canvas(self, new_tokens: int) -> torch.Tensor:
        prompt, mask = self.tensors["prompt"], self.model.spec.mask_token_id
        assert mask is not None
        return torch.cat([prompt, prompt.new_full((1, new_tokens), mask)], 1)


@pytest.fixture(scope="module")
def dream(shared) -> Golden:
    return Golden(shared / "goldens" / "dream-tiny")


@pytest.fixture(scope="module")
def llada(shared) -> Golden:
    return Golden(shared / "goldens" / "llada-tiny")


def test_every_sample_of_dream_with_its_history(dream):
    for sample in dream.samples:
        trajectory = dream.model.denoise(
            dream.canvas(sample["new_tokens"]),
            preset="dream",
            steps=sample["steps"],
            select=SELECT[sample["select"]],
            eps=sample["eps"],
            temperature=sample["temperature"],
        )
        assert torch.equal(trajectory.tokens, dream.tensors[sample["key"]]), sample["key"]
        assert torch.equal(trajectory.canvases[:, 0], dream.tensors[sample["key"] + ".history"]), sample["key"]
    assert len(dream.samples) == 12


def test_every_sample_of_llada(llada):
    for sample in llada.samples:
        trajectory = llada.model.denoise(
            llada.canvas(sample["new_tokens"]),
            preset="llada",
            steps=sample["steps"],
            select=SELECT[sample["select"]],
            block_length=sample["block_length"],
            temperature=sample["temperature"],
        )
        assert torch.equal(trajectory.tokens, llada.tensors[sample["key"]]), sample["key"]
    assert len(llada.samples) == 4


def test_idle_steps_of_dream_run_no_forward(dream):
    trajectory = dream.model.denoise(dream.canvas(16), preset="dream", steps=64, select="confidence")
    assert trajectory.forwards == 15
