"""What is masked, and what a masked token weighs, against hand-worked cases and a plain float64 version."""

from __future__ import annotations

import pytest
import torch

from hooked_diffusion.posttrain import Recipe, Rows, preset
from hooked_diffusion.posttrain.noise import add_noise, cart_weights

from .helpers import MASK, generator, rows


def masked_diffusion(**changes: object) -> Recipe:
    return preset("llada", 10, logit_shift=1, **changes)


def test_only_the_answer_is_masked_when_asked() -> None:
    noised = add_noise(rows(), MASK, masked_diffusion(answer_only=1.0), generator())
    assert not noised.masked[:, :4].any() and noised.masked[:, 4:].any()
    assert torch.equal(noised.inputs == MASK, noised.masked) and torch.equal(noised.weight > 0, noised.masked)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_first_token_is_masked_only_where_something_predicts_it(shift: int) -> None:
    noised = add_noise(rows(2000), MASK, preset("llada", 10, logit_shift=shift, answer_only=0.0), generator())
    assert bool(noised.masked[:, 0].any()) == (shift == 0) and noised.masked[:, 1].any()


def test_packed_texts_have_noise_of_their_own_and_padding_has_none() -> None:
    segment = torch.tensor([[0, 0, 0, 0, 1, 1, -1, -1]]).repeat(500, 1)
    noised = add_noise(Rows(rows(500).tokens, torch.ones(500, 8, dtype=torch.bool), segment), MASK, masked_diffusion(), generator())
    assert not noised.masked[:, [0, 4, 6, 7]].any()  # two first tokens, and padding
    t = 1 / noised.weight[:, [1, 5]]
    both = noised.masked[:, [1, 5]].all(1)
    assert both.any() and not torch.allclose(t[both, 0], t[both, 1])


def test_blocks_have_noise_levels_of_their_own() -> None:
    noised = add_noise(rows(800), MASK, preset("block", 10, block_length=4, answer_only=0.0), generator())
    both = noised.masked[:, [1, 2, 5]].all(1)
    t = 1 / noised.weight[both][:, [1, 2, 5]]
    assert torch.equal(t[:, 0], t[:, 1]) and not torch.allclose(t[:, 0], t[:, 2])


def test_one_over_t_is_unbiased() -> None:
    """E[weight] = 1 at every candidate: it is masked with probability t, and then weighs 1/t."""
    noised = add_noise(rows(20_000), MASK, masked_diffusion(t_min=0.2), generator())
    assert noised.weight[:, 4:].mean().item() == pytest.approx(1, abs=0.02)


def test_cart_by_hand() -> None:
    """Tokens 0 and 3 are seen: position 1 is 1 and 2 away, ½ (0.3 + 0.3 · 0.7) = 0.255; position 2 likewise; position 4, 1 and 4."""
    one = Rows(torch.zeros(1, 5, dtype=torch.long), torch.ones(1, 5, dtype=torch.bool))
    weight = cart_weights(one, torch.tensor([[False, True, True, False, True]]), 0.3)
    assert weight[0, [1, 2, 4]].tolist() == pytest.approx([0.255, 0.255, 0.5 * 0.3 * (1 + 0.7**3)])


def test_cart_in_float64_within_texts() -> None:
    segment = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1]]).expand(16, -1)
    packed = Rows(rows(16).tokens, torch.ones(16, 8, dtype=torch.bool), segment)
    masked = torch.rand(16, 8, generator=generator()) < 0.5
    weight = cart_weights(packed, masked, 0.4)
    for b in range(16):
        for n in range(7):
            seen = [i for i in range(7) if segment[b, i] == segment[b, n] and i != n and not masked[b, i]]
            expected = sum(0.5 * 0.4 * 0.6 ** (abs(n - i) - 1) for i in seen)
            assert weight[b, n].item() == pytest.approx(expected, rel=1e-5)
