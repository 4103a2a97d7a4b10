"""`Batch`: rows that a model can run together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_diffusion.attention import visible_tokens
from mechshift_tl.bridge.alignment import hidden_tokens, is_causal, logit_shift
from mechshift_tl.bridge.hooks import has_hooks
from mechshift_tl.bridge.narrow import only_at
from mechshift_tl.bridge.protocol import HookedModel

Side = Literal["clean", "corrupt"]


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, equal k and one step: a rectangle that a model can run.

    - `clean`, `corrupt` `(rows, pos)`; `clean_mask`, `corrupt_mask` likewise, True at visible tokens, None when all are.
    - `target_pos`, `answer_ids`, `foil_ids` `(rows, k)`: positions of the predicted tokens, and the ids contrasted there.
    - `span` `(rows, pos)`: which of the readouts' named spans each position lies in, −1 for none; None without spans.
    - `index`: which readout rows these are.
    - `narrow`: run the last layer at the read positions only (`narrowed`).
    """

    clean: Int[Tensor, "rows pos"]
    corrupt: Int[Tensor, "rows pos"]
    target_pos: Int[Tensor, "rows k"]
    answer_ids: Int[Tensor, "rows k"]
    foil_ids: Int[Tensor, "rows k"]
    step: int
    index: Int[Tensor, " rows"]
    clean_mask: Bool[Tensor, "rows pos"] | None = None
    corrupt_mask: Bool[Tensor, "rows pos"] | None = None
    span: Int[Tensor, "rows pos"] | None = None
    narrow: bool = False

    def __len__(self) -> int:
        return len(self.index)

    @property
    def k(self) -> int:
        """Positions that each row reads."""
        return self.target_pos.shape[1]

    def tokens(self, side: Side) -> Int[Tensor, "rows pos"]:
        """The canvases of one side."""
        return self.clean if side == "clean" else self.corrupt

    def mask(self, side: Side) -> Bool[Tensor, "rows pos"] | None:
        """Where one side's tokens are visible; None when all are."""
        return self.clean_mask if side == "clean" else self.corrupt_mask

    def visible(self, side: Side) -> Bool[Tensor, "rows pos"]:
        """Where one side's tokens are visible, also when all are."""
        return visible_tokens(self.tokens(side), self.mask(side))

    def predicting(self, model: HookedModel) -> Int[Tensor, "rows k"]:
        """Positions whose raw logits predict the targets: the targets themselves, or one position earlier under logit shift 1."""
        return self.target_pos - logit_shift(model)

    def logits(self, model: HookedModel, side: Side = "clean") -> Float[Tensor, "rows k d_vocab"]:
        """Aligned logits at the target positions when `model` runs one side, in float32.

        Only the positions that predict a target are unembedded: no tensor of rows × positions × vocabulary is made.
        """
        tokens = self.tokens(side)
        with only_at(model, self.predicting(model), tokens.shape[1], last_layer=self.narrow):
            return model(tokens, **hidden_tokens(model, self.mask(side))).float()

    def narrowed(self, model: HookedModel) -> Batch:
        """The same rows, run only as far as `logits` need it. The logits are the same; activations are complete only where they matter.

        A causal model's rows are cut off behind the last position that is read. In the last layer, queries, output projection and MLP are
        0 at positions that are not read. The batch is unchanged where somebody has hooks on the model: a hook may read or write anywhere.
        """
        if has_hooks(model):
            return self
        # A causal model computes nothing at a position that needs what stands behind it.
        stop = int(self.predicting(model).max()) + 1 if is_causal(model) else None
        cut = {name: tensor[:, :stop] for name in CANVASES if (tensor := getattr(self, name)) is not None}
        return replace(self, **cut, narrow=True)

    def at_targets(self, logits: Float[Tensor, "rows pos d_vocab"]) -> Float[Tensor, "rows k d_vocab"]:
        """Aligned logits at the target positions."""
        return logits.gather(1, self.target_pos[..., None].expand(-1, -1, logits.shape[-1]))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        moved = {name: tensor.to(device) for name in TENSORS if (tensor := getattr(self, name)) is not None}
        return replace(self, **moved)

    def rows(self, chosen: slice) -> Batch:
        """Some of its rows, as a batch."""
        return replace(self, **{name: tensor[chosen] for name in (*TENSORS, "index") if (tensor := getattr(self, name)) is not None})

    def stacked(self) -> Batch:
        """The clean rows and, below them, the corrupt ones, as the clean side of one batch of twice the rows."""
        # Without masks a model may take a faster path, so none is made where none is needed.
        all_visible = self.clean_mask is None and self.corrupt_mask is None
        mask = None if all_visible else torch.cat([self.visible("clean"), self.visible("corrupt")])
        # Both halves read the same positions for the same answers.
        twice = {name: torch.cat([getattr(self, name)] * 2) for name in ("target_pos", "answer_ids", "foil_ids", "index")}
        both = torch.cat([self.clean, self.corrupt])
        return Batch(both, both, **twice, step=self.step, clean_mask=mask, corrupt_mask=mask, narrow=self.narrow)


CANVASES = ("clean", "corrupt", "clean_mask", "corrupt_mask", "span")
TENSORS = (*CANVASES, "target_pos", "answer_ids", "foil_ids")
