"""What makes a checkpoint an ARM or an MDM: direction of attention, logit shift, mask token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from hooked_diffusion.artefact import build

Attention = Literal["causal", "full", "block"]
BosPolicy = Literal["tokenizer", "required", "none"]


@dataclass(frozen=True)
class DiffusionSpec:
    """How a checkpoint is to be read. The defaults describe an ordinary ARM (autoregressive model); an MDM is a masked-diffusion model.

    - `attention`: "causal" (a position sees itself and those before), "full" (it sees all) or "block" (it sees its block and those before).
    - `logit_shift`: 1 when row p of the raw logits predicts the token at p + 1, 0 when it predicts the token at p.
    - `mask_token_id`: the id that an MDM reads at positions to be denoised; None for an ARM.
    - `mask_is_reused`: True when the mask id is also an ordinary word, so that a token with this id need not be a mask.
    - `bos`: whether rows start with BOS: "tokenizer" does what the tokenizer does, "required" always adds it, "none" never does.
    - `tail`: token ids that follow every canvas, as in training (such as one EOS).
    - `block_length`: positions per block, counted from the first; None unless `attention` is "block".

    Raises ValueError, naming the field, on an impossible value.
    """

    attention: Attention = "causal"
    logit_shift: Literal[0, 1] = 1
    mask_token_id: int | None = None
    mask_is_reused: bool = False
    bos: BosPolicy = "tokenizer"
    tail: tuple[int, ...] = ()
    block_length: int | None = None

    def __post_init__(self) -> None:
        # JSON gives a list. A tuple cannot be changed, so the spec stays frozen and hashable.
        object.__setattr__(self, "tail", tuple(self.tail))
        choices = (("attention", self.attention, Attention), ("logit_shift", self.logit_shift, Literal[0, 1]), ("bos", self.bos, BosPolicy))
        for name, value, allowed in choices:
            if value not in get_args(allowed):
                raise ValueError(f"DiffusionSpec.{name} is {value!r}; choose one of {', '.join(map(repr, get_args(allowed)))}")
        if self.mask_token_id is not None and self.mask_token_id < 0:
            raise ValueError(
                f"DiffusionSpec.mask_token_id is {self.mask_token_id}; give a vocabulary id, or None for a model without masks"
            )
        if (self.attention == "block") != (self.block_length is not None) or (self.block_length is not None and self.block_length < 1):
            raise ValueError(
                f"DiffusionSpec.block_length is {self.block_length} with {self.attention} attention; "
                "give at least 1 position with 'block', None otherwise"
            )

    @property
    def is_mdm(self) -> bool:
        """True when the model fills in masks: a position sees what comes after it, or predicts its own token."""
        return self.attention != "causal" or self.logit_shift == 0

    @property
    def direction(self) -> str:
        """`attention` in one word, with the length of its blocks: "causal", "full", "block(32)"."""
        return self.attention if self.block_length is None else f"block({self.block_length})"

    def to_dict(self) -> dict[str, object]:
        """Plain values, as `config.json` keeps them under `diffusion_spec`."""
        return {**asdict(self), "tail": list(self.tail)}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> DiffusionSpec:
        """The spec that `to_dict` wrote. Raises ValueError, naming the field, on an unknown field and on a value of another type."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"DiffusionSpec has no field {', '.join(sorted(unknown))}; it has {', '.join(f.name for f in fields(cls))}")
        return build(cls, values, "DiffusionSpec")
