"""Pairs: an ARM, the MDM post-trained from it, and where there is one a control: the ARM post-trained as long without diffusion.

A pair shares its backbone, or its circuits could not share their ids; that is checked on the configs, before any weights are read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, PretrainedConfig

from hooked_diffusion.checkpoints.loading import OpenCheckpoint, open_checkpoint
from hooked_diffusion.model import HookedDiffusionTransformer
from hooked_diffusion.spec import DiffusionSpec

ROLES = ("arm", "mdm", "control")
#: What the models of a pair must have in common, in the words of their native configs.
BACKBONE = (
    "model_type", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "head_dim", "intermediate_size",
    "vocab_size", "rms_norm_eps", "hidden_act",
)  # fmt: skip


class PairMismatch(ValueError):
    """Two models that cannot be a pair; the message names each field that differs, with both values."""


@dataclass(frozen=True, eq=False, repr=False)
class Pair:
    """`arm` and `mdm` of one backbone, `control` or None, and the `tokenizer` that they share (the MDM's, which knows the mask token).

    Raises `PairMismatch` when backbones or tokenizers differ, or when attention is not causal in ARM and control and full in the MDM.
    """

    name: str
    arm: HookedDiffusionTransformer
    mdm: HookedDiffusionTransformer
    control: HookedDiffusionTransformer | None = None
    tokenizer: Any = None

    def __post_init__(self) -> None:
        for role, model in self.models.items():
            _check_backbone(self.name, _config(self.arm), role, _config(model))
            _check_attention(self.name, role, model.spec)
            _check_tokenizers(self.name, self.arm.tokenizer, role, model.tokenizer)

    @property
    def models(self) -> dict[str, HookedDiffusionTransformer]:
        """Role ("arm", "mdm", "control") → model; without the control where there is none."""
        models = {"arm": self.arm, "mdm": self.mdm, "control": self.control}
        return {role: model for role, model in models.items() if model is not None}

    @property
    def spec_differences(self) -> dict[str, tuple[Any, Any]]:
        """Field of `DiffusionSpec` → (the ARM's value, the MDM's), where they differ: what a comparison confounds with training."""
        arm, mdm = asdict(self.arm.spec), asdict(self.mdm.spec)
        return {key: (arm[key], mdm[key]) for key in arm if arm[key] != mdm[key]}

    def __repr__(self) -> str:
        config: Any = _config(self.arm)
        shape = f"{config.num_hidden_layers} layers, {config.num_attention_heads} heads, {config.hidden_size} wide"
        changes = "; ".join(f"{key} {arm} → {mdm}" for key, (arm, mdm) in self.spec_differences.items())
        return f"Pair({self.name!r}: {' + '.join(self.models)}, {shape}; {changes})"


def bundled_pairs() -> list[str]:
    """The names of the pairs that come with the package."""
    with resources.as_file(resources.files("hooked_diffusion") / "pretrained") as root:
        return sorted(path.parent.parent.name for path in root.glob("*/arm/config.json"))


def load_pair(
    name: str | Path,
    mdm: str | Path | None = None,
    *,
    control: str | Path | None = None,
    tokenizer: Any = "auto",
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
) -> Pair:
    """Load a pair: a bundled one by name, a folder laid out like one, or any two checkpoints (`load_pair(arm, mdm)`).

    A pair's folder holds `arm`, `mdm`, maybe `control`, and their `tokenizer`. A checkpoint is what `from_pretrained` takes. `tokenizer`
    "auto" loads the pair's own, None leaves it out, an object serves all models; `dtype` and `device` as in `from_pretrained`.

    Raises ValueError for an unknown name, `PairMismatch` (a ValueError) when the models are no pair, and what `from_pretrained` raises.
    """
    if mdm is None:
        folder, label = _pair_folder(name), str(name)
        roles = [role for role in ROLES if (folder / role).is_dir()]
        opened = {role: replace(open_checkpoint(folder / role), name=f"{label}/{role}") for role in roles}
        tokenizer = _shared_tokenizer(folder, tokenizer)
    else:
        label = f"{name} + {mdm}"
        opened = {"arm": open_checkpoint(name), "mdm": open_checkpoint(mdm)}
    if control is not None:
        opened["control"] = open_checkpoint(control)
    for role, checkpoint in opened.items():
        _check_backbone(label, opened["arm"].config, role, checkpoint.config)
        _check_attention(label, role, checkpoint.spec)
    models = {role: _hook(checkpoint, tokenizer, dtype, device) for role, checkpoint in opened.items()}
    return Pair(label, **models, tokenizer=models["mdm"].tokenizer)


def _pair_folder(name: str | Path) -> Path:
    """The folder of a bundled pair, or `name` itself where it is laid out as one."""
    if str(name) in bundled_pairs():
        with resources.as_file(resources.files("hooked_diffusion") / "pretrained" / str(name)) as folder:
            return folder
    if all((Path(name) / role / "config.json").is_file() for role in ("arm", "mdm")):
        return Path(name)
    known = ", ".join(bundled_pairs()) or "none"
    raise ValueError(
        f"unknown pair {str(name)!r}; bundled: {known}. Or give a folder with arm and mdm in it, or two checkpoints: load_pair(arm, mdm)"
    )


def _shared_tokenizer(folder: Path, tokenizer: Any) -> Any:
    """The tokenizer that all models of a pair's folder use, unless the caller chose one."""
    if not (isinstance(tokenizer, str) and tokenizer == "auto"):
        return tokenizer
    if not (folder / "tokenizer").is_dir():
        raise FileNotFoundError(f"{folder} holds no folder named tokenizer; pass tokenizer=None, or a tokenizer of your own")
    return AutoTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True, trust_remote_code=False)


def _hook(
    checkpoint: OpenCheckpoint, tokenizer: Any, dtype: torch.dtype | str | None, device: str | torch.device | None
) -> HookedDiffusionTransformer:
    loaded = checkpoint.load(tokenizer=tokenizer, dtype=dtype, device=device)
    model = HookedDiffusionTransformer.from_hf(loaded.hf_model, loaded.tokenizer, loaded.spec, name=checkpoint.name)
    model.source = loaded.source
    return model


def _config(model: HookedDiffusionTransformer) -> PretrainedConfig:
    return cast(Any, model.original_model).config


def _check_backbone(pair: str, arm: PretrainedConfig, role: str, other: PretrainedConfig) -> None:
    differing = [(key, getattr(arm, key, None), getattr(other, key, None)) for key in BACKBONE]
    lines = [f"{key} is {mine} in arm, {its} in {role}" for key, mine, its in differing if mine != its]
    if lines:
        raise PairMismatch(f"{pair}: the models of a pair share their backbone, but {'; '.join(lines)}")


def _check_attention(pair: str, role: str, spec: DiffusionSpec) -> None:
    wanted = "full" if role == "mdm" else "causal"
    if spec.attention != wanted:
        raise PairMismatch(f"{pair}: attention is {spec.attention} in {role}, which must be {wanted}; give the ARM first, then the MDM")


def _check_tokenizers(pair: str, arm: Any, role: str, other: Any) -> None:
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
