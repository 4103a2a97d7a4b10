"""Scores against those of the reference EAP-IG implementation, on its own random models.

The reference reads the prediction at the last token of a row; `target_pos` names the predicted token, so each row gets one more slot.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.readouts import ABSENT, Readouts

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
METHODS: dict[str, dict[str, Any]] = {
    "EAP": {"method": "EAP"},
    "EAP-IG-inputs": {"ig_steps": 5, "rule": "left"},
    "EAP-IG-inputs-30": {"ig_steps": 30, "rule": "left"},
    "clean-corrupted": {"method": "clean-corrupted"},
}
#: The reference's names. Both of its metrics are losses and its scores what corrupting an edge adds to them, so signs agree with ours.
METRICS = {"nld": "logit_diff", "kl": "kl"}
SLOT = 0


class Golden:
    """A random Llama, the reference's scores on it, and what they were computed on."""

    def __init__(self, folder: Path) -> None:
        native = LlamaForCausalLM(LlamaConfig(**json.loads((folder / "config.json").read_text())))
        native.load_state_dict(load_file(folder / "model.safetensors"))
        self.model = HookedDiffusionTransformer.from_hf(native)
        self.tensors = load_file(folder / "reference.safetensors")
        self.reference = json.loads((folder / "reference.json").read_text())

    def masked(self, lengths: Tensor) -> Readouts:
        """The same rows as one rectangle: anything at all stands where `attention_mask` is 0, the slot included."""
        shape = 2, len(lengths), self.tensors["clean"].shape[1] + 1
        ids = torch.randint(0, self.model.cfg.d_vocab, shape, generator=torch.Generator().manual_seed(7))
        visible = torch.arange(ids.shape[2]) < lengths[:, None]
        clean, corrupt = (
            torch.where(visible, torch.nn.functional.pad(self.tensors[name], (0, 1)), anything)
            for name, anything in zip(("clean", "corrupted"), ids, strict=True)
        )
        return Readouts.from_tokens(clean, corrupt, lengths, *self.tensors["labels"].T, attention_mask=visible)

    def readouts(self, lengths: Tensor) -> Readouts:
        """Rows of `lengths` tokens, each followed by its slot and then by padding."""
        answers, foils = self.tensors["labels"].T[..., None]
        rows = torch.arange(len(answers))
        clean, corrupt = (pad(self.tensors[name], lengths) for name in ("clean", "corrupted"))
        return Readouts(
            clean, corrupt, lengths[:, None], answers, foils, step=torch.zeros_like(rows), example=rows, groups=("all",) * len(rows)
        )


def pad(tokens: Tensor, lengths: Tensor) -> Tensor:
    """`(n, pos + 1)`: each row's first `length` tokens, its slot, then nothing."""
    tokens = torch.cat([tokens, tokens[:, :1]], 1)
    place = torch.arange(tokens.shape[1])
    tokens = tokens.masked_fill(place == lengths[:, None], SLOT)
    return tokens.masked_fill(place > lengths[:, None], ABSENT)


@pytest.fixture(scope="module", params=["eap_mha", "eap_gqa"])
def golden(request) -> Golden:
    return Golden(GOLDENS / request.param)


def disagreement(matrix: Tensor, reference: Tensor) -> float:
    """Largest difference of an edge, as a share of the largest score."""
    return ((matrix - reference).abs().max() / reference.abs().max()).item()


def lengths_of(golden: Golden, kind: str) -> Tensor:
    clean = golden.tensors["clean"]
    return golden.tensors["lengths_padded"] if kind == "padded" else torch.full((len(clean),), clean.shape[1])


@pytest.mark.parametrize("lengths", ["full", "padded"])
@pytest.mark.parametrize("method", METHODS)
def test_every_edge_agrees(golden: Golden, method: str, lengths: str) -> None:
    scores = attribute(golden.model, golden.readouts(lengths_of(golden, lengths)), kv="ungrouped", **METHODS[method])
    assert scores.writers == golden.reference["rows"]
    assert scores.readers == golden.reference["columns"]
    assert torch.equal(scores.graph.possible, golden.tensors["real_edge_mask"].bool())
    assert scores.graph.n_edges == golden.reference["n_edges"]
    assert disagreement(scores.matrix, golden.tensors[f"{method}.nld.{lengths}"]) < 1e-5


@pytest.mark.parametrize("lengths", ["full", "padded"])
@pytest.mark.parametrize("method", ["EAP-IG-inputs", "clean-corrupted"])
def test_both_metrics_in_one_sweep_agree_through_a_mask(golden: Golden, method: str, lengths: str) -> None:
    readouts = golden.masked(lengths_of(golden, lengths))
    scores = attribute(golden.model, readouts, kv="ungrouped", metric=list(METRICS.values()), **METHODS[method])
    for theirs, ours in METRICS.items():
        assert disagreement(scores[ours].matrix, golden.tensors[f"{method}.{theirs}.{lengths}"]) < 1e-5, theirs


@pytest.mark.parametrize("lengths", ["full", "padded"])
def test_every_edge_patched_agrees(golden: Golden, lengths: str) -> None:
    scores = attribute(golden.model, golden.readouts(lengths_of(golden, lengths)), method="exact", kv="ungrouped")
    assert disagreement(scores.matrix, golden.tensors[f"exact.nld.{lengths}"]) < 1e-5


def test_grouped_scores_are_the_sum_over_each_group(golden: Golden) -> None:
    readouts = golden.readouts(lengths_of(golden, "full"))
    grouped, ungrouped = (attribute(golden.model, readouts, ig_steps=5, rule="left", kv=kv) for kv in ("grouped", "ungrouped"))
    for column, reader in enumerate(grouped.readers):
        kind = reader[-3:] if reader.endswith(">") else ""
        shared = [c + kind for c in grouped.graph.components_of(reader)] or [reader]
        summed = ungrouped.matrix[:, [ungrouped.readers.index(name) for name in shared]].sum(1)
        assert disagreement(grouped.matrix[:, column], summed) < 1e-5, reader


def test_the_metric_at_both_ends_is_the_reference_s(golden: Golden) -> None:
    scores = attribute(golden.model, golden.readouts(lengths_of(golden, "full")), ig_steps=1, keep_per_example=True)
    expected = torch.stack([golden.tensors["baseline_clean"], golden.tensors["baseline_corrupted"]])
    assert scores.ends_per_example is not None
    torch.testing.assert_close(scores.ends_per_example.double(), expected, rtol=1e-5, atol=1e-5)
    assert (scores.clean, scores.corrupt) == pytest.approx(expected.mean(1).tolist(), abs=1e-5)


def test_the_gap_of_the_midpoint_rule_falls_with_the_square_of_the_steps(golden: Golden) -> None:
    readouts = golden.readouts(lengths_of(golden, "full"))
    left = attribute(golden.model, readouts, ig_steps=5, rule="left")
    five, twenty, forty = (attribute(golden.model, readouts, ig_steps=steps).completeness_gap for steps in (5, 20, 40))
    assert left.matrix[0].sum().item() == pytest.approx(golden.tensors["EAP-IG-inputs.nld.full"][0].sum().item(), rel=1e-4)
    assert abs(five) < 0.01 < abs(left.completeness_gap)
    assert twenty / forty == pytest.approx(4, rel=0.05)
    assert abs(attribute(golden.model, readouts, ig_steps=20, rule="gauss-legendre").completeness_gap) < 1e-4
