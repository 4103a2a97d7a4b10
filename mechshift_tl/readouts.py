"""What a model is shown and where it is read: examples × model → canvases, target positions, answers and foils.

A row is one forward's worth. ARM and MDM get the same examples; only the canvas differs.

- ARM: prompt and answer stand on the canvas (teacher forced); causality hides what is yet to come. Step k reads answer token k.
- MDM: the prompt stands, the answer is masked; step k's canvas reveals what was committed before k and reads what step k commits. The
  order is the model's own confidence on the clean canvas, teacher forced, drawn once per example and shared by clean and corrupt.

Positions where answer and foil coincide (or the foil also begins a valid answer) are never read. Rows of one batch always share their
length and number of read positions, so nothing is ever padded and nothing can leak.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_diffusion.spec import DiffusionSpec
from mechshift_tl import artefact
from mechshift_tl.commit_order import Order, commit_orders
from mechshift_tl.tasks.task import Example, Examples

Revealed = Literal["own", "clean"]
ABSENT = -1


def aligned_logits(model: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits whose row p predicts the token at p: the model's `token_logits`, or shift 1 on a plain TransformerBridge.

    Row 0 of a shifted model is finite but predicts nothing.
    """
    if hasattr(model, "token_logits"):
        return model.token_logits(tokens)
    logits = model(tokens)
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


def spec_of(model: Any) -> DiffusionSpec:
    """How the model is read: its own spec, or an ordinary ARM's for a plain TransformerBridge."""
    return getattr(model, "spec", None) or DiffusionSpec()


def logit_shift(model: Any) -> int:
    """1 when a position is predicted by the one before it, as on every plain TransformerBridge."""
    return spec_of(model).logit_shift


def mask_token(model: Any) -> int | None:
    """The id an MDM sees where it has yet to commit; None for an ARM, which needs none. Raises ValueError on an MDM without one."""
    spec = spec_of(model)
    if spec.is_mdm and spec.mask_token_id is None:
        raise ValueError(f"{model.cfg.model_name}: an MDM without a mask token cannot be read; give its DiffusionSpec a mask_token_id")
    return spec.mask_token_id if spec.is_mdm else None


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, equal k and one step: a rectangle that a model can run.

    `clean`, `corrupt` are `(rows, pos)`; `target_pos`, `answer_ids`, `foil_ids` are `(rows, k)`; `index` says which readout rows these are.
    """

    clean: Int[Tensor, "rows pos"]
    corrupt: Int[Tensor, "rows pos"]
    target_pos: Int[Tensor, "rows k"]
    answer_ids: Int[Tensor, "rows k"]
    foil_ids: Int[Tensor, "rows k"]
    step: int
    index: Int[Tensor, " rows"]

    def at_targets(self, logits: Float[Tensor, "rows pos d_vocab"]) -> Float[Tensor, "rows k d_vocab"]:
        """Aligned logits at the target positions."""
        return logits.gather(1, self.target_pos[..., None].expand(-1, -1, logits.shape[-1]))

    def to(self, device: Any) -> Batch:
        """The same batch on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("clean", "corrupt", "target_pos", "answer_ids", "foil_ids")}
        return Batch(**moved, step=self.step, index=self.index)


