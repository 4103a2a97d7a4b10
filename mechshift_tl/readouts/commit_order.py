"""In which order an MDM's answer tokens are committed when it is read step by step.

The default is the model's own confidence, teacher forced on the clean canvas: no sampler's schedule enters. It is drawn once per example
and shared by clean and corrupt, so that both are read at the same positions at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from mechshift_tl.bridge.alignment import aligned_logits, mask_token, spec_of
from mechshift_tl.bridge.batching import batch_tokens_for, same_shape
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.tasks.examples import Example, Examples

Order = Literal["confidence", "left_to_right", "random"]


@torch.no_grad()
def commit_orders(model: HookedModel, examples: Examples, order: Order, seed: int, batch_tokens: int | None = None) -> list[list[int]]:
    """In which order each example's answer tokens are committed: a permutation of its answer indices.

    "confidence": at each step the masked position with the highest top-1 probability on the clean canvas commits, and the written token
    is put there (teacher forcing). Costs one forward per answer token.
    """
    if order == "left_to_right":
        return [list(range(len(e.answer))) for e in examples]
    if order == "random":
        generator = torch.Generator().manual_seed(seed)
        return [torch.randperm(len(e.answer), generator=generator).tolist() for e in examples]
    mask = mask_token(model)
    if mask is None:
        raise ValueError(f"{model.cfg.model_name} is an ARM, which commits left to right; order 'confidence' is an MDM's")
    orders: list[list[int]] = [[] for _ in examples]
    shapes = [(len(example.clean), len(example.suffix), example.answer_start) for example in examples]
    tokens = batch_tokens_for(model, "logits", batch_tokens)
    for (_, _, start), chunk in same_shape(shapes, lambda shape: shape[0] + shape[1], tokens):
        for i, commits in zip(chunk, _by_confidence(model, mask, [examples[i] for i in chunk], start), strict=True):
            orders[i] = commits
    return orders


def _by_confidence(model: HookedModel, mask: int, examples: Sequence[Example], start: int) -> list[list[int]]:
    written = torch.tensor([[*e.clean, *e.suffix, *spec_of(model).tail] for e in examples], device=model.cfg.device)
    stop = len(examples[0].clean)
    canvas = written.clone()
    canvas[:, start:stop] = mask
    masked = torch.ones(len(examples), stop - start, dtype=torch.bool, device=canvas.device)
    commits = []
    for _ in range(stop - start):
        confidence = aligned_logits(model, canvas)[:, start:stop].float().softmax(-1).amax(-1)
        # Probabilities are at least 0, so −1 keeps committed positions from being chosen again.
        chosen = confidence.masked_fill(~masked, -1).argmax(1, keepdim=True)
        masked.scatter_(1, chosen, False)
        # Teacher forcing: the written token, not the model's own.
        canvas.scatter_(1, chosen + start, written.gather(1, chosen + start))
        commits.append(chosen)
    return torch.cat(commits, 1).tolist()
