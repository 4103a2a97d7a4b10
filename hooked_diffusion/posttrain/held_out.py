"""How well a model does what its recipe asks, on rows that it was not trained on, under noise that is the same at every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hooked_diffusion.posttrain.objectives import asked_logits, question
from hooked_diffusion.posttrain.recipe import Recipe
from hooked_diffusion.posttrain.rows import Rows
from hooked_diffusion.posttrain.state import native_model
from hooked_diffusion.seeds import step_generator


@dataclass(frozen=True)
class HeldOut:
    """The recipe's own loss in nats, the share of asked tokens in [0, 1] that rank first, and how many were asked for.

    Under weights 1/t averaged over tokens, the loss of a masked-diffusion model is an estimate of its bound on −log p per token.
    """

    loss: float
    accuracy: float
    n: int

    @property
    def right(self) -> int:
        """How many of the asked tokens rank first."""
        return round(self.accuracy * self.n)


@torch.no_grad()
def held_out(model: nn.Module, rows: Sequence[Rows], recipe: Recipe, mask_token_id: int | None, seed: int = 0) -> HeldOut:
    """Measure `model` on batches of rows; batch i draws its noise from (seed, i). Raises ValueError where there are no rows."""
    if not rows:
        raise ValueError("held_out: there are no rows; give at least one batch")
    native, was_training = native_model(model), model.training
    model.eval()
    total, right, n = 0.0, 0, 0
    for index, batch in enumerate(rows):
        asked = question(batch, recipe, recipe.steps, mask_token_id, step_generator(seed, index)).to(native.device)
        logits = asked_logits(model, native, asked).float()
        losses = torch.nn.functional.cross_entropy(logits, asked.target, reduction="none")
        total += (losses * asked.weight).sum().item() * len(batch)
        right += int((logits.argmax(-1) == asked.target).sum())
        n += len(asked.target)
    model.train(was_training)
    return HeldOut(total / sum(map(len, rows)), right / max(1, n), n)