@dataclass(frozen=True)
class Readouts:
    """Rows to attribute, `(rows, …)`, padded with −1 where rows differ in length or in the number of positions they read.

    `clean`, `corrupt` `(rows, pos)` are token ids; `target_pos`, `answer_ids`, `foil_ids` `(rows, k)` are positions *of the predicted
    token* and the ids contrasted there; `step`, `example` `(rows,)` say where a row comes from; `groups` names each example's prompt group.
    `info` carries what a report must state: number of masks, order, what was dropped.
    """

    clean: Int[Tensor, "rows pos"]
    corrupt: Int[Tensor, "rows pos"]
    target_pos: Int[Tensor, "rows k"]
    answer_ids: Int[Tensor, "rows k"]
    foil_ids: Int[Tensor, "rows k"]
    step: Int[Tensor, " rows"]
    example: Int[Tensor, " rows"]
    groups: tuple[str, ...]
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_tokens(
        cls,
        clean: Int[Tensor, "n pos"],
        corrupt: Int[Tensor, "n pos"],
        target_pos: Int[Tensor, " n"] | Int[Tensor, "n k"],
        answer_ids: Int[Tensor, " n"] | Int[Tensor, "n k"],
        foil_ids: Int[Tensor, " n"] | Int[Tensor, "n k"],
        *,
        groups: Sequence[str] | None = None,
    ) -> Readouts:
        """Readouts of your own tensors, one step.

        `target_pos` is the position of the predicted token, so an ARM's canvas has a slot for it. Raises ValueError, naming the tensor, on
        shapes that disagree, on negative ids and on a target outside the canvas.
        """
        clean, corrupt = torch.as_tensor(clean), torch.as_tensor(corrupt)
        if clean.ndim != 2 or clean.shape != corrupt.shape:
            raise ValueError(
                f"clean {tuple(clean.shape)} and corrupt {tuple(corrupt.shape)} must both be (n, pos): pairs of equal length; "
                "group unequal prompts by length, or choose a corruption that keeps it"
            )
        given = {"target_pos": target_pos, "answer_ids": answer_ids, "foil_ids": foil_ids}
        columns: dict[str, Any] = {name: torch.as_tensor(value) for name, value in given.items()}
        columns = {name: value[:, None] if value.ndim == 1 else value for name, value in columns.items()}
        n = clean.shape[0]
        for name, value in columns.items():
            if value.ndim != 2 or value.shape != columns["target_pos"].shape or value.shape[0] != n:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; give (n,) or (n, k) with n = {n}, the same for all three")
        target = columns["target_pos"]
        if not target.numel() or target.min() < 0 or target.max() >= clean.shape[1]:
            raise ValueError(f"target_pos must lie in [0, {clean.shape[1]}) and n be at least 1; got n = {n}, {target.tolist()[:4]}…")
        for name, value in {"clean": clean, "corrupt": corrupt, **columns}.items():
            if value.min() < 0:
                raise ValueError(
                    f"{name} holds id {int(value.min())}, outside every vocabulary; rows are not padded: group prompts by length"
                )
        index = torch.arange(n)
        names = tuple(groups) if groups is not None else ("all",) * n
        if len(names) != n:
            raise ValueError(f"groups names {len(names)} examples, not {n}")
        return cls(clean, corrupt, **columns, step=torch.zeros_like(index), example=index, groups=names)

    def __len__(self) -> int:
        return self.clean.shape[0]

    @property
    def n_examples(self) -> int:
        """Examples the rows come from."""
        return len(self.groups)

    @property
    def n_read(self) -> Int[Tensor, " rows"]:
        """Positions each row reads, `(rows,)`: its weight in every mean over read positions."""
        return (self.target_pos != ABSENT).sum(1)

    @property
    def steps(self) -> list[int]:
        """Step indices that occur, ascending."""
        return sorted(set(self.step.tolist()))

    def select(self, examples: Sequence[int]) -> Readouts:
        """The rows of the given examples (a list of distinct indices), renumbered in that order: for resampling and splitting prompts."""
        place = {e: i for i, e in enumerate(examples)}
        rows = torch.tensor([i for i, e in enumerate(self.example.tolist()) if e in place], dtype=torch.long)
        tensors: dict[str, Any] = {name: getattr(self, name)[rows] for name in _TENSORS if name != "example"}
        renumbered = torch.tensor([place[int(e)] for e in self.example[rows]], dtype=torch.long)
        return Readouts(**tensors, example=renumbered, groups=tuple(self.groups[e] for e in examples), info=self.info)

    def batches(self, batch_tokens: int) -> Iterator[Batch]:
        """Rectangular batches of at most `batch_tokens` tokens (always at least one row), grouped by step, length and k."""
        lengths, n_read = (self.clean != ABSENT).sum(1), self.n_read
        groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        for i, key in enumerate(zip(self.step.tolist(), lengths.tolist(), n_read.tolist(), strict=True)):
            groups[key].append(i)
        for (step, length, k), rows in sorted(groups.items()):
            size = max(1, batch_tokens // length)
            for start in range(0, len(rows), size):
                index = torch.tensor(rows[start : start + size])
                yield Batch(
                    self.clean[index, :length], self.corrupt[index, :length], self.target_pos[index, :k],
                    self.answer_ids[index, :k], self.foil_ids[index, :k], step, index,
                )  # fmt: skip

    def check(self, model: Any) -> None:
        """Raise ValueError when this model cannot be read here: ids outside its vocabulary, or a target before its first prediction."""
        for name in ("clean", "corrupt", "answer_ids", "foil_ids"):
            _check_ids(model, f"readouts.{name}", getattr(self, name))
        first = int(self.target_pos[self.target_pos != ABSENT].min())
        if first < logit_shift(model):
            raise ValueError(f"target position {first} cannot be predicted by a model with logit shift 1; put BOS or a prompt token first")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per read position: example, group, step, position, answer id, foil id."""
        rows, slots = (self.target_pos != ABSENT).nonzero(as_tuple=True)
        example = self.example[rows]
        columns = {"example": example, "step": self.step[rows], "position": self.target_pos[rows, slots]}
        columns |= {"answer_id": self.answer_ids[rows, slots], "foil_id": self.foil_ids[rows, slots]}
        frame = pd.DataFrame({name: value.tolist() for name, value in columns.items()})
        frame.insert(1, "group", [self.groups[e] for e in example.tolist()])
        return frame

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; `info` and groups travel in its header."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        artefact.write(path, "readouts", tensors, {"groups": self.groups, "info": self.info})

    @classmethod
    def load(cls, path: str | Path) -> Readouts:
        """Read what `save` wrote. Raises ValueError when the file is something else."""
        tensors, side = artefact.read(path, "readouts", "Readouts.save")
        return cls(**tensors, groups=tuple(side["groups"]), info=side["info"])

    def _repr_html_(self) -> str:
        read = int(self.n_read.sum())
        summary = f"<b>Readouts</b>: {len(self)} rows, {self.n_examples} examples, {len(self.steps)} steps, {read} positions read"
        return summary + self.to_dataframe().head(5).to_html(index=False)


_TENSORS = ("clean", "corrupt", "target_pos", "answer_ids", "foil_ids", "step", "example")


def readouts(
    model: Any,
    examples: Examples,
    *,
    order: Order = "confidence",
    revealed: Revealed = "own",
    tokens_per_step: int = 1,
    seed: int = 0,
    batch_tokens: int = 8192,
) -> Readouts:
    """The rows that `model` is read on for `examples`: one per example and step (see the module docstring).

    - `order`: in which order an MDM commits the answer: its own "confidence", "left_to_right" or "random" (by `seed`). An ARM is always
      left to right.
    - `revealed`: committed tokens are each run's "own" answer, or the "clean" one in both.
    - `tokens_per_step`: answer tokens committed per step; steps = ceil(answer tokens / tokens_per_step).

    Raises ValueError on unknown settings, on an MDM without a mask token, and on ids outside the model's vocabulary.
    """
    if order not in get_args(Order) or revealed not in get_args(Revealed):
        raise ValueError(f"readouts: order is {order!r}, revealed {revealed!r}; choose from {get_args(Order)} and {get_args(Revealed)}")
    if tokens_per_step < 1:
        raise ValueError(f"readouts: tokens_per_step must be at least 1, got {tokens_per_step}")
    _check_ids(model, "examples", torch.tensor([i for e in examples for i in (*e.clean, *e.corrupt, *e.foil)]))
    mask, tail = mask_token(model), spec_of(model).tail
    masked = mask is not None
    orders = commit_orders(model, examples, order if masked else "left_to_right", seed, batch_tokens)
    rows = [
        row
        for i, (example, commits) in enumerate(zip(examples, orders, strict=True))
        for row in _rows(i, example, commits, mask, tail, revealed, tokens_per_step)
    ]
    made = _collate(rows, examples)
    made.info.update(
        task=examples.task,
        model=getattr(model.cfg, "model_name", "model"),
        masks=max(len(e.answer) for e in examples) if masked else 0,
        order=order if masked else "left_to_right",
        revealed=revealed,
        tokens_per_step=tokens_per_step,
        dropped=examples.dropped,
        seed=examples.seed,
    )
    made.check(model)
    return made


def _check_ids(model: Any, name: str, ids: Tensor) -> None:
    vocabulary = model.cfg.d_vocab
    bad = ids[(ids >= vocabulary) | (ids < ABSENT)]
    if bad.numel():
        raise ValueError(f"{name} holds id {int(bad[0])}, outside the vocabulary of {vocabulary}; use this model's tokenizer")


@dataclass(frozen=True)
class _Row:
    clean: list[int]
    corrupt: list[int]
    target_pos: list[int]
    answer_ids: list[int]
    foil_ids: list[int]
    step: int
    example: int


def _rows(
    index: int, example: Example, commits: list[int], mask: int | None, tail: tuple[int, ...], revealed: Revealed, tokens_per_step: int
) -> Iterator[_Row]:
    """One row per step that has something to read; `mask` None leaves the answer on the canvas."""
    start = example.answer_start
    for step, at in enumerate(range(0, len(commits), tokens_per_step)):
        read = [j for j in sorted(commits[at : at + tokens_per_step]) if example.readable[j]]
        if not read:
            continue
        clean, corrupt = [*example.clean, *tail], [*example.corrupt, *tail]
        if revealed == "clean":
            corrupt[start : len(example.clean)] = example.answer
        if mask is not None:
            for j in commits[at:]:
                clean[start + j] = corrupt[start + j] = mask
        positions = [start + j for j in read]
        yield _Row(clean, corrupt, positions, [example.answer[j] for j in read], [example.foil[j] for j in read], step, index)


def _collate(rows: list[_Row], examples: Examples) -> Readouts:
    def padded(name: str) -> Tensor:
        values = [torch.tensor(getattr(row, name)) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=ABSENT)

    tensors: dict[str, Any] = {name: padded(name) for name in _TENSORS[:5]}
    step, example = (torch.tensor([getattr(row, name) for row in rows]) for name in ("step", "example"))
    return Readouts(**tensors, step=step, example=example, groups=tuple(e.group for e in examples))
