"""Pairs: an ARM, the MDM that was post-trained from it, and maybe a control: the ARM post-trained for as long, but without diffusion.

The models of a pair must share their backbone, because their circuits share ids. This is checked on the configs, before weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion.checkpoints.fields import Config
from hooked_diffusion.checkpoints.loading import OpenCheckpoint, open_checkpoint
from hooked_diffusion.checkpoints.tokenizer_files import load_tokenizer
from hooked_diffusion.model import HookedDiffusionTransformer
from hooked_diffusion.pairs.checks import PairMismatch, check_attention, check_backbone, check_tokenizers, differences, tokenizer_overlap
from hooked_diffusion.pairs.known import KNOWN_PAIRS, KnownPair

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hooked_diffusion.checkpoints.loading import WeightSettings

__all__ = ["Pair", "PairMismatch", "bundled_pairs", "load_pair"]
ROLES = ("arm", "mdm", "control")
#: A pair's own tokenizer, none, or one that serves all its models.
Tokenizer = PreTrainedTokenizerBase | Literal["auto"] | None


@dataclass(frozen=True, eq=False, repr=False)
class Pair:
    """`arm` and `mdm` of one backbone, `control` or None, and the `tokenizer` that all share: the MDM's, since it knows the mask token.

    Raises `PairMismatch` when backbones or tokenizers differ, or when attention is not causal in ARM and control and ahead in the MDM.
    """

    name: str
    arm: HookedDiffusionTransformer
    mdm: HookedDiffusionTransformer
    control: HookedDiffusionTransformer | None = None
    tokenizer: PreTrainedTokenizerBase | None = None

    def __post_init__(self) -> None:
        # `load_pair` has checked the configs already. This is for pairs that are made from two open models.
        for role, model in self.models.items():
            check_backbone(self.name, _config(self.arm), role, _config(model), model.spec)
            check_attention(self.name, role, model.spec)
            check_tokenizers(self.name, self.arm.tokenizer, role, model.tokenizer)

    @property
    def models(self) -> dict[str, HookedDiffusionTransformer]:
        """Role ("arm", "mdm", "control") → model; without the control where there is none."""
        models = {"arm": self.arm, "mdm": self.mdm, "control": self.control}
        return {role: model for role, model in models.items() if model is not None}

    @property
    def differences(self) -> dict[str, tuple[object, object]]:
        """Field → (the ARM's value, the MDM's), where they differ: what a comparison confounds with training.

        Fields of `DiffusionSpec` (attention, logit_shift, mask_token_id, …), `vocab_size` and `rope_theta`.
        """
        return differences(_config(self.arm), _config(self.mdm), (self.arm.spec, self.mdm.spec))

    @property
    def tokenizer_overlap(self) -> tuple[int, int, int] | None:
        """How many tokens both tokenizers know, how many the ARM's knows, and how many the MDM's knows; None without tokenizers."""
        if self.arm.tokenizer is None or self.mdm.tokenizer is None:
            return None
        return tokenizer_overlap(self.arm.tokenizer, self.mdm.tokenizer)

    def __repr__(self) -> str:
        config = _config(self.arm)
        shape = f"{config.num_hidden_layers} layers, {config.num_attention_heads} heads, {config.hidden_size} wide"
        changes = "; ".join(f"{key} {arm} → {mdm}" for key, (arm, mdm) in self.differences.items())
        return f"Pair({self.name!r}: {' + '.join(self.models)}, {shape}; {changes})"


def bundled_pairs() -> list[str]:
    """The names of the pairs that come with the package."""
    # `as_file` gives a path: globbing works on files alone, not on what `resources.files` returns.
    with resources.as_file(resources.files("hooked_diffusion") / "pretrained") as root:
        return sorted(path.parent.parent.name for path in root.glob("*/arm/config.json"))


def arm_of_pair(name: str | Path) -> Path:
    """The folder of the ARM of a bundled pair, or of a pair's folder. Raises ValueError on a name that is neither."""
    return _pair_folder(name) / "arm"


