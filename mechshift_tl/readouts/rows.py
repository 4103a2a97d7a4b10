"""`Readouts`: the rows that a model is read on.

Rows of one batch share their length and their number of read positions, so rows of different lengths need no padding. Rows that come with
padding of their own carry masks: no position sees a masked token, and no score depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_args

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.attention import visible_tokens
from hooked_diffusion.html import card
from mechshift_tl.bridge.alignment import logit_shift, mask_token
from mechshift_tl.bridge.batching import same_shape
from mechshift_tl.bridge.kinds import check_kind
from mechshift_tl.bridge.protocol import HookedModel, check_model, check_weights, says_how_it_is_read
from mechshift_tl.plotting import SEQUENTIAL, style
from mechshift_tl.readouts.batch import Batch, Side
from mechshift_tl.readouts.checks import ABSENT, MASKS, check_ids, check_parts
from mechshift_tl.readouts.from_tokens import AttentionMask, Span, columns_of, indices_of, masks_of, names_of, rectangle, span_of


@dataclass(frozen=True)
class Readouts(Artefact):
    """Rows to attribute, `(rows, …)`, filled up with −1 where rows differ in length or in the number of positions they read.

    - `clean`, `corrupt` `(rows, pos)` are token ids; `clean_mask`, `corrupt_mask` are True at visible ones, None when all are.
    - `target_pos`, `answer_ids`, `foil_ids` `(rows, k)` are positions *of the predicted token* and the ids contrasted there.
    - `step`, `example` `(rows,)` say where a row comes from; `groups` names each example's prompt group.
    - `span` `(rows, pos)` says in which of the named `spans` a position lies, −1 for none.
    - `info` carries what a report must state: number of masks, order, what was dropped.

    Raises ValueError, naming the tensor, when the parts do not fit each other: shapes, one mask without the other, −1 on one side or in
    a row, an example that has no group.
    """

    KIND: ClassVar[str] = "readouts"

    clean: Int[Tensor, "rows pos"]
    corrupt: Int[Tensor, "rows pos"]
    target_pos: Int[Tensor, "rows k"]
    answer_ids: Int[Tensor, "rows k"]
    foil_ids: Int[Tensor, "rows k"]
    step: Int[Tensor, " rows"]
    example: Int[Tensor, " rows"]
    groups: tuple[str, ...]
    info: dict[str, Any] = field(default_factory=dict)
    clean_mask: Bool[Tensor, "rows pos"] | None = None
    corrupt_mask: Bool[Tensor, "rows pos"] | None = None
    span: Int[Tensor, "rows pos"] | None = None
    spans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_parts(self.tensors(), len(self.groups), len(self.spans))

    @classmethod
    def from_tokens(
        cls,
        clean: Int[Tensor, "n pos"],
        corrupt: Int[Tensor, "n pos"],
        target_pos: Int[Tensor, " n"] | Int[Tensor, "n k"],
        answer_ids: Int[Tensor, " n"] | Int[Tensor, "n k"],
        foil_ids: Int[Tensor, " n"] | Int[Tensor, "n k"],
        *,
        attention_mask: AttentionMask = None,
        groups: Sequence[str] | None = None,
        spans: Mapping[str, Span] | None = None,
    ) -> Readouts:
        """Readouts of your own tensors, one step.

        - `target_pos` is the position of the predicted token, so an ARM's canvas has a slot for it; the slot itself may be masked.
        - `attention_mask` `(n, pos)`: 1 or True at visible tokens, padding left or right; one for both sides or `(clean, corrupt)`. The two
          sides are compared position by position, also where only one of them is visible. The path of an attribution runs under the clean
          mask. With two different masks it therefore does not start at the corrupt run, and completeness gaps need not close.
        - `spans`: name → positions, as `(start, stop)` or a mask `(n, pos)`; a position lies in one span at most.

        Raises ValueError, naming the tensor, on shapes that disagree, negative ids, a target outside the canvas, rows without a visible
        token, and spans that overlap.
        """
        clean, corrupt = rectangle(clean, corrupt)
        n, length = clean.shape
        columns = columns_of(n, length, target_pos=target_pos, answer_ids=answer_ids, foil_ids=foil_ids)
        masks = masks_of(attention_mask, clean.shape)
        names = names_of(groups, n)
        seen = masks or (visible_tokens(clean),) * 2
        # Padding may hold any id, −1 or −100 among them. 0 is in every vocabulary, and nobody sees it.
        tokens = {"clean": clean.masked_fill(~seen[0], 0), "corrupt": corrupt.masked_fill(~seen[1], 0)}
        for name, value in (tokens | columns).items():
            if value.min() < 0:
                raise ValueError(f"{name} holds id {int(value.min())}, outside every vocabulary; mask padding by attention_mask")
        span = span_of(spans, clean.shape)
        if masks is not None:
            beyond = _beyond(masks[0] | masks[1], columns["target_pos"])
            tokens = {name: value.masked_fill(beyond, ABSENT) for name, value in tokens.items()}
            span = None if span is None else span.masked_fill(beyond, ABSENT)
            # What is hidden lies behind the rows' ends only, and is filled up now: masks are not needed, and the rows run faster.
            masks = None if (seen[0] & seen[1] | beyond).all() else masks
        clean_mask, corrupt_mask = masks or (None, None)
        index = torch.arange(n)
        tensors: dict[str, Any] = tokens | columns | {"clean_mask": clean_mask, "corrupt_mask": corrupt_mask, "span": span}
        return cls(**tensors, step=torch.zeros_like(index), example=index, groups=names, spans=tuple(spans or ()))

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

    def visible(self, side: Side) -> Bool[Tensor, "rows pos"]:
        """True where one side has a token that can be seen: not masked, and not behind the row's end."""
        mask = self.clean_mask if side == "clean" else self.corrupt_mask
        return self.clean != ABSENT if mask is None else mask

    @property
    def hides_from_corrupt(self) -> bool:
        """Whether the corrupt run does not see a token that the clean run sees. The path of an attribution starts at 0 there."""
        return self.clean_mask is not None and self.corrupt_mask is not None and bool((self.clean_mask & ~self.corrupt_mask).any())

    def select(self, examples: Sequence[int]) -> Readouts:
        """The rows of the given examples, renumbered in that order: for splitting prompts. Raises ValueError unless they are distinct
        indices below `n_examples`."""
        examples = indices_of("select", examples)
        # Fewer places than examples: one was named twice.
        place = {e: i for i, e in enumerate(examples)}
        if len(place) < len(examples) or any(not 0 <= e < self.n_examples for e in place):
            raise ValueError(
                f"select: {list(examples)[:6]}… are not distinct indices of {self.n_examples} examples; resample scores instead"
            )
        # In the order of the rows, not of `examples`: batches then do not depend on how examples were asked for.
        rows = torch.tensor([i for i, e in enumerate(self.example.tolist()) if e in place], dtype=torch.long)
        tensors: dict[str, Any] = {name: tensor[rows] for name, tensor in self.tensors().items() if name != "example"}
        renumbered = torch.tensor([place[int(e)] for e in self.example[rows]], dtype=torch.long)
        groups = tuple(self.groups[e] for e in examples)
        return Readouts(**tensors, example=renumbered, groups=groups, info=self.info, spans=self.spans)

    def by_row(self) -> Readouts:
        """The same rows, each an example of its own: scores that are kept per example are then kept per example and step."""
        rows = torch.arange(len(self))
        return replace(self, example=rows, groups=tuple(self.groups[e] for e in self.example.tolist()))

    def hiding_what_follows(self) -> Readouts:
        """The same rows with everything hidden from each row's last read position on.

        A causal model reads the same. Under full attention, a model whose canvas holds the answer would see it otherwise.
        """
        place, last = torch.arange(self.clean.shape[1]), self.target_pos.amax(1, keepdim=True)
        masks = {f"{side}_mask": self.visible(side) & (place < last) for side in get_args(Side)}
        return replace(self, **masks)

    def batches(self, batch_tokens: int) -> Iterator[Batch]:
        """Rectangular batches of at most `batch_tokens` tokens (always at least one row), grouped by step, length, k and maskedness.

        Raises ValueError unless `batch_tokens` is at least 1.
        """
        for (step, length, k, masked), rows in same_shape(self._shapes(), lambda shape: shape[1], batch_tokens, ordered=True):
            index = torch.tensor(rows)
            # Rows that hide nothing run without masks.
            masks = {name: getattr(self, name)[index, :length] for name in MASKS} if masked else {}
            yield Batch(
                self.clean[index, :length], self.corrupt[index, :length], self.target_pos[index, :k],
                self.answer_ids[index, :k], self.foil_ids[index, :k], step, index,
                span=None if self.span is None else self.span[index, :length], **masks,
            )  # fmt: skip

    def _shapes(self) -> list[tuple[int, int, int, bool]]:
        """Per row what it must share with others to run together: step, length, positions read, whether anything is masked."""
        present = self.clean != ABSENT
        lengths, masked = present.sum(1), torch.zeros(len(self), dtype=torch.bool)
        if self.clean_mask is not None and self.corrupt_mask is not None:
            masked = (present & ~(self.clean_mask & self.corrupt_mask)).any(1)
        return list(zip(self.step.tolist(), lengths.tolist(), self.n_read.tolist(), masked.tolist(), strict=True))

    def check(self, model: HookedModel) -> None:
        """Raise ValueError when this model cannot be read here: no row, an id it does not have, a target that nothing visible predicts."""
        if not len(self):
            raise ValueError("readouts hold no row; select or make at least one example that is read somewhere")
        for name in ("clean", "corrupt", "answer_ids", "foil_ids"):
            check_ids(model, f"readouts.{name}", getattr(self, name), predicted=name.endswith("ids"))
        longest = max(int(self.visible(side).sum(1).max()) for side in get_args(Side))
        if says_how_it_is_read(model) and model.max_positions is not None and longest > model.max_positions:
            raise ValueError(
                f"{model.cfg.model_name}: a row has {longest} tokens, the model {model.max_positions} positions; shorten the prompt"
            )
        _check_masks(self.info, model)
        shift = logit_shift(model)
        targets = self.target_pos[self.target_pos != ABSENT]
        if (first := int(targets.min())) < shift:
            raise ValueError(f"target position {first} cannot be predicted by a model with logit shift 1; put BOS or a prompt token first")
        rows = (self.target_pos != ABSENT).nonzero()[:, 0]
        for name in MASKS:
            mask = getattr(self, name)
            if mask is not None and (blind := ~mask[rows, targets - shift]).any():
                at = int(targets[blind][0])
                raise ValueError(
                    f"{name} hides position {at - shift}, from which this model predicts its target {at}; unmask it, or pad on the left"
                )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per read position: example, group, step, position, answer id, foil id."""
        rows, slots = (self.target_pos != ABSENT).nonzero(as_tuple=True)
        example = self.example[rows]
        columns = {"example": example, "step": self.step[rows], "position": self.target_pos[rows, slots]}
        columns |= {"answer_id": self.answer_ids[rows, slots], "foil_id": self.foil_ids[rows, slots]}
        frame = pd.DataFrame({name: value.tolist() for name, value in columns.items()})
        frame.insert(1, "group", [self.groups[e] for e in example.tolist()])
        return frame

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name; those that are None are left out."""
        return {name: tensor for name in TENSORS if (tensor := getattr(self, name)) is not None}

    def figure(self) -> go.Figure:
        """How many rows read each position of the canvas, by step."""
        counts = self.to_dataframe().groupby(["step", "position"]).size().unstack(fill_value=0)
        heat = go.Heatmap(
            z=counts.to_numpy(), x=counts.columns.tolist(), y=counts.index.tolist(), colorscale=SEQUENTIAL, zmin=0, colorbar_title="rows",
            hovertemplate="step %{y}, position %{x}: %{z} rows<extra></extra>",
        )  # fmt: skip
        figure = style(go.Figure(heat), 160 + 18 * max(3, len(counts)))
        return figure.update_layout(xaxis_title="position of the predicted token", yaxis={"title": {"text": "step"}, "dtick": 1})

    def _repr_html_(self) -> str:
        read = int(self.n_read.sum())
        text = f"{len(self)} rows, {self.n_examples} examples, {len(self.steps)} steps, {read} positions read"
        return card("Readouts", text, self.to_dataframe().head(5))


