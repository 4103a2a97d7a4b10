"""LoRA by `peft`: adapters on every hidden matrix, checked before they are made, and written as a folder that opens over its base."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from hooked_diffusion.checkpoints.boundary import MissingExtra
from hooked_diffusion.spec import DiffusionSpec

if TYPE_CHECKING:
    from peft import PeftModel


def add_lora(model: PreTrainedModel, rank: int, modules: tuple[str, ...] = (), seed: int = 0) -> PeftModel:
    """`model` with an adapter of `rank` on the modules whose names end as `modules` say; by default on all linear ones but the head.

    The base is frozen; the adapter starts as nothing, its first half drawn from `seed`. Raises ValueError on a rank below 1 and on a
    module that the model lacks, `MissingExtra` without `peft`.
    """
    if rank < 1:
        raise ValueError(f"LoRA's rank is {rank}; give at least 1")
    names = [name for name, _ in model.named_modules()]
    missing = [wanted for wanted in modules if not any(name == wanted or name.endswith(f".{wanted}") for name in names)]
    if missing:
        kinds = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
        raise ValueError(f"LoRA: {type(model).__name__} has no module {', '.join(missing)}; its linear modules are {', '.join(kinds)}")
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("LoRA needs the peft package: pip install 'mechshift-tl[posttrain]'") from error
    # alpha = rank: the update is B A itself.
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=list(modules) or "all-linear", task_type="CAUSAL_LM")
    # A state of its own, so that the caller's random numbers stay as they are.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast("PeftModel", get_peft_model(model, config))


def save_adapter(model: PeftModel, folder: str | Path, base: str, spec: DiffusionSpec) -> Path:
    """Write the adapter as `peft` does, and `diffusion_spec.json` beside it; `base` is how the folder names what it lies over.

    `HookedDiffusionTransformer.from_pretrained(folder)` opens the two as one model. Files are completed beside the folder and moved in.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        partial = Path(name)
        model.peft_config["default"].base_model_name_or_path = base
        # No look at the hub for the base: no vocabulary changed.
        model.save_pretrained(str(partial), save_embedding_layers=False)
        (partial / "README.md").unlink(missing_ok=True)
        (partial / "diffusion_spec.json").write_text(json.dumps(spec.to_dict(), indent=2) + "\n")
        for path in partial.iterdir():
            os.replace(path, folder / path.name)
    return folder
