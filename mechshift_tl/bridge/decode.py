"""Free decoding of a model: an MDM denoises its masks, an ARM (or a plain bridge) continues greedily."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from mechshift_tl.bridge.alignment import aligned_logits, mask_token
from mechshift_tl.bridge.protocol import HookedModel, says_how_it_is_read


def decode(
    model: HookedModel, prompts: Int[Tensor, "batch prompt"], k: int, suffixes: Int[Tensor, "batch after"] | None = None
) -> Int[Tensor, "batch k"]:
    """`(batch, k)`: `k` tokens after each prompt. An MDM denoises them; an ARM (or any plain TransformerBridge) continues greedily.

    `suffixes` stand behind the `k` tokens. An MDM sees them; an ARM never does.
    """
    mask = mask_token(model)
    if says_how_it_is_read(model) and mask is not None:
        masks = prompts.new_full((len(prompts), k), mask)
        tail = prompts.new_tensor(model.spec.tail).expand(len(prompts), -1)
        canvas = torch.cat([prompts, masks, *([] if suffixes is None else [suffixes]), tail], 1)
        where = torch.zeros_like(canvas, dtype=torch.bool)
        where[:, prompts.shape[1] : prompts.shape[1] + k] = True
        tokens = model.denoise(canvas, steps=k, mask_positions=where).tokens
        return tokens[:, prompts.shape[1] : prompts.shape[1] + k]
    # Aligned row p predicts the token at p, so the token to come needs a place. What stands there does not matter: the row that predicts
    # it cannot see it.
    row = torch.cat([prompts, prompts.new_zeros(len(prompts), 1)], 1)
    for _ in range(k):
        row[:, -1] = aligned_logits(model, row)[:, -1].argmax(-1)
        row = torch.cat([row, row.new_zeros(len(row), 1)], 1)
    return row[:, prompts.shape[1] : -1]
