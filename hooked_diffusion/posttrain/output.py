"""What a run leaves: a folder that opens, kept checkpoints that open, a model card, and where all of it comes from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion.checkpoints.lora import cache_folder
from hooked_diffusion.checkpoints.saving import save_checkpoint
from hooked_diffusion.posttrain.lora import save_adapter
from hooked_diffusion.posttrain.recipe import Recipe
from hooked_diffusion.posttrain.state import native_model
from hooked_diffusion.spec import DiffusionSpec

if TYPE_CHECKING:
    from peft import PeftModel

PACKAGES = ("mechshift-tl", "torch", "transformers", "accelerate")


def write_model(model: nn.Module, folder: Path, spec: DiffusionSpec, tokenizer: PreTrainedTokenizerBase | None, base: str) -> None:
    """Write `model` into `folder`, so that `from_pretrained(folder)` opens it: whole, or an adapter over `base`.

    `tokenizer` None leaves it to the base.
    """
    if native_model(model) is model:
        save_checkpoint(cast(PreTrainedModel, model), folder, spec, tokenizer, overwrite=True)
        return
    save_adapter(cast("PeftModel", model), folder, base, spec)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def merged_copy(model: nn.Module) -> PreTrainedModel:
    """A copy of the model in evaluation mode, its adapter merged in, that may be wrapped or changed."""
    other = copy.deepcopy(model)
    whole = other if isinstance(other, PreTrainedModel) else cast("PeftModel", other).merge_and_unload()  # type: ignore[operator]
    return cast(PreTrainedModel, whole).eval()


def base_name(name: str) -> str:
    """How an adapter names its base: by its place in the package's cache, by its whole path, or by its hub id."""
    path = Path(name).expanduser()
    if not path.exists():
        return name
    path, cache = path.resolve(), cache_folder().resolve()
    return str(path.relative_to(cache) if path.is_relative_to(cache) else path)


def provenance(source: Mapping[str, object]) -> dict[str, object]:
    """The base's source, and the versions that a result depends on."""
    return {"base": dict(source), "versions": {name: version(name) for name in PACKAGES}}


def log_spaced(last: int, n: int = 7) -> tuple[int, ...]:
    """0, and `n` steps up to the last, each about twice the one before."""
    return tuple(sorted({0, *(last >> power for power in range(n))}))


def card(folder: Path, base: str, recipe: Recipe, facts: Mapping[str, object], metrics: Sequence[Mapping[str, float]]) -> str:
    """The model card, in Markdown."""
    kind = "masked-diffusion model" if recipe.diffuses else "autoregressive model"
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in {**recipe.to_dict(), **facts}.items())
    last = {name: value for line in metrics for name, value in line.items()}
    measured = "\n".join(f"| {name.replace('_', ' ')} | {value:.6g} |" for name, value in last.items())
    return (
        f"---\nbase_model: {base}\nlibrary_name: transformers\ntags: [mechshift-tl, {recipe.objective}]\n---\n\n"
        f"# {folder.resolve().name}\n\nA {kind}, post-trained from `{base}`. Open it with\n\n"
        "```python\nfrom hooked_diffusion import HookedDiffusionTransformer\n\n"
        f'model = HookedDiffusionTransformer.from_pretrained("{folder}")\n```\n\n'
        f"## Training\n\n| | |\n|---|---|\n{rows}\n\n## Measured last\n\n| | |\n|---|---|\n{measured}\n\n"
        "`metrics.jsonl` has every step, `posttrain.json` the data and the versions, `checkpoints/` the weights along the way.\n"
    )
