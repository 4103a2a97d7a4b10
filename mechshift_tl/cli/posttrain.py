"""`mechshift posttrain`: an MDM, or its control, from an ARM of your own; or a known pair from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechshift_tl.cli.console import console
from mechshift_tl.cli.errors import clear_errors, opening
from mechshift_tl.cli.options import Seed, not_empty, number_of, words_of

if TYPE_CHECKING:
    from hooked_diffusion.posttrain import Step


def posttrain(
    out: Annotated[Path, typer.Option(help="Folder for the model, its checkpoints, its card and its metrics.")],
    arm: Annotated[
        str | None, typer.Option("--arm", callback=not_empty, help="Checkpoint folder, GGUF file, or hub id (org/name@revision).")
    ] = None,
    recipe: Annotated[str, typer.Option(help="diffullama, dream, llada, a2d, block, or ar (the control).")] = "diffullama",
    task: Annotated[str | None, typer.Option(help="Tasks to train on, separated by commas.")] = None,
    data: Annotated[list[Path] | None, typer.Option(help='Text files, or JSON lines with "text" or "prompt" and "answer"; repeat.')] = None,
    self_generated: Annotated[int, typer.Option(min=0, help="Texts that the ARM writes itself.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 500,
    lora: Annotated[int, typer.Option(min=0, help="Rank of LoRA on every linear layer; 0 trains all weights.")] = 0,
    checkpoints: Annotated[str | None, typer.Option(help="Steps to keep, separated by commas; default: spaced by doubling.")] = None,
    mask: Annotated[str | None, typer.Option(callback=not_empty, help="Token to use as the mask, where there is none.")] = None,
    length: Annotated[int, typer.Option(min=8, help="Tokens per row; texts are packed.")] = 128,
    texts_per_step: Annotated[int, typer.Option(min=1, help="Texts of each source that a step takes.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Its peak, after the warm-up.")] = 1e-4,
    anneal_steps: Annotated[int | None, typer.Option(min=0, help="Steps over which attention opens; default: the recipe's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps; default: the first accelerator, else cpu.")] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between two states to go on from.")] = 50,
    seed: Seed = 0,
    pair_recipe: Annotated[str | None, typer.Option(help="Train a known pair from nothing instead: tiny or smollm2.")] = None,
) -> None:
    """Post-train an ARM into a masked-diffusion model; killed at any moment, the same command goes on."""
    with clear_errors():
        if pair_recipe is not None:
            _remake(pair_recipe, out)
            return
        from hooked_diffusion.checkpoints import load_checkpoint
        from hooked_diffusion.posttrain import Watch, posttrain, preset
        from mechshift_tl.tasks import task_class

        if arm is None:
            raise ValueError("--arm is left out; name the checkpoint to start from, or a --pair-recipe")
        tasks = [task_class(name)() for name in words_of(task or "")]
        changes: dict[str, object] = {"learning_rate": learning_rate, "seed": seed}
        changes |= {} if anneal_steps is None else {"anneal_steps": anneal_steps}
        settings = preset(recipe, steps, **changes)
        kept = None if checkpoints is None else [number_of(word, "--checkpoints") for word in words_of(checkpoints)]
        with console.status(f"opening {arm}"), opening(f"the model {arm}"):
            loaded = load_checkpoint(arm, device=device or _accelerator())
        from mechshift_tl.cli.posttrain_data import TrainingData

        with console.status("reading the data"):
            made = TrainingData.of(loaded, tasks, data or [], self_generated, length, texts_per_step, seed)
        with console.status("starting") as status:
            watch = Watch(kept, made.held_out, made.accuracy, lambda step: status.update(_line(step, steps)))
            posttrain(loaded, made.rows, settings, out=out, lora=lora, mask=mask, save_every=save_every, watch=watch)
        console.print(f"Written: {out}; steps are in {out / 'metrics.jsonl'}", soft_wrap=True)


def _line(step: Step, steps: int) -> str:
    return f"step {step.step}/{steps}  loss {step.loss:.4f} nats  rate {step.rate:.2e}  {step.tokens} tokens"


def _accelerator() -> str:
    """The first accelerator here, else the CPU."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else str(found)


def _remake(name: str, out: Path) -> None:
    """Run the stages of a known pair in `out`/stages, and write the pair to `out`."""
    from mechshift_tl.recipes import PAIR_RECIPES

    if name not in PAIR_RECIPES:
        raise ValueError(f"unknown pair recipe {name!r}; choose {', '.join(PAIR_RECIPES)}")
    PAIR_RECIPES[name]().remake(out / "stages", out, console.print)
    console.print(f"Written: {out}", soft_wrap=True)
