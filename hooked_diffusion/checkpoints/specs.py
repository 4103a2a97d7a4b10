"""How a family's `DiffusionSpec` is read from its config: the functions that an adapter takes as `read_spec`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from hooked_diffusion.spec import BosPolicy, DiffusionSpec

Config = Mapping[str, Any]


def arm_spec(config: Config) -> DiffusionSpec:
    """The spec of a plain ARM."""
    return DiffusionSpec()


def mdm_spec(
    logit_shift: Literal[0, 1],
    *,
    block: int | None = None,
    block_field: str | None = None,
    masks: Mapping[int, int] | None = None,
    words: int = 0,
    bos: BosPolicy = "tokenizer",
) -> Callable[[Config], DiffusionSpec]:
    """The spec of an MDM, its mask token from `config["mask_token_id"]`.

    - `block`: block-causal attention in blocks of so many positions, or of as many as `config[block_field]` states; None: full attention.
    - `masks`: rows of the embedding → mask id, for a family whose own code fixes it and whose config leaves it out.
    - `words`: how many ids the base ARM's text uses; a mask id below is a word reused.

    What it returns raises ValueError when no mask id is known.
    """

    def read(config: Config) -> DiffusionSpec:
        mask = config.get("mask_token_id")
        mask = (masks or {}).get(config.get("vocab_size", 0)) if mask is None else mask
        if mask is None:
            raise ValueError("config.json leaves out mask_token_id; state it there, or pass config={'mask_token_id': …}")
        length = block and (config.get(block_field or "") or block)
        attention = "full" if block is None else "block"
        return DiffusionSpec(attention, logit_shift, mask, mask < words, bos, block_length=length)

    return read
