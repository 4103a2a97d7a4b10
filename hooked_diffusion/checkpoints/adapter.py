"""How a family of checkpoints becomes a native Hugging Face model.

For one family a `CheckpointAdapter` says

1. which checkpoints belong to it: by `model_type` or `architectures` in `config.json`, or by the name of the repository;
2. how its config becomes a native config (`config.py`): a field that the native class would fill with a default must be stated;
3. how its keys are renamed (ordered patterns, each of which matches a whole key), and which keys are dropped;
4. how its `DiffusionSpec` is read, unless `config["diffusion_spec"]` states it: `arm_spec` and `mdm_spec` make such functions.

The adapters are listed in `registry.py`. Other packages can add theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion.checkpoints.fields import Config, WrongField, flag_in, object_in, shown, text_in, texts_in, whole_in
from hooked_diffusion.spec import BosPolicy, DiffusionSpec


@dataclass(frozen=True)
class Usual:
    """A `value` that checkpoints of a family mean where they leave `field` out; only of a vocabulary of `rows`, unless `rows` is None."""

    field: str
    value: int
    rows: int | None = None


@dataclass(frozen=True, eq=False)
class CheckpointAdapter:
    """One family of checkpoints; see the module docstring.

    What belongs to the family:

    - `model_types`, `architectures`: what its `config.json` states under these names.
    - `names`: patterns of a whole repository or folder name. Capitals do not matter.
    - `when`: fields that must have these values, for families that share a `model_type`.
    - `instead_of`: general families that match too. This family is a special case of them, and wins.
    - `looks_like`: fields of its config that another family has as well, so that only the name tells the two apart. A note is added when
      such a config is opened as the other family.

    How it becomes native:

    - `model_class`: the native class that holds the weights.
    - `fields`: native field → this family's name for it, where the names differ.
    - `told_by_name`: field → a pattern whose first group, found in the repository's name, is the whole number that the field leaves out.
    - `usual`: what checkpoints of this family mean where config, tokenizer and name leave a field out. A note is added when it is used.
    - `expects`, `flags`, `ignores`: what the config must say, what it may say only with one value, and what has no effect (`config.py`).
    - `keys`: ordered pairs `(pattern, replacement)`. The first pattern that matches a whole key renames it. Empty: keys are native.
    - `drop`: patterns of whole keys that hold no weights.
    - `tie_flag`, `head`, `embedding`: the config's flag, and the native names of the two tensors that it ties. They are tied only where
      the head is absent or equal to the embedding bit for bit.
    - `rows_from_embedding`: the stored embedding says how large the vocabulary is, and the config does not count.
    - `tokenizer_class`: the native tokenizer, for checkpoints that name one which only remote code defines.

    How it is read:

    - `read_spec`: config → `DiffusionSpec`.
    - `base`: the ARM that the family was post-trained from.
    - `evidence`: how all this is known; `docs/checkpoints.md` explains the marks.
    - `notes`: what a user who opens such a checkpoint should know.

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
    when: Mapping[str, object] = field(default_factory=dict)
    instead_of: tuple[str, ...] = ()
    looks_like: Mapping[str, object] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    told_by_name: Mapping[str, str] = field(default_factory=dict)
    usual: tuple[Usual, ...] = ()
    expects: Mapping[str, object] = field(default_factory=dict)
    flags: Mapping[str, object] = field(default_factory=dict)
    ignores: tuple[str, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    tie_flag: str = "tie_word_embeddings"
    head: str = "lm_head.weight"
    embedding: str = "model.embed_tokens.weight"
    rows_from_embedding: bool = False
    tokenizer_class: type[PreTrainedTokenizerBase] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in (*(p for p, _ in self.keys), *self.drop, *self.names, *self.told_by_name.values()):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"adapter {self.family}: {pattern!r} is no regular expression: {error}") from error

    def matches(self, config: Config, name: str = "", where: str = "the config") -> bool:
        """Whether the config, or the `name` of the repository or folder, says that a checkpoint belongs to this family."""
        if self.when and any(config.get(key) != value for key, value in self.when.items()):
            return False
        # None is in no family's tuple: a config without a model_type matches by class or name alone.
        stated = text_in(config, "model_type", where) in self.model_types
        return self.is_named(name) or stated or not set(self.architectures).isdisjoint(texts_in(config, "architectures", where))

    def is_named(self, name: str) -> bool:
        """Whether the `name` of a repository or folder alone says that a checkpoint belongs to this family."""
        return any(re.fullmatch(pattern, name, re.IGNORECASE) for pattern in self.names)

    def spec(self, config: Config, vocabulary: int, where: str) -> DiffusionSpec:
        """The spec by which the checkpoint is read: `config["diffusion_spec"]` if it is stated, else the family's.

        Raises ValueError when `is_causal` contradicts it or the mask token lies outside the vocabulary.
        """
        stated = object_in(config, "diffusion_spec", where)
        spec = self.read_spec(config) if stated is None else _stated_spec(stated, f"{where}: diffusion_spec")
        causal = spec.attention == "causal"
        if flag_in(config, "is_causal", where) not in (None, causal):
            raise ValueError(
                f"{where} says is_causal = {not causal}, but the spec says {spec.attention} attention; "
                "state diffusion_spec there (attention, logit_shift, mask_token_id)"
            )
        if spec.mask_token_id is not None and spec.mask_token_id >= vocabulary:
            raise ValueError(f"{where}: mask_token_id {shown(spec.mask_token_id)} lies outside the vocabulary of {vocabulary}")
        return spec

    def native_key(self, key: str) -> str | None:
        """The native name of a stored key; None for a key that the family does not have."""
        if not self.keys:
            return key
        for pattern, replacement in self.keys:
            # The whole key, never a part: `ff_out` names the head and a layer's projection.
            if match := re.fullmatch(pattern, key):
                return match.expand(replacement)
        return None

    def drops(self, key: str) -> bool:
        """Whether a stored key holds no weights."""
        return any(re.fullmatch(pattern, key) for pattern in self.drop)


