"""Which optimiser moves which weight, and the learning rate of each step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, get_scheduler

from hooked_diffusion.posttrain.bf16 import is_fast
from hooked_diffusion.posttrain.muon import Muon
from hooked_diffusion.posttrain.recipe import Recipe

BETAS = (0.9, 0.98)


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[Optimizer]:
    """Of the weights that learn. "muon": Muon for the hidden matrices, its updates scaled to AdamW's size, and AdamW for all else."""
    hidden, rest = split_parameters(model)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return [torch.optim.AdamW([{"params": hidden, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}], lr=rate, betas=BETAS)]
    if all(is_fast(parameter.device) for parameter in hidden):
        muon: Optimizer = torch.optim.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    else:
        muon = Muon(hidden, lr=rate, weight_decay=decay)
    return [muon, torch.optim.AdamW(rest, lr=rate, weight_decay=0.0, betas=BETAS)]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights that learn: hidden matrices; and embeddings, output head, norms and biases."""
    # By module, not by name: GPT-2 calls its embeddings wte and wpe.
    ends = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    ends += [head for module in model.modules() if isinstance(module, PreTrainedModel) and (head := module.get_output_embeddings())]
    outer = {id(parameter) for module in ends for parameter in module.parameters()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hidden = [parameter for parameter in learning if parameter.ndim == 2 and id(parameter) not in outer]
    return hidden, [parameter for parameter in learning if parameter.ndim != 2 or id(parameter) in outer]


def learning_rates(recipe: Recipe) -> Callable[[int], float]:
    """The learning rate of each step, from 0: transformers' schedule of that name.

    Its own rate at 0 is 0, where nothing would be learned. So step s has the rate that a schedule of one step more gives at s + 1.
    """
    # A schedule wants an optimiser, though its rates depend on the number of the step alone.
    stand_in = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    schedule = get_scheduler(recipe.schedule, stand_in, num_warmup_steps=recipe.warmup, num_training_steps=recipe.steps + 1)
    assert isinstance(schedule, LambdaLR)
    factor = schedule.lr_lambdas[0]
    return lambda step: recipe.learning_rate * factor(step + 1)
