"""`posttrain`: a checkpoint, rows and a recipe become a folder that opens.

1. Everything that can be wrong is found first: the mask, the data, LoRA's modules, the folder, a GPU's memory.
2. `train` takes the steps. Metrics are written at every step, checkpoints at some, the state every `save_every` steps.
3. At the end the folder holds the model, its spec, its card, and where it comes from.

Killed at any moment, the same call goes on; on a CPU it ends with the same weights, bit for bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion import artefact
from hooked_diffusion.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from hooked_diffusion.posttrain.held_out import held_out
from hooked_diffusion.posttrain.loop import Step, train
from hooked_diffusion.posttrain.lora import add_lora
from hooked_diffusion.posttrain.mask_token import MaskToken, end_of_text, mask_token, tokenizer_of
from hooked_diffusion.posttrain.metrics import Metrics, read_metrics
from hooked_diffusion.posttrain.mixture import Mixture
from hooked_diffusion.posttrain.objectives import cross_entropies, question
from hooked_diffusion.posttrain.output import base_name, card, log_spaced, merged_copy, provenance, write_model
from hooked_diffusion.posttrain.recipe import Recipe
from hooked_diffusion.posttrain.rows import Rows, RowSource
from hooked_diffusion.posttrain.state import native_model
from hooked_diffusion.seeds import step_generator
from hooked_diffusion.spec import DiffusionSpec

#: What a caller measures: a merged copy of the model, and how it is read → name → value.
Evaluate = Callable[[PreTrainedModel, DiffusionSpec], Mapping[str, float]]
RUN = "posttrain.json"


@dataclass(frozen=True)
class Watch:
    """What is looked at while a model trains.

    - `checkpoints`: the steps after which the model is kept in `checkpoints/STEP`; None spaces them by doubling.
    - `held_out`: rows that are measured at each of these steps; `evaluate`: anything else to measure there, such as accuracy on tasks.
    - `on_step`: gets every step, for a line in a terminal.
    """

    checkpoints: Sequence[int] | None = None
    held_out: Sequence[Rows] = ()
    evaluate: Evaluate | None = None
    on_step: Callable[[Step], None] = lambda step: None


def posttrain(
    model: LoadedCheckpoint | str | Path,
    rows: RowSource,
    recipe: Recipe,
    *,
    out: str | Path,
    lora: int = 0,
    lora_modules: tuple[str, ...] = (),
    mask: str | None = None,
    device: str | torch.device | None = None,
    save_every: int = 50,
    watch: Watch | None = None,
) -> Path:
    """Post-train a checkpoint by `recipe` and write it to `out`, which `from_pretrained` opens; so do `out`/checkpoints/STEP.

    - `model`: what `load_checkpoint` gives or takes; `rows`: a `Mixture`, or any source of a step's batches.
    - `lora`: the rank of adapters on `lora_modules`, by default all linear ones; 0 trains all weights.
    - `mask`: the token to use as the mask, where the tokenizer has none; see `mask_token`.
    - `save_every`: steps between two states to go on from.

    Raises ValueError, before the first step, where the mask stands in the data, the tokenizer has no room for one, LoRA names a module that
    is not there, `out` holds another run, or the device has too little memory.
    """
    loaded = model if isinstance(model, LoadedCheckpoint) else load_checkpoint(model, device=device)
    tokenizer = tokenizer_of(loaded)
    n_words = len(tokenizer.get_vocab())
    chosen = mask_token(loaded, mask) if recipe.diffuses else None
    _check_untaken(rows, chosen)
    spec = recipe.spec(chosen.id if chosen else None, mask_is_reused=bool(chosen and chosen.is_reused), tail=(end_of_text(tokenizer),))
    trained = add_lora(loaded.hf_model, lora, lora_modules, recipe.seed) if lora else loaded.hf_model
    facts = {
        "lora": lora,
        "mask": chosen.token if chosen else None,
        "data": rows.facts() if isinstance(rows, Mixture) else None,
        **provenance(loaded.source),
    }
    _claim(Path(out), {"recipe": recipe.to_dict(), **facts})
    _rehearse(trained, rows, recipe, spec.mask_token_id)
    # The base has the tokenizer too, unless it has just got a mask token.
    own = tokenizer if not lora or len(tokenizer.get_vocab()) != n_words else None
    job = _Job(trained, recipe, spec, own, base_name(str(loaded.source["name"])), Path(out), watch or Watch())
    job.run(rows, save_every)
    job.finish(facts)
    return Path(out)


@dataclass
class _Job:
    """A run that has been checked."""

    model: nn.Module
    recipe: Recipe
    spec: DiffusionSpec
    tokenizer: PreTrainedTokenizerBase | None
    base: str
    folder: Path
    watch: Watch
    metrics: Metrics | None = None

    def run(self, rows: RowSource, save_every: int) -> None:
        """Take the steps that are left."""
        last, wanted = self.recipe.last_step, self.watch.checkpoints
        kept = {*(log_spaced(last) if wanted is None else wanted), last}
        train(
            self.model, rows, self.recipe, folder=self.folder / "state", mask_token_id=self.spec.mask_token_id, save_every=save_every,
            keep_at=kept, on_start=self.start, on_step=self.take, on_keep=self.keep,
        )  # fmt: skip

    def start(self, step: int) -> None:
        """Of several processes the first writes."""
        if os.environ.get("RANK", "0") == "0":
            self.metrics = Metrics(self.folder, step)

    def take(self, step: Step) -> None:
        """Write what a step did."""
        if self.metrics is not None:
            self.metrics.write(step.step, {"loss": step.loss, "rate": step.rate, "tokens": step.tokens})
        self.watch.on_step(step)

    def keep(self, step: int) -> None:
        """Measure the model, and write it as a checkpoint."""
        values: dict[str, float] = {}
        if self.watch.held_out:
            found = held_out(self.model, self.watch.held_out, self.recipe, self.spec.mask_token_id)
            values = {"held_out_loss": found.loss, "held_out_accuracy": found.accuracy}
        if self.watch.evaluate is not None:
            values |= self.watch.evaluate(merged_copy(self.model), self.spec)
        if self.metrics is not None:
            write_model(self.model, self.folder / "checkpoints" / str(step), self.spec, self.tokenizer, self.base)
            if values:
                self.metrics.write(step, values)

    def finish(self, facts: Mapping[str, object]) -> None:
        """Write the model that it ended with, and its card."""
        if self.metrics is not None:
            self.metrics.close()
            write_model(self.model, self.folder, self.spec, self.tokenizer, self.base)
            text = card(self.folder, self.base, self.recipe, facts, read_metrics(self.folder))
            (self.folder / "README.md").write_text(text, encoding="utf-8")


def _check_untaken(rows: RowSource, mask: MaskToken | None) -> None:
    """Raise ValueError where the mask is a token of the data: a mask would look like that word."""
    if mask is not None and isinstance(rows, Mixture) and (source := rows.holds(mask.id)) is not None:
        raise ValueError(
            f"the mask {mask.token!r} (id {mask.id}) is taken: texts of {source!r} hold it; name a token that the data never hold"
        )


def _claim(folder: Path, run: dict[str, object]) -> None:
    """Write what the run is. Raises ValueError where the folder holds another run."""
    path = folder / RUN
    if path.is_file():
        stored = artefact.read_json(path, "posttrain")
        if other := sorted(key for key in run if key != "versions" and stored.get(key) != json.loads(json.dumps(run[key]))):
            raise ValueError(f"{folder} holds another run: it differs in {', '.join(other)}; name another folder, or delete it")
        return
    folder.mkdir(parents=True, exist_ok=True)
    artefact.write_json(path, run)


def _rehearse(model: nn.Module, rows: RowSource, recipe: Recipe, mask_token_id: int | None) -> None:
    """Run the first step on a GPU and throw its gradient away. Raises ValueError where memory does not suffice."""
    native = native_model(model)
    if native.device.type == "cpu":
        return
    generator = step_generator(recipe.seed, 0)
    try:
        for batch in rows(generator):
            asked = question(batch, recipe, 0, mask_token_id, generator).to(native.device)
            with torch.autocast(native.device.type, torch.bfloat16):
                (cross_entropies(model, native, asked) * asked.weight).sum().backward()
    except torch.OutOfMemoryError as error:
        raise ValueError(f"a step does not fit {native.device}: take fewer texts per step, shorter rows, or LoRA") from error
    finally:
        model.zero_grad(set_to_none=True)
