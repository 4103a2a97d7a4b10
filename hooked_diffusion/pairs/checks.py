"""Whether two models are a pair: one backbone, attention that fits each role, tokenizers that agree. And how the two models differ.

The circuits of a pair share their ids, so layers, heads and widths must be equal. The MDM may have more rows than the ARM, if its mask
token is one of them; an id that both have means the same in both.
"""

from __future__ import annotations

from dataclasses import asdict

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from hooked_diffusion.spec import DiffusionSpec

#: What the models of a pair must have in common, in the words of their native configs (GPT-2's own words last).
BACKBONE = (
    "model_type", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "head_dim", "intermediate_size",
    "rms_norm_eps", "hidden_act", "n_inner", "layer_norm_epsilon", "activation_function",
)  # fmt: skip


class PairMismatch(ValueError):
    """Two models that cannot be a pair; the message names each field that differs, with both values."""


def check_backbone(pair: str, arm: PretrainedConfig, role: str, other: PretrainedConfig, spec: DiffusionSpec) -> None:
    """Raise `PairMismatch` unless the two models have the same backbone and the same rows.

    `other` plays `role` in the pair and is read by `spec`. It may have more rows than the ARM where its mask token is one of them.
    """
    # GPT-2 lacks some of these fields and Llama others: a field that both lack is None in both.
    differing: list[tuple[str, object, object]] = [(key, getattr(arm, key, None), getattr(other, key, None)) for key in BACKBONE]
    mine, its = arm.vocab_size, other.vocab_size
    if mine != its and not (spec.mask_token_id is not None and mine <= spec.mask_token_id < its):
        differing.append(("vocab_size", mine, its))
    lines = [f"{key} is {mine} in arm, {its} in {role}" for key, mine, its in differing if mine != its]
    if lines:
        raise PairMismatch(f"{pair}: the models of a pair share their backbone, but {'; '.join(lines)}")


def check_attention(pair: str, role: str, spec: DiffusionSpec) -> None:
    """Raise `PairMismatch` unless attention is causal in ARM and control, and looks ahead in the MDM."""
    if (spec.attention == "causal") == (role == "mdm"):
        wanted = "full or block" if role == "mdm" else "causal"
        raise PairMismatch(f"{pair}: attention is {spec.attention} in {role}, which must be {wanted}; give the ARM first, then the MDM")


def check_tokenizers(pair: str, arm: PreTrainedTokenizerBase | None, role: str, other: PreTrainedTokenizerBase | None) -> None:
    """Raise `PairMismatch` when a token that both tokenizers know has two ids, or when they share no token; None passes."""
    if arm is None or other is None or arm is other:
        return
    mine, its = arm.get_vocab(), other.get_vocab()
    shared = mine.keys() & its.keys()
    differing = sorted(token for token in shared if mine[token] != its[token])
    if not shared:
        raise PairMismatch(f"{pair}: the tokenizers of arm and {role} share no token")
    if differing:
        token = differing[0]
        raise PairMismatch(f"{pair}: the tokenizers of arm and {role} differ: {token!r} is id {mine[token]} in arm, {its[token]} in {role}")


def differences(
    arm: PretrainedConfig, mdm: PretrainedConfig, specs: tuple[DiffusionSpec, DiffusionSpec]
) -> dict[str, tuple[object, object]]:
    """Field → (the ARM's value, the MDM's) where they differ: fields of `DiffusionSpec`, rows of the vocabulary, RoPE's base."""
    values = [asdict(spec) for spec in specs]
    for row, config in zip(values, (arm, mdm), strict=True):
        row["vocab_size"] = config.vocab_size
        row["rope_theta"] = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")  # GPT-2 has no RoPE
    return {key: (values[0][key], values[1][key]) for key in values[0] if values[0][key] != values[1][key]}


def tokenizer_overlap(arm: PreTrainedTokenizerBase, mdm: PreTrainedTokenizerBase) -> tuple[int, int, int]:
    """How many tokens both tokenizers know, how many the ARM's knows, and how many the MDM's knows."""
    mine, its = arm.get_vocab().keys(), mdm.get_vocab().keys()
    return len(mine & its), len(mine), len(its)
