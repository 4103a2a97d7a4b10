"""Examples × model → readouts: one row per example and step.

A row is one forward's worth. ARM and MDM get the same examples; only the canvas differs.

- ARM: prompt and answer stand on the canvas (teacher forced); causality hides what is yet to come. Step k reads answer token k.
- MDM: the prompt stands, the answer is masked; step k's canvas reveals what was committed before k and reads what step k commits. The
  order is the model's own confidence on the clean canvas, teacher forced, drawn once per example and shared by clean and corrupt.

Positions where answer and foil coincide (or the foil also begins a valid answer) are never read. Each canvas position lies in one named
span: `read`, whose logits are read; `changed`, where what is given differs; the rest of the `prompt`, with the example's suffix; the rest
of the `answer`; the `tail`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hooked_diffusion.seeds import check_seed
from mechshift_tl.bridge.alignment import logit_shift, mask_token, spec_of
from mechshift_tl.bridge.batching import is_whole
from mechshift_tl.bridge.protocol import HookedModel, check_model
from mechshift_tl.readouts.checks import ABSENT, check_ids
from mechshift_tl.readouts.commit_order import Order, commit_orders
from mechshift_tl.readouts.rows import MASK_ID, Readouts
from mechshift_tl.tasks.examples import Example, Examples

Revealed = Literal["own", "clean"]
SPANS = ("read", "changed", "prompt", "answer", "tail")


def readouts(
    model: HookedModel,
    examples: Examples,
    *,
    order: Order = "confidence",
    revealed: Revealed = "own",
    tokens_per_step: int = 1,
    tail: tuple[int, ...] | None = None,
    seed: int = 0,
    batch_tokens: int | None = None,
) -> Readouts:
    """The rows that `model` is read on for `examples`: one per example and step (see the module docstring).

    - `order`: in which order an MDM commits the answer: its own "confidence", "left_to_right" or "random" (by `seed`). An ARM is always
      left to right.
    - `revealed`: committed tokens are each run's "own" answer, or the "clean" one in both.
    - `tail`: token ids behind every row; by default those of the model's own training.
    - `tokens_per_step`: answer tokens committed per step; steps = ceil(answer tokens / tokens_per_step).

    Raises ValueError on unknown settings, on an MDM without a mask token, and on ids outside the model's vocabulary.
    """
    check_model("readouts", model)
    if not isinstance(examples, Examples):
        raise TypeError(
            f"readouts: examples is a {type(examples).__name__}; give what a task makes, such as IOI().examples(tokenizer, n=40), or "
            "Prompts(rows).examples(tokenizer, None) of your own texts, or use Readouts.from_tokens for tokens of your own"
        )
    if not len(examples):
        raise ValueError("readouts: there is no example; draw at least one")
    if order not in get_args(Order) or revealed not in get_args(Revealed):
        raise ValueError(f"readouts: order is {order!r}, revealed {revealed!r}; choose from {get_args(Order)} and {get_args(Revealed)}")
    if not is_whole(tokens_per_step) or tokens_per_step < 1:
        raise ValueError(f"readouts: tokens_per_step must be at least 1, got {tokens_per_step}; give a whole number")
    check_seed(seed, "readouts: seed")
    check_ids(model, "examples", torch.tensor([i for e in examples for i in (*e.clean, *e.corrupt, *e.foil, *e.suffix, *e.corrupt_suffix)]))
    mask, tail = mask_token(model), spec_of(model).tail if tail is None else tail
    masked = mask is not None
    orders = commit_orders(model, examples, order if masked else "left_to_right", seed, batch_tokens)
    rows = [
        row
        for i, (example, commits) in enumerate(zip(examples, orders, strict=True))
        for row in _rows(i, example, commits, mask, tail, revealed, tokens_per_step, logit_shift(model))
    ]
    made = _collate(rows, examples)
    made.info.update(
        task=examples.task,
        model=model.cfg.model_name,
        **{MASK_ID: mask},
        masks=max(len(e.answer) for e in examples) if masked else 0,
        order=order if masked else "left_to_right",
        revealed=revealed,
        tokens_per_step=tokens_per_step,
        dropped=examples.dropped,
        seed=examples.seed,
    )
    made.check(model)
    return made


@dataclass(frozen=True)
class _Row:
    clean: list[int]
    corrupt: list[int]
    target_pos: list[int]
    answer_ids: list[int]
    foil_ids: list[int]
    step: int
    example: int
    span: list[int]


def _rows(
    index: int,
    example: Example,
    commits: list[int],
    mask: int | None,
    tail: tuple[int, ...],
    revealed: Revealed,
    tokens_per_step: int,
    shift: int,
) -> Iterator[_Row]:
    """One row per step that has something to read; `mask` None leaves the answer on the canvas."""
    start = example.answer_start
    for step, at in enumerate(range(0, len(commits), tokens_per_step)):
        # A position where answer and foil agree shows nothing, but it is committed all the same.
        read = [j for j in sorted(commits[at : at + tokens_per_step]) if example.readable[j]]
        if not read:
            continue
        clean, corrupt = [*example.clean, *example.suffix, *tail], [*example.corrupt, *example.corrupt_suffix, *tail]
        if revealed == "clean":
            corrupt[start : len(example.clean)] = example.answer
        if mask is not None:
            # Masked is what this step commits and everything after it; what was committed before stays visible.
            for j in commits[at:]:
                clean[start + j] = corrupt[start + j] = mask
        positions = [start + j for j in read]
        # `read` is where the logits are read, one position earlier under logit shift 1.
        span = _spans(example, clean, corrupt, [p - shift for p in positions])
        yield _Row(clean, corrupt, positions, [example.answer[j] for j in read], [example.foil[j] for j in read], step, index, span)


def _spans(example: Example, clean: list[int], corrupt: list[int], read: list[int]) -> list[int]:
    """Index into `SPANS` of each canvas position."""
    answer, suffix = example.answer_start, len(example.clean)
    tail = suffix + len(example.suffix)

    def name(position: int) -> str:
        if position in read:
            return "read"
        if answer <= position < suffix:
            return "answer"
        if position >= tail:
            return "tail"
        if clean[position] != corrupt[position]:
            return "changed"
        return "prompt"

    return [SPANS.index(name(position)) for position in range(len(clean))]


def _collate(rows: list[_Row], examples: Examples) -> Readouts:
    def padded(name: str) -> Tensor:
        values = [torch.tensor(getattr(row, name)) for row in rows]
        # Answers have different lengths, and so have rows.
        return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=ABSENT)

    tensors: dict[str, Any] = {name: padded(name) for name in ("clean", "corrupt", "target_pos", "answer_ids", "foil_ids", "span")}
    step, example = (torch.tensor([getattr(row, name) for row in rows]) for name in ("step", "example"))
    return Readouts(**tensors, step=step, example=example, groups=tuple(e.group for e in examples), spans=SPANS)
