"""The output folder of a command that may be killed: results appear whole, and the same command goes on where it stopped.

1. Work is done beside the output, in `.OUT.partial`, which no other user may enter. A lock in it refuses a second run. The lock ends with
   the process that holds it.
2. `run.json`, among the results, holds the settings. A start with other settings is refused.
3. At the end the results are moved to OUT in one step, and `.OUT.partial` is deleted. If the command is stopped before, the folder stays,
   unless nothing was finished yet. What the work claimed on the way (weights, prompts: `Stages.claim`) is kept in `run.json`.
4. If OUT already holds the results of the same settings, the command has nothing to do. Where the work made a claim, it must first make the
   same claim again: the same settings with other weights are other work.

Work without settings cannot be continued: points 1 and 3 hold, every start begins anew, and a failed one leaves nothing.

Of processes launched together the first does all this; the others wait for it.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hooked_diffusion import artefact
from mechshift_tl.runs.processes import Processes
from mechshift_tl.runs.same_work import CLAIM, FINISHED, AlreadyFinished, differences, stated
from mechshift_tl.runs.stages import JOURNAL

SETTINGS = "run.json"
#: The entry of `run.json` that holds what the work claimed.
CLAIMED = "work"
#: The folder in `.OUT.partial` in which the claim of a finished run is checked.
CHECK = "check"


@contextmanager
def output_folder(
    out: Path, settings: Mapping[str, object] | None = None, *, fresh: bool = False, say: Callable[[str], None] = print
) -> Iterator[Path]:
    """The folder to put results into: they are in `out` once the block has ended well.

    - `settings` (JSON values): what a continued run must share with the stopped one; None for work that cannot be continued.
    - `fresh`: whether to discard what a stopped run has finished.
    - `say`: is told when a run goes on from a stopped one, and where the work is kept when the block fails.

    Raises ValueError, before any work, when `out` cannot become the output, when another process writes it, and when a stopped run had
    other settings; AlreadyFinished when `out` holds the results of this very run.
    """
    processes = Processes.here()
    place = OutputFolder(out, None if settings is None else {**settings, "processes": processes.count})
    try:
        processes.once(lambda: place.open(fresh, say))
        try:
            if processes.agree(place.is_finished and not place.must_claim):
                raise AlreadyFinished(place.finished)
            yield processes.agree(place.results)
            processes.once(place.finish)
        except BaseException:
            if processes.is_first:
                place.leave(say)
            raise
    finally:
        place.lock.release()


class OutputFolder:
    """`.OUT.partial` beside `out`, and what is done to it; `settings` None is work that cannot be continued."""

    def __init__(self, out: Path, settings: Mapping[str, object] | None) -> None:
        # The place itself, not a link to it, is moved to at the end; `.` and `..` have no name to put `.partial` behind.
        self.out = out.resolve() if out.is_symlink() or out.name in ("", "..") else out
        self.settings = settings
        self.partial = self.out.parent / f".{self.out.name}.partial"
        self.results, self.holder = self.partial / "results", self.partial / "holder"
        self.lock = FileLock(self.partial / "lock", blocking=False)
        self.is_finished = self.must_claim = False

    @property
    def finished(self) -> str:
        """The message where there is nothing to do."""
        return f"{self.out} holds this run already"

    def open(self, fresh: bool, say: Callable[[str], None]) -> None:
        """Take the folder, or go on in it."""
        self._check_out()
        if self.out.exists() and any(self.out.iterdir()):
            self._check_finished(fresh)
            if not self.must_claim:
                return
        self._make_private()
        self._take()
        if self.is_finished:
            self._prepare_check()
            return
        if fresh or self.settings is None or not self._anything_finished():
            shutil.rmtree(self.results, ignore_errors=True)
        else:
            self._go_on(self.settings, say)
        self.results.mkdir(exist_ok=True)
        if self.settings is not None:
            artefact.write_json(self.results / SETTINGS, dict(self.settings))

    def finish(self) -> None:
        """Move the results to `out`, and tidy up."""
        if self.is_finished:
            raise AlreadyFinished(self.finished)
        if self.settings is not None and (work := stated(self.results / JOURNAL / CLAIM)):
            artefact.write_json(self.results / SETTINGS, {**self.settings, CLAIMED: work})
        shutil.rmtree(self.results / JOURNAL, ignore_errors=True)
        if self.out.exists():
            self.out.rmdir()
        # One rename on one file system: readers see all results or none.
        self.results.rename(self.out)
        self._tidy()

    def leave(self, say: Callable[[str], None]) -> None:
        """Keep what is finished for the next start; where nothing is, leave nothing."""
        if self.is_finished:
            shutil.rmtree(self.partial / CHECK, ignore_errors=True)
            if not (self.partial / "results").exists():  # those are of a later run, which was stopped
                self._tidy()
        elif self.settings is not None and self._anything_finished():
            say(f"What is finished is kept in {self.partial}; the same command goes on from there, --fresh discards it")
        else:
            self._tidy()

    def _go_on(self, settings: Mapping[str, object], say: Callable[[str], None]) -> None:
        """Keep what the stopped run has finished. Raises ValueError where its settings were others."""
        held, claimed = _split(stated(self.results / SETTINGS))
        if differing := differences(held, settings):
            raise ValueError(f"{self.partial} holds a stopped run of other settings ({differing}); give those, or discard it with --fresh")
        say(f"Going on from {self.partial}")
        if claimed and not (self.results / JOURNAL / CLAIM).is_file():
            self._claim(claimed)  # that run was stopped between removing the journal and moving the results

    def _check_out(self) -> None:
        """Raise ValueError where the results could not be moved to `out` at the end."""
        if self.out.is_symlink() or (self.out.exists() and not self.out.is_dir()):
            kind = "a link to nothing" if self.out.is_symlink() else "a file, not a folder"
            raise ValueError(f"output folder {self.out} is {kind}; name a new one")
        if self.out.exists() and (os.path.ismount(self.out) or self.out.samefile(Path.cwd())):
            kind = "a mount point" if os.path.ismount(self.out) else "the folder that the command runs in"
            raise ValueError(f"output folder {self.out} is {kind}, which cannot be replaced; name a new folder in it")

    def _check_finished(self, fresh: bool) -> None:
        """`out` holds something: the results of this very run, or what must not be touched."""
        held, claimed = _split(stated(self.out / SETTINGS))
        asked = self.settings
        # Results do not depend on how many processes made them.
        if fresh or not held or asked is None or differences({**held, "processes": 0}, {**asked, "processes": 0}):
            raise ValueError(f"output folder {self.out} is not empty; name a new one, or empty it")
        self.is_finished, self.must_claim = True, bool(claimed)

    def _make_private(self) -> None:
        """Make `.OUT.partial`, which its owner alone may enter. Raises ValueError where someone else has put it there.

        What another user can write there would be followed by this user's command: a link among the results, to any file of theirs.
        """
        # `lexists`, since a link to nothing is there too.
        if not os.path.lexists(self.partial):
            self.partial.mkdir(mode=0o700, parents=True)
        if os.name != "posix":
            return
        # `lstat`: the link itself is judged, not what it leads to.
        found = self.partial.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(f"{self.partial} is not a folder that you alone may write; delete it, or name another output folder")
        self.partial.chmod(0o700)

    def _take(self) -> None:
        try:
            self.lock.acquire()
        except Timeout:
            holder = self.holder.read_text(encoding="utf-8") if self.holder.is_file() else "another process"
            raise ValueError(f"{holder} is writing {self.out}; wait for it, or name another folder") from None
        # A refused run shows this text, so that its user knows what to wait for.
        self.holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")

    def _prepare_check(self) -> None:
        """A folder apart, in which the claim of the finished run is held against the one that the work makes now."""
        self.results = self.partial / CHECK
        shutil.rmtree(self.results, ignore_errors=True)
        self._claim(_split(stated(self.out / SETTINGS))[1])
        (self.results / JOURNAL / FINISHED).write_text(str(self.out), encoding="utf-8")

    def _claim(self, work: Mapping[str, object]) -> None:
        (self.results / JOURNAL).mkdir(parents=True, exist_ok=True)
        artefact.write_json(self.results / JOURNAL / CLAIM, dict(work))

    def _anything_finished(self) -> bool:
        # Drafts begin with a dot: they are not finished.
        return any(not path.name.startswith(".") for path in self.results.rglob("*.safetensors"))

    def _tidy(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


def _split(said: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Settings and claim of a `run.json`."""
    claimed = said.get(CLAIMED)
    return {key: value for key, value in said.items() if key != CLAIMED}, claimed if isinstance(claimed, dict) else {}
