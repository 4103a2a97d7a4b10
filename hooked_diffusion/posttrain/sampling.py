"""A model's own samples as texts to train on: its own distribution, so that what changes is the recipe and not the data."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from hooked_diffusion.posttrain.rows import Text
from hooked_diffusion.seeds import step_generator


@torch.no_grad()
def own_samples(model: PreTrainedModel, n: int, length: int, begin: int, *, seed: int = 0, batch: int = 32) -> list[Text]:
    """`n` texts of `length` tokens, drawn from a causal model at temperature 1 behind the token `begin`; every token counts.

    Batch i draws from (seed, i), so more samples begin with the same ones.
    """
    made: list[Text] = []
    for index in range((n + batch - 1) // batch):
        generator = step_generator(seed, index)
        rows, cache = torch.full((batch, 1), begin), None
        while rows.shape[1] < length:
            out = model(input_ids=rows if cache is None else rows[:, -1:], past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            drawn = torch.multinomial(out.logits[:, -1].float().softmax(-1).cpu(), 1, generator=generator)
            rows = torch.cat([rows, drawn.to(rows.device)], 1)
        made += [Text(tuple(row), (True,) * length) for row in rows.tolist()]
    return made[:n]
