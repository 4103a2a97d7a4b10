"""The journal of a long job: its finished batches, kept on disk. A job that was killed and is started again continues where it stopped.

1. The folder says what it belongs to (`same_work`: settings, digests of rows and weights, versions); other work is refused.
2. A finished batch is one file under its number, written beside its place and moved there once it is on the disk.
3. Files are only added. A file that cannot be read, or whose tensors do not have its checksum, counts as absent: its batch is done again.

Finished batches are replayed in their order, so sums come out bit-equal to those of a job that was never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hooked_diffusion import artefact
from mechshift_tl.runs.provenance import digest
from mechshift_tl.runs.same_work import claim

KIND = "finished batch"


class Journal:
    """The finished batches of one process, in one folder.

    Raises ValueError when `folder` belongs to other work than `work` (JSON values), saying what differs, or holds something else.
    """

    def __init__(self, folder: Path, work: Mapping[str, object]) -> None:
        self.folder = folder
        claim(folder, work)

    def read(self, batch: int) -> dict[str, Tensor] | None:
        """The tensors of batch number `batch`; None when the batch is not finished."""
        path = self._path(batch)
        if not path.is_file():
            return None
        try:
            tensors, side = artefact.read(path, KIND, "Journal.write")
        except ValueError:  # a file that is damaged in any way is a batch that is not finished
            return None
        return tensors if side.get("sha256") == digest(sorted(tensors.items())) else None

    def write(self, batch: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep a finished batch. Raises OSError when it cannot be written."""
        artefact.write(self._path(batch), KIND, tensors, {"sha256": digest(sorted(tensors.items()))})

    def _path(self, batch: int) -> Path:
        return self.folder / f"{batch:06d}.safetensors"
