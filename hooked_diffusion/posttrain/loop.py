"""A resumable training loop, in one process or many.

Every random draw of step s comes from a generator seeded by (recipe seed, s). So a run that was killed, and started again from its last
state, takes the same steps as one that was not killed. Of several processes each draws the whole step and trains on its own share of the
rows, so that their number changes nothing but the order of sums.

A CPU without instructions for bfloat16 multiplies in float32; one that has them, and every GPU, in bfloat16. Weights stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from hooked_diffusion.posttrain.bf16 import bf16_products, is_fast
from hooked_diffusion.posttrain.objectives import Question, cross_entropies, question
from hooked_diffusion.posttrain.optimizers import learning_rates, make_optimizers
from hooked_diffusion.posttrain.recipe import Recipe
from hooked_diffusion.posttrain.rows import RowSource
from hooked_diffusion.posttrain.state import learning, native_model, resume, save_state
from hooked_diffusion.seeds import step_generator

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Step:
    """A step that was taken: how many there have been, its loss in nats, its learning rate, and its tokens."""

    step: int
    loss: float
    rate: float
    tokens: int


def train(
    model: Model,
    rows: RowSource,
    recipe: Recipe,
    *,
    folder: str | Path,
    mask_token_id: int | None = None,
    save_every: int = 200,
    keep_at: Collection[int] = (),
    on_start: Callable[[int], None] = lambda step: None,
    on_step: Callable[[Step], None] = lambda step: None,
    on_keep: Callable[[int], None] = lambda step: None,
) -> Model:
    """Train the weights of `model` that learn, in place, by `recipe`; `rows(generator)` gives one step's batches, each of one length.

    - `model`: a native Hugging Face model, or a `peft` model around one.
    - `folder`: a state is written there every `save_every` steps; the same call goes on from it.
    - `keep_at`: the numbers of steps after which `on_keep` is called, 0 being before the first; the step that a run goes on from again.
    - `on_start` gets the step that the run begins at; `on_step` what each step did.

    Raises ValueError when the state in `folder` is another run's or damaged, FloatingPointError when the loss is not finite.
    """
    folder = Path(folder)
    accelerator = Accelerator(cpu=_device(model).type == "cpu")
    native = native_model(model)
    native.config.is_causal = recipe.attention == "causal"
    optimizers = make_optimizers(model, recipe)
    start, rate = resume(model, optimizers, recipe, folder), learning_rates(recipe)
    wrapped = accelerator.prepare_model(model)
    model.train()
    on_start(start)
    if start in keep_at:
        on_keep(start)
    with bf16_products(model) if _is_bf16_cpu(model) else nullcontext():
        for step in range(start, recipe.last_step):
            generator = step_generator(recipe.seed, step)
            batches = rows(generator)
            # Drawn at once for all processes; each takes its share.
            asked = [question(batch, recipe, step, mask_token_id, generator) for batch in batches]
            loss = _gradients(wrapped, native, accelerator, asked, [len(batch) for batch in batches])
            # Before the optimisers step: the weights are still those of the last good step.
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss is {loss} at step {step}; lower the learning rate ({recipe.learning_rate})")
            _update(model, optimizers, rate(step), recipe.clip)
            on_step(Step(step + 1, loss, rate(step), sum(batch.tokens.numel() for batch in batches)))
            if step + 1 in keep_at:
                on_keep(step + 1)
            if accelerator.is_main_process and ((step + 1) % save_every == 0 or step + 1 == recipe.last_step):
                save_state(model, optimizers, recipe, folder, step + 1)
    accelerator.wait_for_everyone()
    model.eval()
    return model


def _gradients(model: nn.Module, native: PreTrainedModel, accelerator: Accelerator, batches: list[Question], rows: list[int]) -> float:
    """Add the gradient of a step's loss to the weights, and return the loss.

    Batches differ in length, so they cannot be stacked. Weighted by rows, their mean is that of all rows together.
    """
    value = 0.0
    for index, (asked, n) in enumerate(zip(batches, rows, strict=True)):
        # Gradients of several processes are averaged once, at the last batch.
        waits: AbstractContextManager[None] = nullcontext() if index == len(batches) - 1 else accelerator.no_sync(model)
        mine = asked if accelerator.num_processes == 1 else asked.share(accelerator.process_index, accelerator.num_processes)
        mine = mine.to(accelerator.device)
        # On a CPU it is the products alone that may be in bfloat16: see `bf16.py`.
        with waits, torch.autocast(accelerator.device.type, torch.bfloat16, enabled=accelerator.device.type != "cpu"):
            losses = cross_entropies(model, native, mine)
            part = (losses * mine.weight).sum() * (n / sum(rows))
            accelerator.backward(part)
        value += part.item()
    if accelerator.num_processes > 1:
        mean = accelerator.reduce(torch.tensor(value, device=accelerator.device), "mean")
        assert isinstance(mean, Tensor)  # as a tensor goes in
        value = mean.item()
    return value


def _update(model: nn.Module, optimizers: list[torch.optim.Optimizer], rate: float, clip: float | None) -> None:
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(learning(model).values(), clip)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _is_bf16_cpu(model: nn.Module) -> bool:
    return _device(model).type == "cpu" and is_fast(_device(model))
