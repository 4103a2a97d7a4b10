"""A resumable training loop.

Every random draw of step s comes from a generator seeded by (recipe seed, s). So a run that was killed, and started again from its last
checkpoint, takes the same steps as one that was not killed. On a CPU without instructions for bfloat16, matrices multiply in float32.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from hooked_diffusion.posttrain.bf16 import bf16_products, is_fast
from hooked_diffusion.posttrain.muon import Muon
from hooked_diffusion.posttrain.objectives import loss
from hooked_diffusion.posttrain.recipe import Recipe, Rows
from hooked_diffusion.seeds import step_generator

RowSource = Callable[[torch.Generator], Sequence[Rows]]


def train(
    model: PreTrainedModel,
    rows: RowSource,
    recipe: Recipe,
    *,
    folder: str | Path,
    mask_token_id: int | None = None,
    save_every: int = 200,
    log: Callable[[str], None] = print,
) -> PreTrainedModel:
    """Train `model` in place by `recipe`; `rows(generator)` gives one step's batches, each of one length.

    A checkpoint (weights, optimiser state, step) is written to `folder` every `save_every` steps; the same call goes on from it. Raises
    ValueError when the checkpoint in `folder` is another recipe's or damaged, FloatingPointError when the loss is not finite.
    """
    folder = Path(folder)
    optimizers = make_optimizers(model, recipe)
    start = _resume(model, optimizers, recipe, folder)
    model.train()
    clock, running = time.perf_counter(), 0.0
    with bf16_products(model) if is_fast(model.device) else nullcontext():
        for step in range(start, recipe.last_step):
            generator = step_generator(recipe.seed, step)
            batches = rows(generator)
            total = sum(b.tokens.shape[0] for b in batches)
            value = 0.0
            for batch in batches:
                # Batches differ in length, so they cannot be stacked. Weighted by rows, their mean is that of all rows together.
                part = loss(model, batch, recipe, step, mask_token_id, generator) * (batch.tokens.shape[0] / total)
                part.backward()
                value += part.item()
            # Before the optimisers step: the weights are still those of the last good step.
            if not math.isfinite(value):
                raise FloatingPointError(f"loss is {value} at step {step}; lower the learning rate ({recipe.learning_rate})")
            rate = learning_rate(recipe, step)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            # For the log alone: a resumed run starts its mean anew.
            running = value if step == start else 0.98 * running + 0.02 * value
            if (step + 1) % 100 == 0:
                log(f"step {step + 1}/{recipe.steps}  loss {running:.4f} nats  lr {rate:.2e}  {time.perf_counter() - clock:.0f} s")
            if (step + 1) % save_every == 0 or step + 1 == recipe.last_step:
                _save(model, optimizers, recipe, folder, step + 1)
    model.eval()
    return model


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then linear decay to zero at `recipe.steps`, the step after the last one."""
    # step + 1: the first step already learns.
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    return recipe.learning_rate * warm * min(1.0, (recipe.steps - step) / max(1, recipe.steps - recipe.warmup))


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices (updates scaled to AdamW's size), AdamW for embeddings, head and norms."""
    hidden, rest = [], []
    for name, parameter in model.named_parameters():
        is_hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (hidden if is_hidden else rest).append(parameter)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if all(is_fast(parameter.device) for parameter in hidden):
        muon = torch.optim.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    else:
        muon = Muon(hidden, lr=rate, weight_decay=decay)
    return [
        muon,
        torch.optim.AdamW(rest, lr=rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def _save(model: nn.Module, optimizers: list[torch.optim.Optimizer], recipe: Recipe, folder: Path, step: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{index}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    # safetensors refuses tensors that share memory, as views of one storage do.
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    partial = folder / "checkpoint.partial"
    save_file(tensors, partial, metadata={"step": str(step), "recipe": json.dumps(recipe.to_dict())})
    # A run that is killed while it saves leaves the checkpoint before it intact.
    os.replace(partial, folder / "checkpoint.safetensors")


def _resume(model: nn.Module, optimizers: list[torch.optim.Optimizer], recipe: Recipe, folder: Path) -> int:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        step, stored, tensors = int(metadata["step"]), json.loads(metadata["recipe"]), load_file(path)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no checkpoint of a training run ({error}); choose another folder, or delete it") from error
    if stored != recipe.to_dict():
        raise ValueError(f"{path} belongs to another recipe: {metadata['recipe']}. Choose another folder, or delete it.")
    # Not strict: `named_parameters` lists a tied weight once, the state dict under both names.
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, strict=False)
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{i}."):
                _, _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        # The groups hold the rate of the moment, which the next step sets anyway.
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step
