"""Known truths are what they are called: the same function where they say so, another one where they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.study import truths

TOKENS = torch.randint(3, 48, (4, 9), generator=torch.Generator().manual_seed(0))


def logits(model: HookedDiffusionTransformer) -> Tensor:
    with torch.no_grad():
        return model(TOKENS)


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def model(request: pytest.FixtureRequest, native: Callable[..., Any]) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(request.param), spec=DiffusionSpec("full", mask_token_id=2))


@pytest.mark.parametrize(
    "change",
    [
        truths.copied, truths.heads_permuted, truths.neurons_permuted, lambda model: truths.silent_layer(model, "front"),
        lambda model: truths.silent_layer(model, "behind"),
    ],
)  # fmt: skip
def test_the_same_function(model: HookedDiffusionTransformer, change: Callable[..., HookedDiffusionTransformer]) -> None:
    before = logits(model)
    other = change(model)
    assert torch.allclose(logits(other), before, atol=1e-4)
    assert torch.equal(logits(model), before) and other.spec == model.spec


@pytest.mark.parametrize(
    ("change", "far"),
    [(lambda model: truths.noisy(model, 0.005), False), (truths.shuffled, True), (lambda model: truths.reinitialised(model, 7), True)],
)
def test_another_function(model: HookedDiffusionTransformer, change: Callable[..., HookedDiffusionTransformer], far: bool) -> None:
    before = logits(model)
    correlation = torch.corrcoef(torch.stack([logits(change(model)).flatten(), before.flatten()]))[0, 1].item()
    assert abs(correlation) < 0.3 if far else 0.98 < correlation < 1
    assert torch.equal(logits(model), before)


def test_seeds_differ_and_repeat(model: HookedDiffusionTransformer) -> None:
    for change in (
        truths.heads_permuted,
        truths.neurons_permuted,
        truths.shuffled,
        truths.reinitialised,
        lambda m, seed: truths.noisy(m, 0.01, seed),
    ):
        first, again, other = (truths.weights_of(change(model, seed=seed)) for seed in (1, 1, 3))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not all(torch.equal(first[name], other[name]) for name in first)


def test_other_families_are_refused(native: Callable[..., Any]) -> None:
    model = HookedDiffusionTransformer.from_hf(native("gpt2"), spec=DiffusionSpec())
    with pytest.raises(ValueError, match="Llama, Qwen2 and Qwen3"):
        truths.heads_permuted(model)
