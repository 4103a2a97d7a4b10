"""From a family's `config.json` to a native config.

It is strict, because a default that is right for one checkpoint is silently wrong for the next.

Every field is of one of five kinds, and any other field is an error:

1. *required*: the native class would fill it with a default of its own, so it must be stated (under the family's name for it);
2. *optional*: it follows from the rest, the keys would contradict a wrong value, or it has no effect on logits; passed on where stated;
3. *expected*: it must be stated, with the one value for which the native class computes the same function;
4. *flags*: they may be left out, which means that same value; where stated they must have it;
5. *inert*: it says nothing about what the model computes (paths, dtypes, settings of training and generation).

An unknown field is passed over only while it is off (false, null, 0, empty). Sizes are checked before a model is built: a single
number there could take all time and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.boundary import reading
from hooked_diffusion.checkpoints.fields import Config, WrongField, number_in, object_in, shown, shown_name, text_in, whole_in

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
#: Required and optional fields by the `model_type` of the native config. All but GPT2 share the first row.
REQUIRED = {
    "": (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "max_position_embeddings", "hidden_act", "rms_norm_eps", "rope_theta",
    ),
    "gpt2": ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "layer_norm_epsilon", "activation_function"),
}  # fmt: skip
OPTIONAL = {
    "": (
        "head_dim", "attention_bias", "mlp_bias", "attention_dropout", "initializer_range", "rope_parameters", "rope_scaling", *TOKEN_IDS,
    ),
    "gpt2": ("n_inner", "attn_pdrop", "embd_pdrop", "resid_pdrop", "initializer_range", *TOKEN_IDS),
}  # fmt: skip
#: What every family may state without effect; `sliding_window` has none while `use_sliding_window` is false, as families demand.
INERT = {
    *PretrainedConfig().to_dict(), *GenerationConfig().to_dict(), "model_type", "auto_map", "torch_dtype", "dtype", "use_cache",
    "is_causal", "mask_token_id", "diffusion_spec", "quantization_config", "tie_word_embeddings", "pretraining_tp", "sliding_window",
    "max_window_layers", "task_specific_params", "attn_implementation", "_attn_implementation", "tokenizer_class", "model_max_length",
    "unsloth_fixed", "unsloth_version",
}  # fmt: skip
#: How many unknown fields a message lists.
MOST_LISTED = 10
#: What holds for every family: no layer attends in a window.
COMMON_FLAGS = {"layer_types": "full_attention"}
#: Native field → the most it may be. The limits lie far beyond the largest public models (126 layers, 128 heads, 16384 wide, 262144 rows).
LIMITS = {
    "vocab_size": 4_000_000, "hidden_size": 131_072, "intermediate_size": 1_048_576, "num_hidden_layers": 512, "num_attention_heads": 2_048,
    "num_key_value_heads": 2_048, "head_dim": 8_192, "max_position_embeddings": 2**30,
    "n_embd": 131_072, "n_inner": 1_048_576, "n_layer": 512, "n_head": 2_048, "n_positions": 2**24,
}  # fmt: skip
ACTIVATIONS = ("hidden_act", "activation_function")
EPSILONS = ("rms_norm_eps", "layer_norm_epsilon")


def native_config(adapter: CheckpointAdapter, config: Config, where: str) -> PretrainedConfig:
    """The native config, untied until the weights have been seen.

    Raises ValueError naming every field that `config` leaves out, a field with a value that the family does not have, or an unknown field.
    """
    kind = cast(type[PretrainedConfig], adapter.model_class.config_class).model_type
    names = {native: adapter.fields.get(native, native) for native in REQUIRED.get(kind, REQUIRED[""])}
    values = {native: config.get(name) for native, name in names.items()}
    if "rope_theta" in names:
        values["rope_theta"] = _theta(config, names["rope_theta"], where)
    missing = [names[native] for native, value in values.items() if value is None]
    missing += [key for key in adapter.expects if key not in config]
    if missing:
        raise ValueError(
            f"{where} leaves out {', '.join(dict.fromkeys(missing))}; state it there or pass config={{{missing[0]!r}: …}}: "
            f"a {adapter.family} default would be a guess"
        )
    if config.get("quantization_config"):
        # The stored integers are packed: read as weights they mean nothing.
        raise ValueError(f"{where} says the weights are quantised; give the unquantised checkpoint, or a GGUF file")
    _check_flags(adapter, config, where)
    optional = OPTIONAL.get(kind, OPTIONAL[""])
    _check_unknown(adapter, config, {*names.values(), *optional}, where)
    _check_sizes(config, {**{name: name for name in optional}, **names}, where)
    # Null means "left out": the native class then derives the field.
    values |= {name: config[name] for name in optional if config.get(name) is not None}
    with reading(f"{where} is no config of {adapter.model_class.__name__}", "mend the field that it names, or fetch the config again"):
        return make_config(adapter.model_class, {**values, "tie_word_embeddings": False})


def make_config(model_class: type[PreTrainedModel], values: Mapping[str, object]) -> PretrainedConfig:
    """The config of a native model class that has these values."""
    return cast(Callable[..., PretrainedConfig], model_class.config_class)(**values, architectures=[model_class.__name__])


def _check_flags(adapter: CheckpointAdapter, config: Config, where: str) -> None:
    """Refuse a flag of another value than the family's; a list agrees when each of its entries does."""
    for key, wanted in {**COMMON_FLAGS, **adapter.flags, **adapter.expects}.items():
        # A flag that is left out agrees.
        stated = config.get(key, wanted)
        if any(value != wanted for value in (stated if isinstance(stated, list) else [stated])):
            raise ValueError(f"{where} says {key} = {shown(stated)}; {adapter.family} checkpoints are read with {wanted!r} alone")