#: The entry of `info` that says which mask the rows were made with.
MASK_ID = "mask_token_id"
TENSORS = ("clean", "corrupt", "target_pos", "answer_ids", "foil_ids", "step", "example", *MASKS, "span")


def _beyond(visible: Bool[Tensor, "n pos"], target_pos: Int[Tensor, "n k"]) -> Bool[Tensor, "n pos"]:
    """Positions after a row's end: after both its last visible token and its last target."""
    place = torch.arange(visible.shape[1])
    last = torch.maximum((visible * place).amax(1), target_pos.amax(1))
    return place > last[:, None]


def _check_masks(info: Mapping[str, Any], model: HookedModel) -> None:
    """Raise ValueError where `readouts` made the rows for a model with other masks: an ARM's hold the answer, which an MDM would see."""
    if MASK_ID in info and info[MASK_ID] != mask_token(model):
        held = "the answer itself" if info[MASK_ID] is None else f"masks of id {info[MASK_ID]}"
        own = "has no masks" if mask_token(model) is None else f"reads masks of id {mask_token(model)}"
        raise ValueError(
            f"readouts were made for {info.get('model', 'another model')} and hold {held}, but {model.cfg.model_name} {own}; make its own: "
            "readouts(model, examples)"
        )


def check_given(caller: str, model: HookedModel, readouts: Readouts) -> None:
    """Raise TypeError on something else than a model and readouts, and ValueError on readouts that `Readouts.check` refuses."""
    check_model(caller, model)
    check_weights(caller, model)
    made = "what `readouts(model, examples)` of mechshift_tl.readouts makes, or Readouts.from_tokens(…)"
    check_kind(caller, "readouts", readouts, Readouts, made)
    readouts.check(model)
