"""The prompts of a command, other prompts that are kept apart, and the means that are taken over the latter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mechshift_tl.cli.console import console
from mechshift_tl.cli.task_options import print_dropped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mechshift_tl.bridge.protocol import HookedModel
    from mechshift_tl.interventions.replaced import WriterMeans
    from mechshift_tl.runs.stages import Stages
    from mechshift_tl.tasks import Task
    from mechshift_tl.tasks.examples import Examples


def draw(task: Task, tokenizer: PreTrainedTokenizerBase, n: int | None, apart: int, seed: int) -> tuple[Examples, Examples | None]:
    """Draw `n` prompts and `apart` others that differ from them.

    Where `n` is None, all prompts are drawn except the others; where `apart` is 0, the others are None. Raises ValueError when the task has
    too few.
    """
    drawn = task.examples(tokenizer, None if n is None else n + apart, seed)
    # The first ones are kept, so `n` prompts are the same whatever number is kept apart.
    kept = len(drawn) - apart
    if kept < 1:
        raise ValueError(f"{task.name} has {len(drawn)} prompts here, and --means-n {apart} leaves none of them; ask for fewer")
    return drawn.select(range(kept)), drawn.select(range(kept, len(drawn))) if apart else None


def print_prompts(examples: Examples, task: Task) -> None:
    """Say how many prompts there are, and what was dropped; of one's own prompts, which rows."""
    dropped = "".join(f"; {count} dropped: {why}" for why, count in examples.dropped.items())
    console.print(f"{len(examples)} examples of {examples.task}{dropped}")
    print_dropped(task, examples.tokenizer)


def means_over(model: HookedModel, apart: Examples | None, intervention: str, seed: int, stages: Stages) -> WriterMeans | None:
    """The writers' mean outputs over prompts kept apart, where there are any."""
    if apart is None:
        return None
    from mechshift_tl.interventions.replaced import WriterMeans, writer_means
    from mechshift_tl.readouts import readouts

    console.print(f"Means over {len(apart)} further examples of {apart.task}, none of them among these")
    positional = intervention == "mean_positional"
    return stages.result(
        "means.safetensors", WriterMeans.load, lambda: writer_means(model, readouts(model, apart, seed=seed), positional=positional)
    )
