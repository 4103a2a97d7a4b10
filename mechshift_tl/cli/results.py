"""The output folder of a command, and what identifies the files that the command was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, overload

from mechshift_tl.cli.console import console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mechshift_tl.bridge.protocol import HookedModel
    from mechshift_tl.runs.stages import Stages
    from mechshift_tl.tasks.examples import Examples


@overload
def results_in(out: Path, fresh: bool, **settings: object) -> AbstractContextManager[Path]: ...


@overload
def results_in(out: None, fresh: bool, **settings: object) -> AbstractContextManager[None]: ...


@overload
def results_in(out: Path | None, fresh: bool, **settings: object) -> AbstractContextManager[Path | None]: ...


@contextmanager
def results_in(out: Path | None, fresh: bool, **settings: object) -> Iterator[Path | None]:
    """The folder that becomes `out`, of a command that can be stopped and continued (`output_folder`); None stays None."""
    if out is None:
        yield None
        return
    from mechshift_tl.runs.output_folder import output_folder
    from mechshift_tl.runs.provenance import versions

    # Other versions may give other numbers, so a stopped run does not go on under them.
    with output_folder(out, {**settings, "versions": versions()}, fresh=fresh, say=console.print) as folder:
        yield folder


def told_apart(path: Path | None) -> str | None:
    """The name of a file and the SHA-256 of its content, so that a stopped command does not continue with another file. None stays None."""
    from hooked_diffusion.checkpoints.files import sha256_of

    return None if path is None else f"{path.name} {sha256_of([path])}"


def written_to(out: Path | None) -> str:
    """The end of a command's last line: where its results are, if anywhere."""
    return "" if out is None else f". Written: {out}"


def claim(stages: Stages, models: Mapping[str, HookedModel], examples: Examples) -> None:
    """Say which models and prompts a command's folder belongs to: weights that were changed since are other work.

    Raises ValueError where the folder belongs to others, AlreadyFinished where its results are there already.
    """
    from mechshift_tl.runs.provenance import identity, text_digest

    if stages.folder is not None:  # the digests read all weights
        stages.claim({**identity(models), "prompts": text_digest(repr(examples.rows))})
