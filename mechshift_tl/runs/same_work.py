"""Is this the same work? One JSON file says what work a folder belongs to. Other work is refused with a message that says what differs.

What tells one work from another are JSON values that decide the outcome: settings, digests of weights and prompts, versions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from hooked_diffusion import artefact

#: The file in which a folder of unfinished work says what it belongs to.
CLAIM = "journal.json"
#: The file that stands beside a claim which only checks finished results; it holds the path of these.
FINISHED = "finished"


class AlreadyFinished(Exception):
    """The output holds the results of the very work that was asked for, so there is nothing to do."""


def claim(folder: Path, work: Mapping[str, object]) -> None:
    """Mark `folder` as that of `work` where it is new. Raises ValueError where it belongs to other work, or holds something else."""
    # Through JSON and back, so that it compares with what a file holds: tuples become lists, numbers as keys become text.
    work, mark = json.loads(json.dumps(work)), folder / CLAIM
    folder.mkdir(parents=True, exist_ok=True)
    if not mark.is_file():
        if others := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
            raise ValueError(f"{folder} is no journal: it holds {others[0]}; name a new folder")
        artefact.write_json(mark, work)
        return
    if differing := differences(stated(mark), work):
        if results := finished_results(folder):
            raise ValueError(f"{results} holds the results of other work ({differing}); name a new folder")
        raise ValueError(f"{folder} is the journal of other work ({differing}); start that again, or delete the folder")


def finished_results(folder: Path) -> str:
    """Where the finished results of a claimed folder's work lie; empty where the work is not finished."""
    mark = folder / FINISHED
    return mark.read_text(encoding="utf-8") if mark.is_file() else ""


def stated(path: Path) -> dict[str, object]:
    """The values that identify the work of the file at `path`; empty without such a file. Raises ValueError on a damaged file."""
    return artefact.read_json(path, "the run that made this folder") if path.is_file() else {}


def differences(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    """What differs, as in "n is 200 there, 100 here"; empty when nothing does."""
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return ", ".join(f"{key} is {_short(there.get(key))} there, {_short(here.get(key))} here" for key in keys)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
