"""The prompt pool: examples that every compared model reads correctly.

An example enters when each model ranks the written token first at every position it is read on (teacher forced, in its own commit order).
What was tried and what each model decodes freely are reported beside, because a pool of easy prompts says nothing of the hard ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from hooked_diffusion import artefact
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.readouts import Readouts, readouts
from mechshift_tl.runs.stages import Stages
from mechshift_tl.tasks.examples import Examples
from mechshift_tl.tasks.task import Task


@dataclass(frozen=True)
class Pool:
    """Examples read correctly by every required model, with each model's readouts of them.

    - `tried`: examples drawn to find these; `read_correctly`: share of the tried that each model reads right, in [0, 1].
    - `decoded_correctly`: share of the tried whose freely decoded answer is right, in [0, 1].
    """

    task: str
    examples: Examples
    readouts: dict[str, Readouts] = field(repr=False)
    tried: int
    read_correctly: dict[str, float]
    decoded_correctly: dict[str, float]

    def __len__(self) -> int:
        return len(self.examples)

    def select(self, examples: Sequence[int]) -> Pool:
        """The pool of some of its examples; what was tried stays as it was."""
        rows = {role: one.select(examples) for role, one in self.readouts.items()}
        return replace(self, examples=self.examples.select(examples), readouts=rows)

    def save(self, folder: str | Path) -> None:
        """Write `pool.json`, `examples.json` and a file of readouts per role to `folder`."""
        folder = Path(folder)
        side = {name: getattr(self, name) for name in _SIDE} | {"roles": list(self.readouts)}
        artefact.write_json(folder / "pool.json", side)
        self.examples.save(folder / "examples.json")
        for role, one in self.readouts.items():
            one.save(folder / f"{role}.readouts.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> Pool:
        """Read what `save` wrote. Raises ValueError, OSError on another folder."""
        folder = Path(folder)
        side = artefact.read_json(folder / "pool.json", "Pool.save", *_SIDE, "roles")
        made = {role: Readouts.load(folder / f"{role}.readouts.safetensors") for role in side["roles"]}
        return cls(**{name: side[name] for name in _SIDE}, examples=Examples.load(folder / "examples.json"), readouts=made)


_SIDE = ("task", "tried", "read_correctly", "decoded_correctly")


def common_correct(
    models: Mapping[str, HookedModel],
    task: Task,
    n: int,
    *,
    seed: int = 0,
    required: tuple[str, ...] = ("arm", "mdm"),
    tokenizer: Any = None,
    stages: Stages | None = None,
) -> Pool:
    """`n` held-out examples that the `required` models read correctly; `models` are named by role.

    Draws twice as many, then doubles until enough are found. `stages` keeps what each model has read and decoded. Raises ValueError, saying
    how many were found, when the task runs out.
    """
    tokenizer, kept = tokenizer or next(iter(models.values())).tokenizer, stages or Stages()
    tries = 2 * n
    while True:
        examples, exhausted = _draw(task, tokenizer, tries, seed)
        if len(examples) < n:
            raise ValueError(
                f"task {task.name!r} can make {len(examples)} held-out examples with this tokenizer, not n = {n}; ask for fewer"
            )
        made, right = _read(models, examples, seed, kept.of(f"{len(examples)} tried"))
        both = torch.stack([right[role] for role in required]).all(0).nonzero()[:, 0].tolist()
        if len(both) >= n:
            break
        if exhausted:
            raise ValueError(
                f"task {task.name!r}: {' and '.join(required)} read {len(both)} of all {len(examples)} examples correctly, fewer than "
                f"n = {n}; ask for at most {len(both)}, or widen the task"
            )
        tries *= 2
    first = both[:n]
    return Pool(
        task=task.name,
        examples=examples.select(first),
        readouts={role: one.select(first) for role, one in made.items()},
        tried=len(examples),
        read_correctly={role: values.float().mean().item() for role, values in right.items()},
        decoded_correctly=_decoded(models, task, examples, kept.of(f"{len(examples)} tried")),
    )


def _read(
    models: Mapping[str, HookedModel], examples: Examples, seed: int, stages: Stages
) -> tuple[dict[str, Readouts], dict[str, Bool[Tensor, " n_examples"]]]:
    """Each model's readouts, and which of the examples it reads correctly."""
    made: dict[str, Readouts] = {}
    right: dict[str, Tensor] = {}
    for role, model in models.items():
        rows = made[role] = stages.draft(f"{role}.readouts.safetensors", Readouts.load, partial(readouts, model, examples, seed=seed))
        right[role] = torch.tensor(stages.value(f"{role}.read.json", lambda model=model, rows=rows: read_correctly(model, rows).tolist()))
    return made, right


def _decoded(models: Mapping[str, HookedModel], task: Task, examples: Examples, stages: Stages) -> dict[str, float]:
    """The share of the examples that each model solves, decoding freely."""
    return {role: stages.value(f"{role}.decoded.json", partial(task.accuracy, model, examples)) for role, model in models.items()}


def _draw(task: Task, tokenizer: Any, n: int, seed: int) -> tuple[Examples, bool]:
    """`n` examples, or all there are; and whether these are all."""
    try:
        return task.examples(tokenizer, n, seed), False
    except ValueError:
        return task.examples(tokenizer, None, seed), True


@torch.no_grad()
def read_correctly(model: HookedModel, made: Readouts, *, batch_tokens: int = 8192) -> Bool[Tensor, " n_examples"]:
    """Whether each example's written token ranks first at every position read, on the clean canvases."""
    right = torch.ones(made.n_examples, dtype=torch.bool)
    for batch in made.batches(batch_tokens):
        batch = batch.to(model.cfg.device)
        first = batch.logits(model).argmax(-1)
        wrong = ~(first == batch.answer_ids).all(1).cpu()
        right[made.example[batch.index][wrong]] = False
    return right
