"""Free decoding of answers: what a model says when nobody holds its hand.

An MDM denoises as many masks as the written answer has tokens, in as many steps; an ARM continues the prompt greedily by as many tokens.
The number of masks is a hint that the ARM does not get; reports say so.
"""

from __future__ import annotations

from collections import defaultdict

import torch

from mechshift_tl.bridge.decode import decode
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.tasks.examples import Examples


@torch.no_grad()
def decode_answers(model: HookedModel, examples: Examples, *, batch_tokens: int = 8192) -> list[str]:
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
