"""`mechshift report`: the page of a study that is done, written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mechshift_tl.cli.console import console, print_last
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import Quiet


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study, as `mechshift run` wrote it.")],
    out: Annotated[Path | None, typer.Option(help="File to write; default DIR/report.html.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write the report of a finished study again: after an update of mechshift, or where it was lost. Nothing is measured."""
    with clear_errors():
        from mechshift_tl.study import Study

        study, path = Study.load(folder), out or folder / "report.html"
        from mechshift_tl.report import write_report

        with console.status("report"):
            write_report(study, path)
        print_last(f"{study.verdicts.sentence()} Report: {path}")
