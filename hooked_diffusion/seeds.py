"""Random numbers that can be drawn again: a seed, checked, and a generator that depends on nothing else."""

from __future__ import annotations

from torch import Generator

WORD = 2**64
#: Steps of one run get seeds of their own; a prime this large keeps the steps of small seeds apart.
STRIDE = 1_000_003


def check_seed(seed: int, name: str = "seed") -> int:
    """The seed itself. Raises ValueError, naming it, unless it is a whole number of 64 bits: −2⁶³ … 2⁶⁴ − 1, as torch takes them."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not -WORD // 2 <= seed < WORD:
        raise ValueError(f"{name} is a whole number from −2⁶³ to 2⁶⁴ − 1, got {seed!r}; give one, such as 0, to get the same draws again")
    return seed


def step_generator(seed: int, step: int) -> Generator:
    """The generator of one step: its draws depend on `seed` and `step` alone, not on the steps before.

    So a run draws the same numbers at a step when it is resumed there, and when it skips steps that draw nothing.
    """
    # torch reads a negative seed as the 64-bit number with the same bits; the remainder does the same, and never overflows.
    return Generator().manual_seed((seed * STRIDE + step) % WORD)
