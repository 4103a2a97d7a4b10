"""What makes a checkpoint an ARM or an MDM: direction of attention, logit shift, mask token."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Attention = Literal["causal", "full", "block"]
BosPolicy = Literal["tokenizer", "required", "none"]


@dataclass(frozen=True)
class DiffusionSpec:
    """How a checkpoint is to be read; the defaults describe an ordinary ARM.

    - `attention`: "causal", "full" (every position sees every other) or "block" (it sees its own block and those before it).
    - `logit_shift`: 1 when row p of the raw logits predicts the token at p + 1, 0 when it predicts the token at p.
    - `mask_token_id`: the id an MDM writes into positions to be denoised; None for an ARM.
    - `mask_is_reused`: the mask id is also an ordinary word, so a token equal to it need not be a mask.
    - `bos`: whether rows start with BOS: as the "tokenizer" does it, "required" by the model, or "none".
    - `tail`: token ids that follow every canvas, as the recipe trained it (such as one EOS).
    - `block_length`: positions per block, counted from the first; None unless `attention` is "block".

    Raises ValueError, naming the field, on a value that cannot be.
    """

    attention: Attention = "causal"
    logit_shift: Literal[0, 1] = 1
    mask_token_id: int | None = None
    mask_is_reused: bool = False
    bos: BosPolicy = "tokenizer"
    tail: tuple[int, ...] = ()
    block_length: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tail", tuple(self.tail))
        for name, allowed in (("attention", get_args(Attention)), ("logit_shift", (0, 1)), ("bos", get_args(BosPolicy))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"DiffusionSpec.{name} is {getattr(self, name)!r}; choose one of {', '.join(map(repr, allowed))}")
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
        """True when the model reads masks rather than continues a prefix: attention ahead, or predictions read off their own position."""
        return self.attention != "causal" or self.logit_shift == 0

    @property
    def direction(self) -> str:
        """`attention` in one word, the length of its blocks with it: "causal", "full", "block(32)"."""
        return self.attention if self.block_length is None else f"block({self.block_length})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `config.json` keeps them under `diffusion_spec`."""
        return {**asdict(self), "tail": list(self.tail)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DiffusionSpec:
        """The spec that `to_dict` wrote. Raises ValueError on an unknown field."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"DiffusionSpec has no field {', '.join(sorted(unknown))}; it has {', '.join(f.name for f in fields(cls))}")
        return cls(**values)