def _check_unknown(adapter: CheckpointAdapter, config: Config, known: set[str], where: str) -> None:
    known = known | INERT | {adapter.tie_flag, *COMMON_FLAGS, *adapter.expects, *adapter.flags, *adapter.ignores}
    unknown = {key: value for key, value in config.items() if key not in known and value}
    if unknown:
        listed = ", ".join(f"{shown_name(key)} = {shown(value)}" for key, value in list(unknown.items())[:MOST_LISTED])
        more = f" and {len(unknown) - MOST_LISTED} fields more" if len(unknown) > MOST_LISTED else ""
        raise ValueError(
            f"{where} says {listed}{more}, which nothing here knows for {adapter.family} checkpoints; if it does not change what the model "
            f"computes, take it out there or pass config={{{shown(next(iter(unknown)))}: None}}"
        )


def _theta(config: Config, name: str, where: str) -> float | None:
    """RoPE's base: transformers 4 writes it as a field of its own, transformers 5 within `rope_parameters`."""
    nested = number_in(object_in(config, "rope_parameters", where) or {}, "rope_theta", f"{where}: rope_parameters")
    own = number_in(config, name, where)
    if None not in (own, nested) and own != nested:
        raise ValueError(
            f"{where} says {name} = {own} and rope_parameters.rope_theta = {nested}; keep the one that the weights were trained with"
        )
    return own if nested is None else nested


def _check_sizes(config: Config, names: Mapping[str, str], where: str) -> None:
    """Raise ValueError naming the field, unless sizes are whole numbers within their limits, fit each other, and functions are known.

    `names` has native field → the config's name for it.
    """
    sizes = {native: whole_in(config, name, where, 1, LIMITS[native]) for native, name in names.items() if native in LIMITS}
    for native in EPSILONS:
        if native in names:
            number_in(config, names[native], where)
    for native in ACTIVATIONS:
        if native in names and text_in(config, names[native], where) not in ACT2FN:
            raise WrongField(
                where, names[native], config[names[native]], f"an activation that transformers has, such as {next(iter(ACT2FN))!r}"
            )
    _check_heads(sizes, names, where)


def _check_heads(sizes: Mapping[str, int | None], names: Mapping[str, str], where: str) -> None:
    """Heads divide the width, the heads of keys and values divide the heads, and RoPE turns pairs of numbers."""
    wide, heads = ("n_embd", "n_head") if "n_head" in names else ("hidden_size", "num_attention_heads")
    width, count = sizes[wide], sizes[heads]
    if width is None or count is None:
        return
    if sizes.get("head_dim") is None and width % count:
        raise ValueError(
            f"{where} says {names[wide]} = {width} and {names[heads]} = {count}, which does not divide it; one of them is wrong"
        )
    groups = sizes.get("num_key_value_heads")
    if groups is not None and count % groups:
        kv = names["num_key_value_heads"]
        raise ValueError(f"{where} says {names[heads]} = {count} and {kv} = {groups}, which does not divide it; one of them is wrong")
    if heads == "num_attention_heads" and (head := sizes.get("head_dim") or width // count) % 2:
        raise ValueError(f"{where} makes heads {shown(head)} wide, and rotary positions need an even width; mend {names[wide]} or head_dim")
