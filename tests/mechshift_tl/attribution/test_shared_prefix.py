"""Tokens that the path does not move are left out of it: the same scores, and really fewer tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.attribution.path import quadrature
from mechshift_tl.interventions.replaced import writer_means
from mechshift_tl.readouts import Readouts


@pytest.fixture(scope="module")
def late() -> Readouts:
    """Four rows of nine tokens that differ from the fifth, sixth or seventh on, read at the eighth and at the last."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(3, 48, (4, 9), generator=generator)
    corrupt = clean.clone()
    for row, first in enumerate((4, 5, 6, 5)):
        corrupt[row, first] = (clean[row, first] + 1 - 3) % 45 + 3
    answers, foils = torch.randint(3, 48, (2, 4, 2), generator=generator)
    spans = {"early": (1, 3), "late": (5, 7)}
    return Readouts.from_tokens(clean, corrupt, torch.tensor([[8, 7]] * 4), answers, foils, spans=spans)


@pytest.fixture(scope="module")
def check(watched) -> Callable[..., None]:
    """`check(model, readouts, **settings)`: scores are those under somebody's hook, where nothing is left out."""

    def compare(model: Any, readouts: Readouts, **settings: Any) -> None:
        found = attribute(model, readouts, **settings)
        with watched(model):
            expected = attribute(model, readouts, **settings)
        for name in ("matrix", "per_example", "per_span"):
            if getattr(expected, name) is not None:
                error = getattr(found, name) - getattr(expected, name)
                assert error.abs().max() < 1e-5 * getattr(expected, name).abs().max(), name

    return compare


def test_the_walk_runs_on_moved_tokens_alone(bridged, late, counting) -> None:
    model, tokens = bridged("arm"), []
    attribute(model, late, ig_steps=1)  # what is looked at once per model
    with counting(model.blocks[0].mlp.original_component, tokens):
        attribute(model, late, ig_steps=1)
    # both ends on 8 of the 9 tokens, the last being read by nobody; then from the first change to there
    assert tokens == [2 * 4 * 8, 4 + 3 + 2 + 3]


@pytest.mark.parametrize("kind", ["arm", "gpt2", "plain llama", "plain qwen2"])
@pytest.mark.parametrize(
    "settings",
    [
        {}, {"kv": "ungrouped"}, {"method": "EAP"}, {"method": "clean-corrupted"}, {"method": "EAP-IG-activations", "ig_steps": 2},
        {"level": "nodes"}, {"level": "nodes", "method": "EAP-IG-activations", "ig_steps": 2}, {"level": "nodes", "method": "exact"},
        {"level": "neurons"}, {"per_position": True}, {"keep_per_example": True}, {"intervention": "zero"},
    ],
    ids=str,
)  # fmt: skip
def test_scores_are_the_whole_path_s(bridged, late, kind, settings, check) -> None:
    check(bridged(kind), late, **settings)


def test_means_move_every_token(bridged, late, check) -> None:
    model = bridged("arm")
    check(model, late, intervention="mean", means=writer_means(model, late))


def test_scores_are_their_definition(definition, bridged, late) -> None:
    found = attribute(bridged("arm"), late, ig_steps=2).matrix
    expected = definition(bridged("arm"), quadrature("midpoint", 2)).matrix(late)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_attention_that_looks_ahead_moves_every_token(bridged, native, late, check, counting) -> None:
    for model in (bridged("mdm"), HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec(attention="block", block_length=4))):
        check(model, late)
    model, tokens = bridged("arm"), []
    with model.attention("full"), counting(model.blocks[0].mlp.original_component, tokens):
        check(model, late)
    assert min(tokens) >= 9


def test_padding_on_the_left_is_unmoved_too(bridged, late, check) -> None:
    mask = torch.ones_like(late.clean, dtype=torch.bool)
    mask[0, :2] = mask[1, :3] = False
    tensors = {name: getattr(late, name) for name in ("clean", "corrupt", "target_pos", "answer_ids", "foil_ids")}
    check(bridged("arm"), Readouts.from_tokens(**tensors, attention_mask=mask))


def test_masks_that_differ_are_a_change(bridged, late, check) -> None:
    """One side hides a token that the other sees: from there on positions and keys are others."""
    clean, corrupt = torch.ones(2, *late.clean.shape, dtype=torch.bool)
    corrupt[:, 2] = False
    tensors = {name: getattr(late, name) for name in ("clean", "corrupt", "target_pos", "answer_ids", "foil_ids")}
    readouts = Readouts.from_tokens(**tensors, attention_mask=(clean, corrupt))
    check(bridged("arm"), readouts)
    check(bridged("arm"), dataclasses.replace(readouts, corrupt=readouts.clean))


def test_rows_without_any_change_score_nothing(bridged, late) -> None:
    tensors = {name: getattr(late, name) for name in ("clean", "target_pos", "answer_ids", "foil_ids")}
    scores = attribute(bridged("arm"), Readouts.from_tokens(corrupt=late.clean, **tensors))
    assert not scores.matrix.any()


def joint(logits: torch.Tensor, answers: torch.Tensor, foils: torch.Tensor) -> torch.Tensor:
    """The probability of all answers together: each position's gradient depends on what is read at the others."""
    return logits.log_softmax(-1).gather(2, answers[..., None])[..., 0].mul(0.1).sum(1).exp()


@pytest.mark.parametrize("kind", ["arm", "gpt2", "plain qwen2"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"level": "nodes", "method": "exact"},
        {"level": "nodes"},
        {"metric": joint},
        {"metric": joint, "method": "exact", "level": "nodes"},
    ],
)
def test_what_is_read_before_the_first_change_is_run(bridged, late, kind, settings, check) -> None:
    tensors = {name: getattr(late, name) for name in ("clean", "corrupt", "answer_ids", "foil_ids")}
    check(bridged(kind), Readouts.from_tokens(target_pos=torch.tensor([[3, 8], [2, 7], [5, 8], [1, 4]]), **tensors), **settings)
