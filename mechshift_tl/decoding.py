"""Free decoding of answers: what a model says when nobody holds its hand.

An MDM denoises as many masks as the written answer has tokens, in as many steps; an ARM continues the prompt greedily by as many tokens.
The number of masks is a hint that the ARM does not get; reports say so.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechshift_tl.readouts import aligned_logits, mask_token, spec_of
from mechshift_tl.tasks.task import Examples


@torch.no_grad()
def decode_answers(model: Any, examples: Examples, *, batch_tokens: int = 8192) -> list[str]:
    """The decoded answer text of each clean prompt, `(n_examples,)`; cost: one forward per answer token and batch."""
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, example in enumerate(examples):
        shapes[example.answer_start, len(example.answer)].append(i)
    texts = [""] * len(examples)
    for (start, k), members in shapes.items():
        size = max(1, batch_tokens // (start + k))
        for at in range(0, len(members), size):
            chunk = members[at : at + size]
            prompts = torch.tensor([examples[i].clean[:start] for i in chunk], device=model.cfg.device)
            for i, ids in zip(chunk, decode(model, prompts, k).tolist(), strict=True):
                texts[i] = examples.tokenizer.decode(ids)
    return texts


def decode(model: Any, prompts: Int[Tensor, "batch prompt"], k: int) -> Int[Tensor, "batch k"]:
    """`k` tokens after each prompt: denoised by an MDM, greedy by an ARM (or any plain TransformerBridge)."""
    mask = mask_token(model)
    if mask is not None:
        masks = prompts.new_full((len(prompts), k), mask)
        tail = prompts.new_tensor(spec_of(model).tail).expand(len(prompts), -1)
        canvas = torch.cat([prompts, masks, tail], 1)
        where = torch.zeros_like(canvas, dtype=torch.bool)
        where[:, prompts.shape[1] : prompts.shape[1] + k] = True
        tokens = model.denoise(canvas, steps=k, mask_positions=where).tokens
        return tokens[:, prompts.shape[1] : prompts.shape[1] + k]
    row = torch.cat([prompts, prompts.new_zeros(len(prompts), 1)], 1)
    for _ in range(k):
        row[:, -1] = aligned_logits(model, row)[:, -1].argmax(-1)
        row = torch.cat([row, row.new_zeros(len(row), 1)], 1)
    return row[:, prompts.shape[1] : -1]
