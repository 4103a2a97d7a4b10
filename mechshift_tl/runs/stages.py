"""A long job in stages: each is kept as a file when it is finished, and read from there when the job is started again.

1. The folder belongs to one job; another is refused (`same_work.claim`).
2. A stage's result is written by the first process, whole or not at all, and read back by all processes. So a result is the same whether it
   was made now or by a run that was stopped.
3. Files that no reader of the results needs lie under `journal`, which is deleted when the job is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hooked_diffusion import artefact
from mechshift_tl.runs.processes import Processes
from mechshift_tl.runs.same_work import AlreadyFinished, claim, finished_results

JOURNAL = "journal"


class Savable(Protocol):
    """A result with a file of its own."""

    def save(self, path: str | Path) -> None:
        """Write it."""


T = TypeVar("T", bound=Savable)
V = TypeVar("V")


@dataclass(frozen=True)
class Stages:
    """The stages of a job, kept in `folder`; None keeps nothing. `part` is what this part of the job puts before its files' names."""

    folder: Path | None = None
    part: str = ""

    def claim(self, work: Mapping[str, object]) -> None:
        """Say what job the folder belongs to.

        Raises ValueError when it belongs to another job, AlreadyFinished when the results of this one are there already.
        """
        if self.folder is None:
            return
        place, processes = self.folder / JOURNAL, Processes.here()
        processes.once(lambda: claim(place, work))
        if results := processes.agree(finished_results(place)):
            raise AlreadyFinished(f"{results} holds this run already")

    def write(self, save: Callable[[Path], object]) -> None:
        """Have the first process write into this part's folder; nothing where nothing is kept."""
        if self.folder is not None:
            folder = self.folder / self.part
            Processes.here().once(lambda: save(folder))

    def of(self, part: str) -> Stages:
        """The stages of one part of the job."""
        return Stages(self.folder, f"{self.part}{part}/")

    def journal(self, name: str) -> Path | None:
        """Where a stage keeps its own finished batches."""
        return None if self.folder is None else self.folder / JOURNAL / f"{self.part}{name}"

    def result(self, name: str, load: Callable[[Path], T], make: Callable[[], T]) -> T:
        """The result of `make`, kept as the artefact `name`. Once it is written, the journal of the same name is deleted."""
        if self.folder is None:
            return make()
        found = _kept(self.folder / f"{self.part}{name}", load, make, _save)
        if Processes.here().is_first:
            shutil.rmtree(self.folder / JOURNAL / f"{self.part}{name}", ignore_errors=True)
        return found

    def draft(self, name: str, load: Callable[[Path], T], make: Callable[[], T]) -> T:
        """The result of `make`, kept in the journal only."""
        place = self.journal(name)
        return make() if place is None else _kept(place, load, make, _save)

    def value(self, name: str, make: Callable[[], V]) -> V:
        """The result of `make`, which must be JSON values, kept in the journal only."""
        place = self.journal(name)
        return make() if place is None else _kept(place, _load_json, make, artefact.write_json)


def _kept(path: Path, load: Callable[[Path], V], make: Callable[[], V], save: Callable[[Path, V], None]) -> V:
    processes = Processes.here()
    # The first process decides for all: the file could appear between two processes' looks.
    if not processes.agree(path.is_file()):
        made = make()
        processes.once(lambda: _write(path, made, save))
    # Read back even where it was just made, so that a run which continues computes from the same numbers.
    return load(path)


def _write(path: Path, made: V, save: Callable[[Path, V], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with artefact.replacing(path) as draft:
        save(draft, made)


def _save(path: Path, made: Savable) -> None:
    made.save(path)


def _load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
