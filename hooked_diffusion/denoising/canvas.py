"""What can be denoised: a canvas and the positions on it that are masked, checked before any work.

Masks are a boolean tensor beside the tokens, because a mask id that is also an ordinary word does not say whether it is a mask.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_diffusion.spec import DiffusionSpec


def prepare(
    canvas: Int[Tensor, "batch pos"], mask_positions: Bool[Tensor, "batch pos"] | None, spec: DiffusionSpec, d_vocab: int
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """The canvas with the mask id (if the model has one) at its masked positions, and those positions.

    `mask_positions` defaults to where the canvas holds the mask id. Raises ValueError, naming what is wrong, on a canvas that is not a
    matrix of ids within the vocabulary, on mask positions of another shape or type, or left out where they cannot be told from the canvas,
    when nothing is masked, and when position 0 is masked in a model with logit shift 1, which nothing predicts.
    """
    if canvas.ndim != 2 or canvas.is_floating_point() or canvas.is_complex() or canvas.dtype == torch.bool:
        raise ValueError(f"canvas holds token ids (batch, pos), got shape {tuple(canvas.shape)} of {canvas.dtype}")
    canvas = canvas.long()
    outside = canvas[(canvas < 0) | (canvas >= d_vocab)]
    if len(outside):
        raise ValueError(f"canvas holds id {int(outside[0])}, outside the vocabulary of {d_vocab}")
    masked = _find_masks(canvas, spec) if mask_positions is None else _check_masks(mask_positions, canvas)
    if not masked.any():
        raise ValueError("canvas has no masked position; write the mask id where tokens are wanted, or pass mask_positions")
    if spec.logit_shift == 1 and masked[:, 0].any():
        row = int(masked[:, 0].nonzero()[0])
        raise ValueError(f"canvas row {row} masks position 0, which nothing predicts at logit shift 1; put BOS or a prompt token there")
    if spec.mask_token_id is not None:
        canvas = torch.where(masked, spec.mask_token_id, canvas)
    return canvas, masked


def _find_masks(canvas: Int[Tensor, "batch pos"], spec: DiffusionSpec) -> Bool[Tensor, "batch pos"]:
    if spec.mask_token_id is None:
        raise ValueError("the model has no mask token: pass mask_positions, True where tokens are wanted")
    if spec.mask_is_reused:
        raise ValueError(f"mask id {spec.mask_token_id} is also an ordinary token: pass mask_positions, True where tokens are wanted")
    return canvas == spec.mask_token_id


def _check_masks(masks: Bool[Tensor, "batch pos"], canvas: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    if masks.dtype != torch.bool or masks.shape != canvas.shape:
        raise ValueError(
            f"mask_positions is boolean and shaped like the canvas {tuple(canvas.shape)}, got {tuple(masks.shape)} of {masks.dtype}"
        )
    return masks.to(canvas.device)
