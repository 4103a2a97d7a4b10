"""Seeds: which are taken, and that a step's draws depend on the seed and the step alone."""

import pytest
import torch

from hooked_diffusion.seeds import check_seed, step_generator


@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 - 1, -(2**63), 2**64 - 1])
def test_a_seed_of_64_bits_is_taken_and_gives_the_same_draws_again(seed):
    assert check_seed(seed) == seed
    first, again, other = (torch.rand(4, generator=step_generator(seed, step)) for step in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("seed", [-1, 0, 5, 123_456_789])
def test_a_step_has_the_seed_that_torch_would_give_it(seed):
    expected = torch.Generator().manual_seed(seed * 1_000_003 + 11)
    assert step_generator(seed, 11).initial_seed() == expected.initial_seed()


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**30, 1.5, "1", True, None])
def test_anything_else_is_refused_by_name(seed):
    with pytest.raises(ValueError, match=r"rows: seed is a whole number from −2⁶³ to 2⁶⁴ − 1, got "):
        check_seed(seed, "rows: seed")
