"""The known families: those of this package, those of other installed packages, and those that a program registers. And the models that are
known but cannot be opened (`UNSUPPORTED`).

A package adds a family by an entry point of the group `hooked_diffusion.families`, which names a `CheckpointAdapter`:

    [project.entry-points."hooked_diffusion.families"]
    mine = "my_package.my_family:MINE"

It is loaded when a family is first looked up. A family that cannot be loaded, or whose name is taken, is left out with a warning.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.fields import Config, shown, shown_name, text_in, texts_in
from hooked_diffusion.checkpoints.names import saved_from

GROUP = "hooked_diffusion.families"

_ADAPTERS: dict[str, CheckpointAdapter] = {}
#: Entry points that have been tried.
_LOADED: set[EntryPoint] = set()

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


def register_adapter(adapter: CheckpointAdapter) -> CheckpointAdapter:
    """Make a family known to `load_checkpoint`. Raises ValueError when its name is taken."""
    if adapter.family in _ADAPTERS:
        raise ValueError(f"a checkpoint family named {adapter.family!r} is registered already; choose another name")
    _ADAPTERS[adapter.family] = adapter
    return adapter


def families() -> list[str]:
    """The known families, sorted."""
    return sorted(_known())


def adapter_for(config: Config, family: str | None = None, where: str = "config.json", name: str = "") -> CheckpointAdapter:
    """The adapter named `family`, or else the one that `config` and the repository's or folder's own `name` match.

    Raises ValueError, listing the known families, when none fits or more than one; saying what is missing, where the model is known and
    cannot be opened.
    """
    known = _known()
    if family is not None:
        if family not in known:
            raise ValueError(f"unknown checkpoint family {family!r}; known: {', '.join(families())}")
        return known[family]
    if "diffusion_spec" in config:
        name = ""  # a folder that states its spec is native, whatever its name
    elif row := _unsupported(config, name, where):
        raise ValueError(f"{where}: {row.model} is an unknown family here and cannot be opened: {row.why}")
    found = [adapter for adapter in known.values() if adapter.matches(config, name, where)]
    classes = texts_in(config, "architectures", where)
    strange = bool(classes) and all(one not in adapter.architectures for adapter in known.values() for one in classes)
    if strange:  # what another class computes is not known, whatever model_type and name say
        found = [adapter for adapter in found if not adapter.architectures and not adapter.names]
    # DiffuGPT's config also fits GPT-2: the special family names the general ones that it replaces.
    general = {name for adapter in found for name in adapter.instead_of}
    found = [adapter for adapter in found if adapter.family not in general]
    if len(found) != 1:
        raise ValueError(_no_single_family(config, where, found, strange))
    return found[0]


def _no_single_family(config: Config, where: str, found: list[CheckpointAdapter], strange: bool) -> str:
    """Why a config belongs to no family, or to several."""
    stated, classes = text_in(config, "model_type"), texts_in(config, "architectures")
    said = f"{where} (model_type {shown(stated)}, architectures {shown(list(classes))})"
    remedy = f"pass family= one of {', '.join(families())}, or register an adapter"
    if found:
        return f"{said} fits {' and '.join(sorted(adapter.family for adapter in found))}; {remedy}"
    kin = [adapter.family for adapter in _known().values() if strange and stated in adapter.model_types]
    named = " or ".join(map(shown_name, classes[:3]))
    why = f", because nothing here knows the class {named}, and what it computes may not be what {kin[0]} does" if kin else ""
    return f"unknown family: {said} fits no known family{why}; if you know what it computes, {remedy}"


def saved_from_family(config: Config, chosen: CheckpointAdapter) -> CheckpointAdapter | None:
    """The family that only a name could tell, where the config looks like it and was saved from a checkpoint of such a name.

    None where the config states its spec, or where the chosen family was told by name itself.
    """
    if "diffusion_spec" in config or chosen.looks_like:
        return None
    return next((adapter for adapter in _alike(config) if adapter.is_named(saved_from(config))), None)


def _alike(config: Config) -> list[CheckpointAdapter]:
    return [a for a in _known().values() if a.looks_like and all(config.get(key) == value for key, value in a.looks_like.items())]


def lookalikes(config: Config, chosen: CheckpointAdapter) -> tuple[str, ...]:
    """One note for each other family whose config looks like this one: only a name or `family=` could have told it."""
    if "diffusion_spec" in config or chosen.looks_like:
        return ()
    note = "read as {}; the config of {} looks the same: pass family={!r} for one"
    return tuple(note.format(chosen.family, adapter.family, adapter.family) for adapter in _alike(config))


def _known() -> dict[str, CheckpointAdapter]:
    for point in entry_points(group=GROUP):
        if point not in _LOADED:
            # Before it is loaded: an entry point that fails is tried once, and warned of once.
            _LOADED.add(point)
            _load(point)
    return _ADAPTERS


def _load(point: EntryPoint) -> None:
    try:
        adapter = point.load()
        if not isinstance(adapter, CheckpointAdapter):
            raise TypeError(f"{point.value} is a {type(adapter).__name__}, not a CheckpointAdapter")
        if _ADAPTERS.get(adapter.family) is not adapter:  # importing its module may have registered it
            register_adapter(adapter)
    except Exception as error:  # whatever another package's import may raise
        owner = point.dist.name if point.dist else "an unknown distribution"
        warnings.warn(f"the checkpoint family {point.name!r} of {owner} is left out: {error}", stacklevel=2)


def _unsupported(config: Config, name: str, where: str) -> Unsupported | None:
    """The row that a checkpoint belongs to; None for any other."""
    return next((row for row in UNSUPPORTED if row.matches(config, name, where)), None)
