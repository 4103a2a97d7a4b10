"""Whether a config's sizes are those of a model, before one is built: a single number there could take all time and memory.

The limits lie far beyond the largest public models (126 layers, 128 heads, 16384 wide, 262144 rows).
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers.activations import ACT2FN

from hooked_diffusion.checkpoints.fields import Config, WrongField, number_in, shown, text_in, whole_in

#: Native field → the most it may be.
LIMITS = {
    "vocab_size": 4_000_000, "hidden_size": 131_072, "intermediate_size": 1_048_576, "num_hidden_layers": 512, "num_attention_heads": 2_048,
    "num_key_value_heads": 2_048, "head_dim": 8_192, "max_position_embeddings": 2**30,
    "n_embd": 131_072, "n_inner": 1_048_576, "n_layer": 512, "n_head": 2_048, "n_positions": 2**24,
}  # fmt: skip
ACTIVATIONS = ("hidden_act", "activation_function")
EPSILONS = ("rms_norm_eps", "layer_norm_epsilon")


def check_sizes(config: Config, names: Mapping[str, str], where: str) -> None:
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
