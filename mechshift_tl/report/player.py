"""A denoising run as the page plays it: `templates/player.js` steps through it."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from mechshift_tl.views.playback import Playback


class Played(TypedDict):
    """By step k, from 0: `canvases[k]` is what step k starts from, the last is the result; null where it is masked. See `Playback`."""

    canvases: list[list[str | None]]
    positions: list[int]
    commits: list[int]
    confidence: list[float]
    depths: list[str]
    lens: list[list[list[tuple[str, float]]]]
    heads: list[str]
    attention: list[list[list[list[float]]]]


def played(run: Playback) -> Played:
    """What the player needs; lens by step, mask and depth; attention by step, head and mask."""
    return {
        "canvases": [_row(run, tokens, masked) for tokens, masked in zip(run.canvases, run.masked, strict=True)],
        "positions": run.positions.tolist(),
        "commits": run.commit_step.tolist(),
        "confidence": _rounded(run.confidence, 3),
        "depths": ["embeddings", *(f"layer {i}" for i in range(run.lens_id.shape[1] - 1))],
        "lens": [[_depths(run, step, mask) for mask in range(len(run.positions))] for step in range(run.steps)],
        "heads": run.heads,
        "attention": _rounded(run.attention, 2),
    }


def _row(run: Playback, tokens: Tensor, masked: Tensor) -> list[str | None]:
    return [None if hidden else spelled(run.words[token]) for token, hidden in zip(tokens.tolist(), masked.tolist(), strict=True)]


def _depths(run: Playback, step: int, mask: int) -> list[tuple[str, float]]:
    ids, sure = run.lens_id[step, :, mask].tolist(), _rounded(run.lens_probability[step, :, mask], 3)
    return [(spelled(run.words[token]), probability) for token, probability in zip(ids, sure, strict=True)]


def spelled(word: str) -> str:
    """A token with its line breaks and the like made visible."""
    return repr(word)[1:-1]


def _rounded(values: Tensor, digits: int) -> list:
    return torch.round(values.double(), decimals=digits).tolist()
