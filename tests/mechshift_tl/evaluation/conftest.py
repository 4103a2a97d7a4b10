"""Rows of many shapes, and rows that a tiny model solves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.readouts import ABSENT, Readouts


@pytest.fixture(scope="module")
def many_shapes() -> Readouts:
    """Four examples in two steps: eight rows of 6 to 8 tokens, read at 3, 2, 3 and 4 positions in all."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(3, 48, (2, 8, 8), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 8, 2), generator=generator)
    lengths = torch.tensor([8, 6, 7, 8, 8, 6, 7, 8])
    targets = torch.stack([lengths - 1, torch.full((8,), 4)], 1)
    beyond = torch.arange(8) >= lengths[:, None]
    unread = torch.tensor([[False, single] for single in (False, True, True, False, True, True, False, False)])
    targets, answers, foils = (value.masked_fill(unread, ABSENT) for value in (targets, answers, foils))
    return Readouts(
        clean=clean.masked_fill(beyond, ABSENT),
        corrupt=corrupt.masked_fill(beyond, ABSENT),
        target_pos=targets,
        answer_ids=answers,
        foil_ids=foils,
        step=torch.tensor([0, 0, 0, 0, 2, 2, 2, 2]),
        example=torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]),
        groups=("x", "y", "x", "y"),
    )


@pytest.fixture(scope="session")
def solved(native) -> Callable[..., tuple[Any, Readouts]]:
    """`solved(n, seed=0)`: a tiny full-attention model, and rows whose answer it ranks first when clean, and whose foil when corrupt."""
    spec = DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2)
    model = HookedDiffusionTransformer.from_hf(native("llama"), spec=spec)

    def make(n: int = 12, seed: int = 0) -> tuple[Any, Readouts]:
        generator = torch.Generator().manual_seed(seed)
        clean = torch.randint(3, 48, (n, 7), generator=generator)
        corrupt = clean.clone()
        corrupt[:, 1:4] = torch.randint(3, 48, (n, 3), generator=generator)
        with torch.no_grad():
            answers, foils = (model(tokens)[:, 6].argmax(-1) for tokens in (clean, corrupt))
        return model, Readouts.from_tokens(clean, corrupt, torch.full((n,), 6), answers, (foils + (foils == answers)) % 48)

    return make
