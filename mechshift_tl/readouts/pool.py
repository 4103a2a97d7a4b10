"""The prompt pool: examples that every compared model reads correctly.

An example enters when each model ranks the written token first at every position it is read on (teacher forced, in its own commit order).
Of a task with many right answers, the written token must rank above the foil instead (`Task.correct`).
What was tried and what each model decodes freely are reported beside, because a pool of easy prompts says nothing about hard ones.
A screen may also make circuits alike: `study.unscreened` repeats a study's headline without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from hooked_diffusion import artefact
from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.readouts import ABSENT, Readouts, readouts
from mechshift_tl.runs.stages import Stages
from mechshift_tl.tasks.examples import Examples
from mechshift_tl.tasks.task import Correct, ExampleStream, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pool:
    """Examples read correctly by every required model, with each model's readouts of them.

    - `tried`: examples drawn to find these; `read_correctly`: share of the tried that each model reads right, in [0, 1].
    - `decoded_correctly`: share of the tried whose freely decoded answer is right, in [0, 1]; empty where none was decoded.
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

    def within(self, rows: int) -> Pool:
        """Its first examples, as many as have at most `rows` rows in each model, but at least two: what a costly measurement can run."""
        ends = torch.stack([torch.bincount(one.example, minlength=len(self)).cumsum(0) for one in self.readouts.values()]).amax(0)
        return self.select(range(min(len(self), max(2, int((ends <= rows).sum())))))

    def save(self, folder: str | Path) -> None:
        """Write `pool.json`, `examples.json` and a file of readouts per role to `folder`, which is made where it is new."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
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
    required: tuple[str, ...] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    drawn: ExampleStream | None = None,
    stages: Stages | None = None,
    decode: bool = True,
) -> Pool:
    """`n` held-out examples that the `required` models, by default all of `models`, read correctly; `models` are named by role.

    Tries twice as many, then doubles until enough are found. `drawn` is the task's stream where some examples were drawn from it before.
    `stages` keeps what each model has read and decoded. Without `decode` nothing is decoded freely, which takes most of the time.

    Raises ValueError, saying how many were found, when the task runs out.
    """
    kept, required = stages or Stages(), tuple(models) if required is None else required
    stream = drawn or ExampleStream(task, tokenizer or _tokenizer(models), seed)
    examples, tried = stream.up_to(2 * n), Tried({}, {})
    while True:
        if len(examples) < n:
            raise ValueError(
                f"task {task.name!r} can make {len(examples)} held-out examples with this tokenizer, not n = {n}; ask for fewer"
            )
        # What was read before is not read again: only what has come since.
        place = kept.of(f"{len(tried)} to {len(examples)}")
        tried = tried.then(_read(models, examples[len(tried) :], seed, place, task.correct), examples.dropped)
        both = tried.right_in(required)
        if len(both) >= n:
            break
        more = stream.up_to(2 * len(examples))
        if len(more) == len(examples):
            raise ValueError(
                f"task {task.name!r}: {' and '.join(required)} read {len(both)} of all {len(examples)} examples correctly, fewer than "
                f"n = {n}; ask for at most {len(both)}, or widen the task"
            )
        examples = more
    first = both[:n]
    return Pool(
        task=task.name,
        examples=examples.select(first),
        readouts={role: one.select(first) for role, one in tried.readouts.items()},
        tried=len(examples),
        read_correctly={role: values.float().mean().item() for role, values in tried.right.items()},
        decoded_correctly=_decoded(models, task, examples, kept.of(f"{len(examples)} tried")) if decode else {},
    )


@dataclass(frozen=True)
class Tried:
    """What each model, by role, has read of the examples tried so far: its readouts, and which examples it reads correctly."""

    readouts: dict[str, Readouts]
    right: dict[str, Bool[Tensor, " n_examples"]]

    def __len__(self) -> int:
        return len(next(iter(self.right.values()), ()))

    def right_in(self, roles: Sequence[str]) -> list[int]:
        """The examples that the models of all these roles read correctly, in their order."""
        return torch.stack([self.right[role] for role in roles]).all(0).nonzero()[:, 0].tolist()

    def then(self, more: Tried, dropped: Mapping[str, int]) -> Tried:
        """These examples, followed by those of `more`; `dropped` counts the prompts left out so far, by reason."""
        if not self.readouts:
            return more
        read = {role: _joined(one, more.readouts[role], dropped) for role, one in self.readouts.items()}
        return Tried(read, {role: torch.cat([one, more.right[role]]) for role, one in self.right.items()})


def _joined(first: Readouts, more: Readouts, dropped: Mapping[str, int]) -> Readouts:
    """The rows of `first`, and behind them those of `more`, whose examples are numbered on. Rows of `readouts` have no masks."""
    tensors = {}
    for name, tensor in first.tensors().items():
        parts = [tensor, more.tensors()[name] + (first.n_examples if name == "example" else 0)]
        if tensor.ndim == 2:
            width = max(part.shape[1] for part in parts)
            parts = [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=ABSENT) for part in parts]
        tensors[name] = torch.cat(parts)
    info = first.info | {"masks": max(first.info["masks"], more.info["masks"]), "dropped": dict(dropped)}
    return replace(first, **tensors, groups=first.groups + more.groups, info=info)


def _tokenizer(models: Mapping[str, HookedModel]) -> PreTrainedTokenizerBase:
    """The tokenizer of the first model. Raises ValueError where that model has none."""
    tokenizer = next(iter(models.values())).tokenizer
    if tokenizer is None:
        raise ValueError("common_correct: the first model has no tokenizer; give one by tokenizer=")
    return tokenizer


def _read(models: Mapping[str, HookedModel], examples: Examples, seed: int, stages: Stages, correct: Correct) -> Tried:
    """Each model's readouts of some examples, and which of them it reads correctly."""
    found = Tried({}, {})
    for role, model in models.items():
        rows = stages.draft(f"{role}.readouts.safetensors", Readouts.load, partial(readouts, model, examples, seed=seed))
        read = partial(read_correctly, model, rows, correct=correct)
        right = stages.value(f"{role}.read.json", lambda read=read: read().tolist())
        found.readouts[role], found.right[role] = rows, torch.tensor(right)
    return found


def _decoded(models: Mapping[str, HookedModel], task: Task, examples: Examples, stages: Stages) -> dict[str, float]:
    """The share of the examples that each model solves, decoding freely."""
    return {role: stages.value(f"{role}.decoded.json", partial(task.accuracy, model, examples)) for role, model in models.items()}


@torch.no_grad()
def read_correctly(
    model: HookedModel, made: Readouts, *, batch_tokens: int | None = None, correct: Correct = "first"
) -> Bool[Tensor, " n_examples"]:
    """`(n_examples,)`: whether the written token ranks first at every position read, on the clean canvases.

    With `correct` "above_foil" it need not rank first: it must have a higher logit than the foil.
    """
    right = torch.ones(made.n_examples, dtype=torch.bool)
    for batch in made.batches(batch_tokens_for(model, "targets", batch_tokens)):
        batch = batch.to(model.cfg.device)
        logits = batch.logits(model)
        if correct == "first":
            good = logits.argmax(-1) == batch.answer_ids
        else:
            answer, foil = (logits.gather(-1, ids[..., None])[..., 0] for ids in (batch.answer_ids, batch.foil_ids))
            good = answer > foil
        wrong = ~good.all(1).cpu()
        right[made.example[batch.index][wrong]] = False
    return right
