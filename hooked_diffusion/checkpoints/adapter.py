"""How a family of checkpoints becomes a native Hugging Face model.

For one family a `CheckpointAdapter` says

1. which checkpoints belong to it (`model_type` or `architectures` of `config.json`, or the repository's name);
2. how that config translates (`config.py`): each field that the native class would otherwise fill with its own default must be stated;
3. how its keys are renamed (ordered patterns, each matching a whole key) and which are dropped;
4. how its `DiffusionSpec` is read, unless `config["diffusion_spec"]` states it.

Adapters live in a registry (`registry.py`) that others may add to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from hooked_diffusion.spec import DiffusionSpec

Config = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class CheckpointAdapter:
    """One family of checkpoints; see the module docstring.

    What belongs to it:

    - `model_types`, `architectures`: those of its `config.json`; `names`: patterns of a whole repository or folder name.
    - `instead_of`: families that match too, of which this one is the special case.
    - `looks_like`: what its config says when nothing but its name tells it from another family's; opening such a config notes it.

    How it becomes native:

    - `model_class`: the native class that holds the weights.
    - `fields`: native field → this family's name for it, where the names differ.
    - `expects`, `flags`, `ignores`: see `config.py`: what the config must say, what it may not say otherwise, what has no effect.
    - `keys`: ordered `(pattern, replacement)`; the first pattern that matches a whole key renames it. Empty: keys are native already.
    - `drop`: patterns of whole keys that hold no weights.
    - `tie_flag`, `head`, `embedding`: the config's flag, and the native names of the two tensors that it ties. They are tied only where the
      head is absent or bit-equal.
    - `rows_from_embedding`: the vocabulary is as large as the stored embedding, whatever the config says.
    - `tokenizer_class`: the native tokenizer, where the checkpoint names one that only remote code defines.

    How it is read:

    - `read_spec`: config → `DiffusionSpec`.
    - `base`: the ARM that the family was post-trained from; `evidence`: how all this is known, as `docs/checkpoints.md` explains.
    - `notes`: what whoever opens such a checkpoint should be told.

    Raises ValueError on a pattern that is no regular expression.
    """

    family: str
    model_class: type[PreTrainedModel]
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    read_spec: Callable[[Config], DiffusionSpec]
    base: str
    evidence: str = ""
    names: tuple[str, ...] = ()
    instead_of: tuple[str, ...] = ()
    looks_like: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    expects: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    ignores: tuple[str, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    tie_flag: str = "tie_word_embeddings"
    head: str = "lm_head.weight"
    embedding: str = "model.embed_tokens.weight"
    rows_from_embedding: bool = False
    tokenizer_class: Any = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in (*(p for p, _ in self.keys), *self.drop, *self.names):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"adapter {self.family}: {pattern!r} is no regular expression: {error}") from error

    def matches(self, config: Config, name: str = "") -> bool:
        """Whether `config.json`, or the repository's or folder's own `name`, says that a checkpoint belongs to this family."""
        named = any(re.fullmatch(pattern, name, re.IGNORECASE) for pattern in self.names)
        stated = config.get("model_type") in self.model_types or bool(set(config.get("architectures") or ()) & set(self.architectures))
        return stated or named

    def spec(self, config: Config, vocabulary: int, where: str) -> DiffusionSpec:
        """How the checkpoint is read: `config["diffusion_spec"]` if stated, else what the family says.

        Raises ValueError when `is_causal` contradicts it or the mask token lies outside the vocabulary.
        """
        stated = config.get("diffusion_spec")
        spec = self.read_spec(config) if stated is None else DiffusionSpec.from_dict(stated)
        causal = spec.attention == "causal"
        if config.get("is_causal") not in (None, causal):
            raise ValueError(
                f"{where} says is_causal = {config['is_causal']}, but the spec says {spec.attention} attention; "
                "state diffusion_spec there (attention, logit_shift, mask_token_id)"
            )
        if spec.mask_token_id is not None and spec.mask_token_id >= vocabulary:
            raise ValueError(f"{where}: mask_token_id {spec.mask_token_id} lies outside the vocabulary of {vocabulary}")
        return spec

    def native_key(self, key: str) -> str | None:
        """The native name of a stored key; None for a key that the family does not have."""
        if not self.keys:
            return key
        for pattern, replacement in self.keys:
            if match := re.fullmatch(pattern, key):
                return match.expand(replacement)
        return None

    def drops(self, key: str) -> bool:
        """Whether a stored key holds no weights."""
        return any(re.fullmatch(pattern, key) for pattern in self.drop)
