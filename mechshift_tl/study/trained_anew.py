"""A second model of the same shape, trained on the same task from another seed: it does the same, with heads of its own."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion.model import HookedDiffusionTransformer
from hooked_diffusion.posttrain import Recipe, Rows, train
from mechshift_tl.tasks.task import ExampleStream, Task

#: Training texts, and rows of each step.
N_TEXTS, BATCH = 8000, 48


def trained_anew(
    model: HookedDiffusionTransformer, task: Task, seed: int, *, steps: int = 800, n_texts: int = N_TEXTS
) -> HookedDiffusionTransformer:
    """A model of `model`'s shape, trained from fresh weights on `task` alone, as an ARM or an MDM as `model` is.

    800 steps over 8000 texts teach IOI to a model of a million parameters; other tasks need many more.

    Raises ValueError without a tokenizer.
    """
    if model.tokenizer is None:
        raise ValueError("trained_anew: the model has no tokenizer; give it one, to make training texts")
    given = cast(PreTrainedModel, model.original_model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        native = type(given)(deepcopy(given.config))
    masked = model.spec.is_mdm
    objective = "masked_diffusion" if masked else "next_token"
    recipe = Recipe(
        objective, steps=steps, seed=seed, t_min=0.1, anneal_steps=steps // 8 if masked else 0,
        attention="full" if masked else "causal", logit_shift=1 if model.spec.logit_shift else 0,
    )  # fmt: skip
    rows = TaskRows(task, model.tokenizer, model.spec.tail, seed, n_texts)
    with tempfile.TemporaryDirectory() as folder:
        train(native, rows, recipe, folder=Path(folder), mask_token_id=model.spec.mask_token_id, save_every=steps)
    return HookedDiffusionTransformer.from_hf(native.eval(), model.tokenizer, model.spec, name=f"{task.name}, seed {seed}")


class TaskRows:
    """Training rows of a task: each step gets rows of one length, the length drawn by how many rows have it."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, tail: Sequence[int], seed: int, n_texts: int) -> None:
        groups: dict[int, list[tuple[list[int], int]]] = defaultdict(list)
        for example in ExampleStream(task, tokenizer, seed, split="train").up_to(n_texts):
            prompt, whole = (tokenizer(text)["input_ids"] for text in (example.pair.prompt, example.pair.prompt + example.pair.answer))
            groups[len(whole)].append(([*whole, *tail], len(prompt)))
        self.groups = [self._rows(rows) for _, rows in sorted(groups.items())]

    @staticmethod
    def _rows(rows: list[tuple[list[int], int]]) -> Rows:
        tokens, starts = torch.tensor([row for row, _ in rows]), torch.tensor([start for _, start in rows])
        return Rows(tokens, torch.arange(tokens.shape[1]) >= starts[:, None])

    def __call__(self, generator: torch.Generator) -> list[Rows]:
        """The rows of one step."""
        sizes = torch.tensor([float(len(group.tokens)) for group in self.groups])
        group = self.groups[int(torch.multinomial(sizes, 1, generator=generator))]
        chosen = torch.randint(len(group.tokens), (BATCH,), generator=generator)
        return [Rows(group.tokens[chosen], group.is_answer[chosen])]
