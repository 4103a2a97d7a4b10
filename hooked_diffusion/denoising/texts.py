"""A canvas made of text: a prompt, as many masks as tokens are wanted, what stands behind them, and what ended the rows of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from hooked_diffusion.denoising.canvas import Canvas

if TYPE_CHECKING:
    from hooked_diffusion.denoising.protocol import DenoisingModel

#: A text, or several; or pairs of a prompt and an answer, with `masks="per answer"`.
Texts: TypeAlias = str | Sequence[str] | Sequence[tuple[str, str]]
Masks: TypeAlias = int | Literal["per answer"] | None
PER_ANSWER = "per answer"


@dataclass(frozen=True)
class _Row:
    """Token ids of one row, and where it is masked."""

    ids: list[int]
    masked: list[bool]


def canvas_of(model: DenoisingModel, text: Texts, masks: Masks = None, suffix: str | Sequence[str] | None = None) -> Canvas:
    """The canvas of one text or several; shorter rows are padded on the left.

    - `masks`: how many masks stand behind each text; "per answer" with pairs (prompt, answer): as many as the answer has tokens. None:
      only those that the text itself has, as the tokenizer writes a mask.
    - `suffix`: what stands behind the masks, one text for all rows or one per row.

    Raises ValueError where the model has no tokenizer, where there is no text or no mask, and on a number that cannot be; TypeError on
    what is no text.
    """
    if model.tokenizer is None:
        raise ValueError(f"canvas: {model.cfg.model_name} has no tokenizer; give token ids (batch, pos), or open it with one")
    pairs = _pairs(text, masks)
    behind = _per_row(suffix, len(pairs))
    rows = [_row(model, prompt, answer, masks, after) for (prompt, answer), after in zip(pairs, behind, strict=True)]
    if not all(any(row.masked) for row in rows):
        token = model.tokenizer.mask_token
        raise ValueError(f"canvas: a text has no mask; say how many tokens are wanted: masks=8{f', or write {token}' if token else ''}")
    longest = max(len(row.ids) for row in rows)
    pad = [longest - len(row.ids) for row in rows]
    fill = model.tokenizer.pad_token_id or 0
    tokens = torch.tensor([[fill] * n + row.ids for n, row in zip(pad, rows, strict=True)], device=model.cfg.device)
    masked = torch.tensor([[False] * n + row.masked for n, row in zip(pad, rows, strict=True)], device=model.cfg.device)
    visible = torch.arange(longest, device=model.cfg.device) >= torch.tensor(pad, device=model.cfg.device)[:, None]
    return Canvas(tokens, masked, visible)


def is_text(value: object) -> bool:
    """Whether this is a text, or a list that begins with one."""
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], (str, tuple)))


def _pairs(text: Texts, masks: Masks) -> list[tuple[str, str]]:
    """Prompt and answer of each row; an answer that does not matter is empty."""
    per_answer = masks == PER_ANSWER
    if not per_answer and (isinstance(masks, (bool, str)) or not isinstance(masks, int | None) or (masks is not None and masks < 1)):
        raise ValueError(f"canvas: masks is {masks!r}; give a number of at least 1, or 'per answer' with pairs (prompt, answer)")
    given = [text] if isinstance(text, str) else list(text) if isinstance(text, Sequence) else []
    if not given:
        raise TypeError(f"canvas: text is {text!r:.60}; give a text, or a list of texts that is not empty")
    pairs: list[tuple[str, str]] = []
    for one in given:
        pair = (one, "") if isinstance(one, str) else one
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise TypeError(f"canvas: {one!r:.60} is no text; give texts, or pairs (prompt, answer) with masks='per answer'")
        if per_answer != bool(pair[1]):
            raise ValueError("canvas: masks='per answer' goes with pairs (prompt, answer), such as [('2+2=', '4')]; a number with texts")
        pairs.append(pair)
    return pairs


def _per_row(suffix: str | Sequence[str] | None, n: int) -> list[str]:
    if suffix is None or isinstance(suffix, str):
        return [suffix or ""] * n
    if len(suffix) != n or not all(isinstance(one, str) for one in suffix):
        raise ValueError(f"canvas: suffix holds {len(suffix)} texts for {n} rows; give one text, or one per row")
    return list(suffix)


def _row(model: DenoisingModel, prompt: str, answer: str, masks: Masks, suffix: str) -> _Row:
    """The ids of prompt, masks, suffix and tail."""
    mask, ids = model.spec.mask_token_id, _ids(model, prompt)
    n = len(_ids(model, prompt + answer)) - len(ids) if masks == PER_ANSWER else masks or 0
    if masks == PER_ANSWER and n < 1:
        raise ValueError(f"canvas: the answer {answer!r:.40} adds no token to {prompt[-30:]!r}; begin it with a space, or give a number")
    own = [one == mask and not model.spec.mask_is_reused for one in ids]
    after = [*_plain(model, suffix), *model.spec.tail]
    return _Row([*ids, *([0 if mask is None else mask] * n), *after], [*own, *([True] * n), *([False] * len(after))])


def _ids(model: DenoisingModel, text: str) -> list[int]:
    """The ids of a text, BOS as the model wants it, without the end of text that some tokenizers add."""
    ids = model.to_tokens(text)[0].tolist()
    end = model.tokenizer.eos_token_id
    return ids[:-1] if len(ids) > 1 and ids[-1] == end and not text.endswith(str(model.tokenizer.eos_token)) else ids


def _plain(model: DenoisingModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
