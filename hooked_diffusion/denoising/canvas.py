"""A canvas to denoise, and the positions on it that are masked. Both are checked before any work.

Masks are a boolean tensor beside the tokens. The tokens alone are not enough: the mask id of some models is also an ordinary word.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_diffusion.attention import check_visible, position_ids, visible_tokens
from hooked_diffusion.spec import DiffusionSpec

#: How many places a warning lists.
SHOWN = 6
PACKAGE = __name__.partition(".")[0] + "."


@dataclass(frozen=True, eq=False)
class Canvas:
    """A checked canvas, all `(batch, pos)`: `tokens` with the mask id at the masks, `masked`, and `visible`, False at padding."""

    tokens: Int[Tensor, "batch pos"]
    masked: Bool[Tensor, "batch pos"]
    visible: Bool[Tensor, "batch pos"]


def prepare(
    canvas: Int[Tensor, "batch pos"],
    mask_positions: Bool[Tensor, "batch pos"] | None,
    spec: DiffusionSpec,
    d_vocab: int,
    attention_mask: Tensor | None = None,
    bos_id: int | None = None,
) -> Canvas:
    """The canvas with the mask id (if the model has one) at its masked positions.

    `mask_positions` defaults to where the canvas holds the mask id. Raises ValueError, naming what is wrong,

    - on a canvas that is no matrix of ids within the vocabulary;
    - on mask positions of another shape or type, and where they are left out but the canvas does not show them;
    - when nothing is masked, and when padding is masked;
    - when a row's first token is masked in a model with logit shift 1: nothing predicts that token.

    Warns when the prompt holds a mask id that is also a word, which the model reads as a mask, and when BOS stands twice.
    """
    if canvas.ndim != 2 or canvas.is_floating_point() or canvas.is_complex() or canvas.dtype == torch.bool:
        raise ValueError(f"canvas holds token ids (batch, pos), got shape {tuple(canvas.shape)} of {canvas.dtype}")
    # Embeddings take 32 and 64 bits only, and a smaller integer type may not hold the mask id.
    canvas = canvas.long()
    outside = canvas[(canvas < 0) | (canvas >= d_vocab)]
    if len(outside):
        raise ValueError(f"canvas holds id {int(outside[0])}, outside the vocabulary of {d_vocab}")
    shown = None if attention_mask is None else check_visible(attention_mask, tuple(canvas.shape)).to(canvas.device)
    visible = visible_tokens(canvas, shown)
    masked = _find_masks(canvas, spec) & visible if mask_positions is None else _check_masks(mask_positions, canvas)
    _check_places(masked, visible, spec)
    _warn_of_prompt(canvas, masked, visible, spec, bos_id)
    if spec.mask_token_id is not None:
        canvas = torch.where(masked, spec.mask_token_id, canvas)
    return Canvas(canvas, masked, visible)


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


def _check_places(masked: Bool[Tensor, "batch pos"], visible: Bool[Tensor, "batch pos"], spec: DiffusionSpec) -> None:
    if not masked.any():
        raise ValueError("canvas has no masked position; write the mask id where tokens are wanted, or pass mask_positions")
    hidden = (masked & ~visible).nonzero()
    if len(hidden):
        row, pos = hidden[0].tolist()
        raise ValueError(f"canvas row {row} masks position {pos}, which attention_mask hides; padding cannot be denoised")
    # Padding on the left also has position id 0, but masked padding was refused above.
    first = masked & (position_ids(visible) == 0)
    if spec.logit_shift == 1 and first.any():
        row, pos = first.nonzero()[0].tolist()
        raise ValueError(f"canvas row {row} masks position {pos}, which nothing predicts at logit shift 1; put BOS or a prompt token there")


def _warn_of_prompt(
    canvas: Int[Tensor, "batch pos"],
    masked: Bool[Tensor, "batch pos"],
    visible: Bool[Tensor, "batch pos"],
    spec: DiffusionSpec,
    bos_id: int | None,
) -> None:
    given = visible & ~masked
    if spec.mask_is_reused and (given & (canvas == spec.mask_token_id)).any():
        places = (given & (canvas == spec.mask_token_id)).nonzero().tolist()
        _warn(
            f"the prompt holds id {spec.mask_token_id}, which this model also reads as a mask, at (row, position) {_shown(places)}; "
            "it stays as it is, but the model cannot tell it from a mask"
        )
    # The first two visible tokens of each row; padding repeats their ids, and `given` leaves it out.
    leading = given & (position_ids(visible) <= 1) & (canvas == bos_id)
    doubled = (leading.sum(1) == 2).nonzero()[:, 0].tolist()
    if bos_id is not None and doubled:
        _warn(f"BOS (id {bos_id}) stands twice at the start of row {_shown(doubled)}; tokenise with prepend_bos=False when the text has it")


def warn_of_idle_steps(masks: int, steps: int | None, schedule: str) -> None:
    """Warn when there are more steps than `masks`, the masks of the fullest row, and the schedule gains nothing by it.

    "time_grid" and "bernoulli" gain: for them more steps are a finer grid.
    """
    if steps is not None and steps > masks and schedule in ("even", "rounded"):
        _warn(f'{steps} steps for at most {masks} masks in a row: with schedule "{schedule}" {steps - masks} steps commit nothing')


def _warn(message: str) -> None:
    """A warning that points at the line outside this package which began the run, whichever method it called."""
    level = 1
    # A fixed stacklevel would be wrong for some callers: `denoise` and `resume_denoising` are at different depths.
    while sys._getframe(level).f_globals.get("__name__", "").startswith(PACKAGE):
        level += 1
    warnings.warn(message, stacklevel=level + 1)


def _shown(places: list) -> str:
    listed = ", ".join(str(tuple(place) if isinstance(place, list) else place) for place in places[:SHOWN])
    return listed if len(places) <= SHOWN else f"{listed} and {len(places) - SHOWN} more"