def load_pair(
    name: str | Path | None = None,
    mdm: str | Path | None = None,
    *,
    arm: str | Path | None = None,
    control: str | Path | None = None,
    family: str | None = None,
    config: Config | None = None,
    arm_config: Config | None = None,
    tokenizer: Tokenizer = "auto",
    **placed: Unpack[WeightSettings],
) -> Pair:
    """Load a pair: by the name of a bundled or known one, a folder laid out like one, or any two checkpoints.

        load_pair("tiny")    load_pair("dream-7b")    load_pair("runs/mine")    load_pair(arm="Qwen/Qwen2.5-7B", mdm="path/to/mdm")

    - A pair's folder holds `arm`, `mdm`, maybe `control`, and their `tokenizer`. A checkpoint is what `from_pretrained` takes.
    - `family` and `config` are the MDM's, where its config does not tell it or leaves something out; `arm_config` is the ARM's.
    - `tokenizer`: "auto" loads the pair's own, None leaves it out, an object serves all models.
    - `dtype`, `device` and `device_map` are those of `from_pretrained`. Known names: `hooked_diffusion.pairs.known.KNOWN_PAIRS`.

    Raises ValueError for an unknown name, `PairMismatch` (a ValueError) when the models are no pair, and what `from_pretrained` raises.
    """
    settings: dict[str, _Settings] = {"arm": {"config": arm_config}, "mdm": {"family": family, "config": config}}
    label, opened, tokenizer = _open_pair(name if arm is None else arm, mdm, settings, tokenizer)
    if control is not None:
        opened["control"] = open_checkpoint(control)
    # Before any weights are read, which can take minutes.
    for role, checkpoint in opened.items():
        check_backbone(label, opened["arm"].config, role, checkpoint.config, checkpoint.spec)
        check_attention(label, role, checkpoint.spec)
    # An opened checkpoint holds its files mapped: each is let go before the next is read.
    models = {role: _hook(opened.pop(role), tokenizer, placed) for role in list(opened)}
    return Pair(label, models["arm"], models["mdm"], models.get("control"), tokenizer=models["mdm"].tokenizer)


class _Settings(TypedDict, total=False):
    """How one model's config is read."""

    family: str | None
    config: Config | None


def _open_pair(
    name: str | Path | None, mdm: str | Path | None, settings: Mapping[str, _Settings], tokenizer: Tokenizer
) -> tuple[str, dict[str, OpenCheckpoint], Tokenizer]:
    """Open what `load_pair` was asked for: the pair's label, its checkpoints by role, and their tokenizer."""
    if name is None:
        raise ValueError("load_pair needs a name, the folder of a pair, or two checkpoints: load_pair(arm=…, mdm=…)")
    if mdm is not None:
        opened = {role: open_checkpoint(one, **settings[role]) for role, one in (("arm", name), ("mdm", mdm))}
        return f"{name} + {mdm}", opened, tokenizer
    row = KNOWN_PAIRS.get(str(name))
    if row is None or Path(name).is_dir():
        folder = _pair_folder(name)
        # Provenance names the pair and the role, not a path on this machine.
        roles = [role for role in ROLES if (folder / role).is_dir()]
        opened = {role: replace(open_checkpoint(folder / role, **settings.get(role, {})), name=f"{name}/{role}") for role in roles}
        return str(name), opened, _shared_tokenizer(folder, tokenizer)
    mdm_settings: _Settings = {**settings["mdm"], "family": settings["mdm"].get("family") or row.family}
    return row.name, {"arm": open_checkpoint(_arm_of(row), **settings["arm"]), "mdm": open_checkpoint(row.mdm, **mdm_settings)}, tokenizer


def _arm_of(row: KnownPair) -> str:
    """The ARM of a known pair. Raises ValueError for a row that is no pair."""
    alone = f"open {row.mdm} by HookedDiffusionTransformer.from_pretrained"
    if row.arm is None:
        raise ValueError(f"{row.name} was trained from scratch, so it has no ARM; {alone}")
    if row.control:
        beside = f"load_pair(arm=…, mdm=…, control={row.mdm!r})"
        raise ValueError(f"{row.name} attends causally, so it is no MDM of a pair but a control; {alone}, or beside a pair: {beside}")
    return row.arm


def _pair_folder(name: str | Path) -> Path:
    """The folder of a bundled pair, or `name` itself where it is laid out as one."""
    if str(name) in bundled_pairs():
        with resources.as_file(resources.files("hooked_diffusion") / "pretrained" / str(name)) as folder:
            return folder
    if all((Path(name) / role / "config.json").is_file() for role in ("arm", "mdm")):
        return Path(name)
    known = ", ".join(bundled_pairs()) or "none"
    raise ValueError(
        f"unknown pair {str(name)!r}; bundled: {known}. Or give a folder with arm and mdm in it, two checkpoints: load_pair(arm=…, mdm=…), "
        f"or a pair of the hub: {', '.join(row.name for row in KNOWN_PAIRS.values() if row.arm and not row.control)}"
    )


def _shared_tokenizer(folder: Path, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer that all models of a pair's folder use, unless the caller chose one."""
    if not isinstance(tokenizer, str):
        return tokenizer
    if not (folder / "tokenizer").is_dir():
        raise FileNotFoundError(f"{folder} holds no folder named tokenizer; pass tokenizer=None, or a tokenizer of your own")
    return load_tokenizer(folder / "tokenizer")


def _hook(checkpoint: OpenCheckpoint, tokenizer: Tokenizer, placed: WeightSettings) -> HookedDiffusionTransformer:
    loaded = checkpoint.load(tokenizer=tokenizer, **placed)
    model = HookedDiffusionTransformer.from_hf(loaded.hf_model, loaded.tokenizer, loaded.spec, name=checkpoint.name)
    model.source = loaded.source
    return model


def _config(model: HookedDiffusionTransformer) -> PretrainedConfig:
    """The native config inside a bridge."""
    return cast(PreTrainedModel, model.original_model).config
