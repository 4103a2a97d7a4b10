"""Where a command's results go."""

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
    from mechshift_tl.provenance import versions
    from mechshift_tl.workplace import workplace

    with workplace(out, {**settings, "versions": versions()}, fresh=fresh, say=console.print) as folder:
        yield folder
