"""Free decoding of answers: the model writes every token of the answer itself.

An MDM denoises one mask per token of the written answer, one token per step. An ARM continues the prompt greedily by as many tokens.
The number of masks tells the MDM how long the answer is, which the ARM is not told; reports say so.
"""

from __future__ import annotations

from collections import defaultdict

import torch

from mechshift_tl.bridge.decode import decode
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.tasks.examples import Examples


@torch.no_grad()
def decode_answers(model: HookedModel, examples: Examples, *, batch_tokens: int = 8192) -> list[str]:
    """`(n_examples,)`: the decoded answer text of each clean prompt. Costs one forward per answer token and batch."""
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
