"""Results that save and load themselves. What a file holds follows from the fields of the dataclass: see `values`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from torch import Tensor
from typing_extensions import Self

from hooked_diffusion.artefact.brief import brief
from hooked_diffusion.artefact.files import read, read_json, write, write_json
from hooked_diffusion.artefact.values import build, encode, without_nan

T = TypeVar("T")


class Artefact:
    """A mixin for frozen dataclasses: one safetensors file, its tensors under their fields' names, every other field in the header.

    `KIND` says what the file holds, in words ("edge scores"). A class whose file is laid out otherwise overrides `_packed` and `_unpacked`.
    """

    KIND: ClassVar[str]

    def __init_subclass__(cls) -> None:
        _be_brief(cls)

    def save(self, path: str | Path) -> None:
        """Write `path` (safetensors): tensors, with all else in the header. Raises OSError where the file cannot be written."""
        write(path, self.KIND, *self._packed())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises ValueError, naming file and field, when the file is something else or was changed."""
        tensors, values = read(path, cls.KIND, f"{cls.__name__}.save")
        return rebuilt(path, cls, lambda: cls._unpacked(tensors, values))

    def _packed(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Tensors and JSON values of the file. A field that is None, and is None by default, is left out."""
        # A dataclass field without a default has MISSING there, so a None in it is kept.
        kept = {one.name: (getattr(self, one.name), one.default) for one in fields(cast(Any, self))}
        values = {name: value for name, (value, default) in kept.items() if value is not None or default is not None}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return tensors, {name: encode(value) for name, value in values.items() if name not in tensors}

    @classmethod
    def _unpacked(cls, tensors: Mapping[str, Tensor], values: Mapping[str, object]) -> Self:
        """The result that a file's tensors and JSON values make."""
        return build(cls, {**values, **tensors})


class JsonArtefact:
    """A mixin for frozen dataclasses without tensors: one JSON file, `{KIND: fields}`. NaN is null there."""

    KIND: ClassVar[str]

    def __init_subclass__(cls) -> None:
        _be_brief(cls)

    def save(self, path: str | Path) -> None:
        """Write `path` (JSON). Raises OSError where the file cannot be written."""
        write_json(path, {self.KIND: without_nan(encode(self))})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises ValueError, naming file and field, when the file is something else or was changed."""
        values = read_json(path, f"{cls.__name__}.save", cls.KIND)[cls.KIND]
        return rebuilt(path, cls, lambda: build(cls, values))


def _be_brief(cls: type) -> None:
    """Give a result a `repr` of one line, unless it has its own: that of a dataclass would print whole tables."""
    # Set before the decorator of dataclasses runs, which then leaves it.
    if "__repr__" not in vars(cls):
        type.__setattr__(cls, "__repr__", brief)


def rebuilt(path: str | Path, kind: type, make: Callable[[], T]) -> T:
    """The result that `make` builds from a file's content. Its ValueErrors get the name of the file, and name what writes such files."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; give a file written by {kind.__name__}.save") from error
