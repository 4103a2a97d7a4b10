"""What a long job has finished, on disk, piece by piece: killed and started again, it goes on where it stopped.

1. The folder says what it belongs to (`journal.json`: settings, digests of rows and weights, versions); other work is refused.
2. A finished batch is one file under its number, written beside its place and moved there once it is on the disk.
3. Files are only added. One that cannot be read counts as not there, and its batch is done again.

Finished batches are replayed in their order, so sums come out bit-equal to those of a job that was never stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from hooked_diffusion import artefact

KIND = "finished batch"
CLAIM = "journal.json"


class Journal:
    """The finished batches of one process, in one folder.

    Raises ValueError when `folder` belongs to other work than `work` (JSON values), saying what differs, or holds something else.
    """

    def __init__(self, folder: Path, work: Mapping[str, Any]) -> None:
        self.folder = folder
        claim(folder, work)

    def read(self, batch: int) -> dict[str, Tensor] | None:
        """What batch number `batch` came to; None when it is not finished."""
        path = self._path(batch)
        if not path.is_file():
            return None
        try:
            return artefact.read(path, KIND, "Journal.write")[0]
        except (SafetensorError, ValueError):
            return None

    def write(self, batch: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep what a batch came to. Raises OSError when it cannot be written."""
        artefact.write(self._path(batch), KIND, tensors, {})

    def _path(self, batch: int) -> Path:
        return self.folder / f"{batch:06d}.safetensors"


def claim(folder: Path, work: Mapping[str, Any]) -> None:
    """Mark `folder` as that of `work`, or check that it is. Raises ValueError in one sentence when it is not."""
    work, mark = json.loads(json.dumps(work)), folder / CLAIM
    folder.mkdir(parents=True, exist_ok=True)
    if not mark.is_file():
        if others := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
            raise ValueError(f"{folder} is no journal: it holds {others[0]}; name a new folder")
        artefact.write_json(mark, work)
        return
    if differing := differences(json.loads(mark.read_text(encoding="utf-8")), work):
        raise ValueError(f"{folder} is the journal of other work ({differing}); start that again, or delete the folder")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs, as in "n is 200 there, 100 here"; empty when nothing does."""
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return ", ".join(f"{key} is {_short(there.get(key))} there, {_short(here.get(key))} here" for key in keys)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
