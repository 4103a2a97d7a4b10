"""A folder that a command fills, though it may be killed on the way: results appear whole, and the same command goes on where it stopped.

1. Work is done beside the output, in `.OUT.partial`; a lock in it refuses a second run, and ends with the process that holds it.
2. `run.json`, among the results, says with which settings; a start with others is refused.
3. At the end the results are moved to OUT in one step, and `.OUT.partial` goes. Stopped before, it stays, unless nothing was finished yet.
4. Asked again for what OUT holds already, the command has nothing to do.

Without settings there is nothing to go on with: 1 and 3 hold, every start begins anew, and a failed one leaves nothing.

Of processes launched together the first does all this; the others wait for it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hooked_diffusion import artefact
from mechshift_tl.runs.journal import differences
from mechshift_tl.runs.processes import Processes
from mechshift_tl.runs.stages import JOURNAL

SETTINGS = "run.json"


class AlreadyFinished(Exception):
    """The output holds the results of the very run that was asked for."""


@contextmanager
def output_folder(
    out: Path, settings: Mapping[str, Any] | None = None, *, fresh: bool = False, say: Callable[[str], None] = print
) -> Iterator[Path]:
    """The folder to put results into: they are in `out` once the block has ended well.

    `settings` (JSON values) are what a continued run must share with the one that was stopped; None for work that cannot be continued.
    `fresh` discards what that one has finished. `say` is told when a run goes on from there, and where it is kept when the block fails.
    Raises ValueError when `out` is not empty, when another process is at it, or when a stopped run had other settings; AlreadyFinished.
    """
    processes = Processes.here()
    place = OutputFolder(out, None if settings is None else {**settings, "processes": processes.count})
    try:
        processes.once(lambda: place.open(fresh, say))
        try:
            yield place.results
            processes.once(place.finish)
        except BaseException:
            if processes.is_first:
                place.leave(say)
            raise
    finally:
        place.lock.release()


class OutputFolder:
    """`.OUT.partial` beside `out`, and what is done to it; `settings` None is work that cannot be continued."""

    def __init__(self, out: Path, settings: Mapping[str, Any] | None) -> None:
        self.out, self.partial, self.settings = out, out.with_name(f".{out.name}.partial"), settings
        self.results, self.holder = self.partial / "results", self.partial / "holder"
        self.lock = FileLock(self.partial / "lock", blocking=False)

    def open(self, fresh: bool, say: Callable[[str], None]) -> None:
        """Take the folder, or go on in it."""
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            self._refuse_or_tidy(fresh)
        self.partial.mkdir(parents=True, exist_ok=True)
        self._take()
        if fresh or self.settings is None or not self._anything_finished():
            shutil.rmtree(self.results, ignore_errors=True)
        elif differing := differences(_settings(self.results), self.settings):
            raise ValueError(f"{self.partial} holds a stopped run of other settings ({differing}); give those, or discard it with --fresh")
        else:
            say(f"Going on from {self.partial}")
        self.results.mkdir(exist_ok=True)
        if self.settings is not None:
            artefact.write_json(self.results / SETTINGS, dict(self.settings))

    def finish(self) -> None:
        """Move the results to `out`, and tidy up."""
        shutil.rmtree(self.results / JOURNAL, ignore_errors=True)
        if self.out.exists():
            self.out.rmdir()
        self.results.rename(self.out)
        self._tidy()

    def leave(self, say: Callable[[str], None]) -> None:
        """Keep what is finished for the next start; where nothing is, leave nothing."""
        if self.settings is not None and self._anything_finished():
            say(f"What is finished is kept in {self.partial}; the same command goes on from there, --fresh discards it")
        else:
            self._tidy()

    def _take(self) -> None:
        try:
            self.lock.acquire()
        except Timeout:
            holder = self.holder.read_text(encoding="utf-8") if self.holder.is_file() else "another process"
            raise ValueError(f"{holder} is writing {self.out}; wait for it, or name another folder") from None
        self.holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")

    def _refuse_or_tidy(self, fresh: bool) -> None:
        """`out` holds something: the results of this very run, or what must not be touched."""
        held, asked = _settings(self.out), self.settings
        if fresh or not held or asked is None or differences({**held, "processes": 0}, {**asked, "processes": 0}):
            raise ValueError(f"output folder {self.out} is not empty; name a new one, or empty it")
        if self.partial.exists() and not self.results.exists():
            self._tidy()  # the process was stopped between moving the results and tidying up
        raise AlreadyFinished(f"{self.out} holds this run already")

    def _anything_finished(self) -> bool:
        return any(not path.name.startswith(".") for path in self.results.rglob("*.safetensors"))

    def _tidy(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


def _settings(folder: Path) -> dict[str, Any]:
    """With which settings `folder` was filled; empty when it does not say."""
    path = folder / SETTINGS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
