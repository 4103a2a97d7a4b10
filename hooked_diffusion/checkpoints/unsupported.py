"""Models that are known but cannot be opened: their names, and what this package lacks for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hooked_diffusion.checkpoints.fields import Config, text_in, texts_in

EXPERTS = "its layers are mixtures of experts, and no native class here has those"


@dataclass(frozen=True)
class Unsupported:
    """One such model: patterns of its classes and model types, and of its repository names; `why` it cannot be opened."""

    model: str
    classes: str
    names: str
    why: str

    def matches(self, config: Config, name: str, where: str) -> bool:
        """Whether the config or the repository's name says that a checkpoint is of this model."""
        stated = (*texts_in(config, "architectures", where), text_in(config, "model_type", where) or "")
        return bool(re.fullmatch(self.names, name, re.IGNORECASE)) or any(re.fullmatch(self.classes, one, re.IGNORECASE) for one in stated)


UNSUPPORTED = (
    Unsupported("LLaDA2", r"llada2.*", r"llada-?2.*", EXPERTS),
    Unsupported("LLaDA-MoE", r"llada_?moe.*", r"llada-moe.*", EXPERTS),
    Unsupported("RND1", r"rnd1.*", r"rnd1-.*", EXPERTS),
    Unsupported("SDAR-MoE", r"sdar_?moe.*", r"sdar-\d+b-a\d+b.*", EXPERTS),
    Unsupported(
        "DiffusionGemma",
        r"diffusion_?gemma.*",
        r"diffusion-?gemma.*",
        "it replaces tokens by random ones instead of masks, which DiffusionSpec cannot say, and its layers are mixtures of experts",
    ),
    Unsupported(
        "Nemotron-Labs-Diffusion",
        r"nemotron_?labs_?diffusion.*",
        r"nemotron-labs-diffusion.*",
        "one model attends causally in one mode and in blocks in another, and DiffusionSpec has one direction",
    ),
    Unsupported(
        "dQwen3.5",
        r"d_?qwen_?3_?5.*",
        r"dqwen-?3\.5.*",
        "its layers are hybrid, linear attention among full attention, and no native class here has those",
    ),
    Unsupported(
        "SDLM",
        r"sdlm.*",
        r"sdlm-.*",
        "it attends causally to text and both ways within a block of masks, and DiffusionSpec has one direction",
    ),
)


def unsupported(config: Config, name: str, where: str) -> Unsupported | None:
    """The row that a checkpoint belongs to; None for any other."""
    return next((row for row in UNSUPPORTED if row.matches(config, name, where)), None)
