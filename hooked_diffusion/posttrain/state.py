"""What a run goes on from: the weights that learn, the optimisers' state, and the number of steps taken, in one safetensors file.

It is replaced in one move, so a run that is killed while it saves leaves the state before it intact. Random numbers need no state: each
step draws from a generator of its own. accelerate's own checkpoints hold the frozen weights beneath LoRA too, are many files, and pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from hooked_diffusion.posttrain.recipe import Recipe

FILE = "checkpoint.safetensors"


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name → parameter, of those that learn."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def native_model(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model itself: what `peft` wraps, or the model as it is."""
    inner = cast(nn.Module, model.get_base_model()) if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    assert isinstance(inner, PreTrainedModel)
    return inner


def save_state(model: nn.Module, optimizers: Sequence[Optimizer], recipe: Recipe, folder: Path, step: int) -> None:
    """Write the state after `step` steps into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {f"model.{name}": parameter.detach() for name, parameter in learning(model).items()}
    for i, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{index}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    # safetensors refuses tensors that share memory, as views of one storage do.
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    partial = folder / "checkpoint.partial"
    save_file(tensors, partial, metadata={"step": str(step), "recipe": json.dumps(recipe.to_dict())})
    os.replace(partial, folder / FILE)


def resume(model: nn.Module, optimizers: Sequence[Optimizer], recipe: Recipe, folder: Path) -> int:
    """Put the state in `folder` into the model and its optimisers, and return its step; 0 where there is none.

    Raises ValueError where it is another recipe's, another model's, or damaged.
    """
    path = folder / FILE
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
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    wanted = learning(model)
    if {name: p.shape for name, p in wanted.items()} != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError(f"{path} holds the weights of another model; choose another folder, or delete it")
    # Not strict: frozen weights are not stored, and a tied one stands in the state dict under both names.
    model.load_state_dict(weights, strict=False)
    for i, optimizer in enumerate(optimizers):
        _resume_optimizer(optimizer, f"optimizer.{i}.", tensors)
    return step


def _resume_optimizer(optimizer: Optimizer, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split(".")
            state.setdefault(int(index), {})[key] = value
    # The groups hold the rate of the moment, which the next step sets anyway.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
