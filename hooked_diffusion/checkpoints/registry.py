"""The known families: those of this package, those of other installed packages, and those that a program registers.

A package adds a family by an entry point of the group `hooked_diffusion.families`, which names a `CheckpointAdapter`:

    [project.entry-points."hooked_diffusion.families"]
    mine = "my_package.my_family:MINE"

It is loaded when a family is first looked up. A family that cannot be loaded, or whose name is taken, is left out with a warning.
"""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint, entry_points

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.fields import Config, text_in, texts_in

GROUP = "hooked_diffusion.families"

_ADAPTERS: dict[str, CheckpointAdapter] = {}
#: Entry points that have been tried.
_LOADED: set[EntryPoint] = set()


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

    Raises ValueError, listing the known families, when none fits or more than one.
    """
    known = _known()
    if family is not None:
        if family not in known:
            raise ValueError(f"unknown checkpoint family {family!r}; known: {', '.join(families())}")
        return known[family]
    # A folder that states its spec is native already, whatever its name.
    own_name = "" if "diffusion_spec" in config else name
    found = [adapter for adapter in known.values() if adapter.matches(config, own_name, where)]
    general = {name for adapter in found for name in adapter.instead_of}
    found = [adapter for adapter in found if adapter.family not in general]
    if len(found) != 1:
        fits = "no known family" if not found else " and ".join(sorted(adapter.family for adapter in found))
        raise ValueError(
            f"{where} (model_type {text_in(config, 'model_type')!r}, architectures {list(texts_in(config, 'architectures'))}) fits {fits}; "
            f"pass family= one of {', '.join(families())}, or register an adapter"
        )
    return found[0]


def lookalikes(config: Config, chosen: CheckpointAdapter) -> tuple[str, ...]:
    """One note for each other family whose config looks like this one: only a name or `family=` could have told it."""
    if "diffusion_spec" in config or chosen.looks_like:
        return ()
    fitting = [a for a in _known().values() if a.looks_like and all(config.get(key) == value for key, value in a.looks_like.items())]
    return tuple(f"read as {chosen.family}; the config of {a.family} looks the same: pass family={a.family!r} for one" for a in fitting)


def _known() -> dict[str, CheckpointAdapter]:
    for point in entry_points(group=GROUP):
        if point not in _LOADED:
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