def _stated_spec(stated: Config, where: str) -> DiffusionSpec:
    """The spec that a config states. Raises ValueError naming the field that is no field of it, or of another type."""
    for name in ("attention", "bos"):
        text_in(stated, name, where)
    for name, least in (("logit_shift", 0), ("mask_token_id", 0), ("block_length", 1)):
        whole_in(stated, name, where, least)
    flag_in(stated, "mask_is_reused", where)
    tail = stated.get("tail", [])
    if not isinstance(tail, (list, tuple)):
        raise WrongField(where, "tail", tail, "a list of token ids")
    for place, token in enumerate(tail):
        whole_in({"tail": token}, "tail", f"{where}, entry {place} of the tail")
    try:
        return DiffusionSpec.from_dict(dict(stated))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def arm_spec(config: Config) -> DiffusionSpec:
    """The spec of a plain ARM: causal attention, and row p of the logits predicts the token at p + 1."""
    return DiffusionSpec()


def mdm_spec(
    logit_shift: Literal[0, 1],
    *,
    causal: bool = False,
    block: int | None = None,
    block_field: str | None = None,
    masks: Mapping[int, int] | None = None,
    words: int = 0,
    bos: BosPolicy = "tokenizer",
) -> Callable[[Config], DiffusionSpec]:
    """A function that reads the spec of an MDM off its config; the mask token is `config["mask_token_id"]`.

    - `causal`: masks see only what comes before them, as in an ARM.
    - `block`: attention is block-causal, in blocks of so many positions, or of as many as `config[block_field]` states. None: full.
    - `masks`: rows of the embedding → mask id, for a family whose own code fixes the mask and whose config does not state it.
    - `words`: how many ids the base ARM's text uses. A mask id below it is also an ordinary word.

    The function raises ValueError when no mask id is known, or when mask or block is no whole number.
    """

    def read(config: Config) -> DiffusionSpec:
        mask = whole_in(config, "mask_token_id")
        if mask is None:
            # No family has 0 rows, so a config without a vocabulary finds no mask here.
            mask = (masks or {}).get(whole_in(config, "vocab_size") or 0)
        if mask is None:
            raise ValueError("config.json leaves out mask_token_id; state it there, or pass config={'mask_token_id': …}")
        if block is None:
            # Ids below `words` occur in ordinary text, so such a mask id need not be a mask.
            return DiffusionSpec("causal" if causal else "full", logit_shift, mask, mask < words, bos)
        stated = whole_in(config, block_field, least=1) if block_field else None
        return DiffusionSpec("block", logit_shift, mask, mask < words, bos, block_length=stated or block)

    return read
