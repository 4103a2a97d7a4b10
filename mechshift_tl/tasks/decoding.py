"""Free decoding of answers: the model writes every token of the answer itself.

An MDM denoises one mask per token of the written answer, one token per step. An ARM continues the prompt greedily by as many tokens.
The number of masks tells the MDM how long the answer is, which the ARM is not told; reports say so.
"""

from __future__ import annotations

import torch

from mechshift_tl.bridge.batching import batch_tokens_for, same_shape
from mechshift_tl.bridge.decode import decode
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.tasks.examples import Examples


@torch.no_grad()
def decode_answers(model: HookedModel, examples: Examples, *, batch_tokens: int | None = None) -> list[str]:
    """`(n_examples,)`: the decoded answer text of each clean prompt. Costs one forward per answer token and batch."""
    shapes = [(example.answer_start, len(example.answer), len(example.suffix)) for example in examples]
    texts = [""] * len(examples)
    for (start, k, _), chunk in same_shape(shapes, sum, batch_tokens_for(model, "logits", batch_tokens)):
        prompts = torch.tensor([examples[i].clean[:start] for i in chunk], device=model.cfg.device)
        suffixes = torch.tensor([examples[i].suffix for i in chunk], dtype=torch.long, device=model.cfg.device)
        for i, ids in zip(chunk, decode(model, prompts, k, suffixes).tolist(), strict=True):
            texts[i] = examples.tokenizer.decode(ids)
    return texts
