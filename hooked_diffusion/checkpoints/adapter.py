"""How a family of checkpoints becomes a native Hugging Face model.

For one family a `CheckpointAdapter` says

1. which `config.json` belongs to it (`model_type` or `architectures`);
2. how that config translates: every field that the native class would otherwise fill with a default of its own must be stated;
3. how its keys are renamed (ordered patterns, each matching a whole key) and which are dropped;
4. how its `DiffusionSpec` is read, unless `config["diffusion_spec"]` states it.

Adapters live in a registry that others may add to by `register_adapter`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import PretrainedConfig, PreTrainedModel

from hooked_diffusion.spec import DiffusionSpec

Config = Mapping[str, Any]

#: What every native config must be told. Defaults of these are right for one checkpoint and silently wrong for the next.
NATIVE_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "hidden_act", "rms_norm_eps", "rope_theta",
)  # fmt: skip
#: What may be left out: derived from the rest, contradicted by the keys if wrong, or without effect on logits.
OPTIONAL_FIELDS = (
    "head_dim", "attention_bias", "mlp_bias", "attention_dropout", "initializer_range", "rope_parameters", "rope_scaling",
    "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class CheckpointAdapter:
    """One family of checkpoints; see the module docstring.

    - `model_class`: the native class that holds the weights.
    - `fields`: native field → this family's name for it, where the names differ.
    - `expects`: what the config must say for the native class to compute the same function.
    - `keys`: ordered `(pattern, replacement)`; the first pattern that matches a whole key renames it. Empty: keys are native already.
    - `drop`: patterns of whole keys that hold no weights.
    - `base`: the ARM that the family was post-trained from, and how that is known.
    - `tokenizer_class`: the native tokenizer, where the checkpoint names one that only remote code defines.

    Raises ValueError on a pattern that is no regular expression.
    """

    family: str
    model_class: type[PreTrainedModel]
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    read_spec: Callable[[Config], DiffusionSpec]
    base: str
    fields: Mapping[str, str] = field(default_factory=dict)
    expects: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    tie_flag: str = "tie_word_embeddings"
    head: str = "lm_head.weight"
    embedding: str = "model.embed_tokens.weight"
    tokenizer_class: Any = None

    def __post_init__(self) -> None:
        for pattern in (*(p for p, _ in self.keys), *self.drop):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"adapter {self.family}: {pattern!r} is no regular expression: {error}") from error

    def matches(self, config: Config) -> bool:
        """Whether `config.json` names this family."""
        return config.get("model_type") in self.model_types or bool(set(config.get("architectures") or ()) & set(self.architectures))

    def native_config(self, config: Config, where: str) -> PretrainedConfig:
        """The native config, untied until the weights have been seen.

        Raises ValueError naming every field that `config` leaves out, or one that says what the family does not.
        """
        names = {native: self.fields.get(native, native) for native in NATIVE_FIELDS}
        values = {native: config.get(name) for native, name in names.items()}
        values["rope_theta"] = _theta(config, names["rope_theta"], where)
        missing = [names[native] for native, value in values.items() if value is None] + [key for key in self.expects if key not in config]
        if missing:
            raise ValueError(
                f"{where} leaves out {', '.join(dict.fromkeys(missing))}; state it there: a {self.family} default would be a guess"
            )
        if config.get("quantization_config"):
            raise ValueError(f"{where} says the weights are quantised; give the unquantised checkpoint, or a GGUF file")
        for key, wanted in self.expects.items():
            if config[key] != wanted:
                raise ValueError(f"{where} says {key} = {config[key]!r}; {self.family} checkpoints are read with {wanted!r} alone")
        values |= {name: config[name] for name in OPTIONAL_FIELDS if config.get(name) is not None}
        native_class: Any = self.model_class.config_class
        return native_class(**values, tie_word_embeddings=False, architectures=[self.model_class.__name__])

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


def _theta(config: Config, name: str, where: str) -> float | None:
    """RoPE's base, from its own field (transformers 4) or from `rope_parameters` (transformers 5)."""
    nested = (config.get("rope_parameters") or {}).get("rope_theta")
    own = config.get(name)
    if None not in (own, nested) and own != nested:
        raise ValueError(
            f"{where} says {name} = {own} and rope_parameters.rope_theta = {nested}; keep the one that the weights were trained with"
        )
    return own if nested is None else nested


def arm_spec(config: Config) -> DiffusionSpec:
    """The spec of a plain ARM."""
    return DiffusionSpec()


def mdm_spec(logit_shift: Literal[0, 1]) -> Callable[[Config], DiffusionSpec]:
    """The spec of an MDM with full attention, its mask token from `config["mask_token_id"]`."""

    def read(config: Config) -> DiffusionSpec:
        if config.get("mask_token_id") is None:
            raise ValueError("config.json leaves out mask_token_id; state it there")
        return DiffusionSpec(attention="full", logit_shift=logit_shift, mask_token_id=config["mask_token_id"])

    return read


_ADAPTERS: dict[str, CheckpointAdapter] = {}


def register_adapter(adapter: CheckpointAdapter) -> CheckpointAdapter:
    """Make a family known to `load_checkpoint`. Raises ValueError when its name is taken."""
    if adapter.family in _ADAPTERS:
        raise ValueError(f"a checkpoint family named {adapter.family!r} is registered already; choose another name")
    _ADAPTERS[adapter.family] = adapter
    return adapter


def families() -> list[str]:
    """The registered families, sorted."""
    return sorted(_ADAPTERS)


def adapter_for(config: Config, family: str | None = None, where: str = "config.json") -> CheckpointAdapter:
    """The adapter named `family`, or else the one that `config` matches.

    Raises ValueError, listing the known families, when none fits or more than one.
    """
    if family is not None:
        if family not in _ADAPTERS:
            raise ValueError(f"unknown checkpoint family {family!r}; known: {', '.join(families())}")
        return _ADAPTERS[family]
    found = [adapter for adapter in _ADAPTERS.values() if adapter.matches(config)]
    if len(found) != 1:
        fits = "no known family" if not found else " and ".join(adapter.family for adapter in found)
        raise ValueError(
            f"{where} (model_type {config.get('model_type')!r}, architectures {config.get('architectures')}) fits {fits}; "
            f"pass family= one of {', '.join(families())}, or register an adapter"
        )
    return found[0]
