"""Where a command's results go, and how the files it was given are told from others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mechshift_tl.cli.console import console


@contextmanager
def results_in(out: Path | None, fresh: bool, **settings: Any) -> Iterator[Any]:
    """The folder that becomes `out`, of a command that can be stopped and continued (`workplace`); None stays None."""
    if out is None:
        yield None
        return
    from mechshift_tl.runs.output_folder import output_folder
    from mechshift_tl.runs.provenance import versions

    with output_folder(out, {**settings, "versions": versions()}, fresh=fresh, say=console.print) as folder:
        yield folder


def told_apart(path: Path | None) -> str | None:
    """A file by its name and the SHA-256 of its content: a stopped command does not go on with another. None stays None."""
    from hooked_diffusion.checkpoints.files import sha256_of

    return None if path is None else f"{path.name} {sha256_of([path])}"
