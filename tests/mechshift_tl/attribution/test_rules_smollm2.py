"""Backward rules on a real language model, held against the scores of the originals' own code (GIM, RelP's fork)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.readouts import Readouts

pytestmark = [pytest.mark.slow, pytest.mark.shared]
#: The rules of each golden, and the error allowed as a share of the largest score: rounding of float32 on both sides.
RULES = {"gim_norm": ("norms", 2e-6), "gim_all": ("gim", 2e-6), "relp": ("relp", 4e-6)}


def test_rules_score_as_the_originals_do(smollm2: Path, shared: Path) -> None:
    model = HookedDiffusionTransformer.from_pretrained(smollm2)
    reference = json.loads((shared / "goldens/rules_smollm2/reference.json").read_text())
    scores = load_file(shared / "goldens/rules_smollm2/scores.safetensors")
    prompts = reference["prompts"]

    def column(name: str) -> torch.Tensor:
        return torch.tensor([[int(prompt[name])] for prompt in prompts])

    first = model.tokenizer.bos_token_id
    clean, corrupt = (torch.tensor([[first, *model.tokenizer(p[side])["input_ids"]] for p in prompts]) for side in ("clean", "corrupted"))
    answers, foils = column("correct_idx"), column("incorrect_idx")
    after = torch.full_like(answers, clean.shape[1])
    rows = Readouts.from_tokens(torch.cat([clean, answers], 1), torch.cat([corrupt, answers], 1), after, answers, foils)
    for name, (backward, allowed) in RULES.items():
        found = attribute(model, rows, method="eap", backward=backward, kv="ungrouped")
        assert found.writers == reference["writers"] and found.readers[:-1] == reference["readers"][: len(found.readers) - 1]
        # Theirs is the mean over prompts, divided by their number once more.
        error = (found.matrix / len(prompts) - scores[name]).abs().max() / scores[name].abs().max()
        assert error < allowed, f"{name}: {error:.1e}"
