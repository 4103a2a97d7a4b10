"""`mechshift diff`: two studies side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechshift_tl.cli.console import console, print_frame, print_last
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import AsJson, Quiet

if TYPE_CHECKING:
    from mechshift_tl.study.difference import StudyDifference


def diff(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a study.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another study.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Hold two studies against each other: settings, answers, overlaps."""
    with clear_errors():
        from mechshift_tl.study import Study
        from mechshift_tl.study.difference import difference

        found = difference(Study.load(run_a), Study.load(run_b), (run_a.name or "a", run_b.name or "b"))
        if console.found is not None:
            console.found |= {name: getattr(found, name).to_dict("records") for name in ("settings", "answers", "overlaps")}
        else:
            _print(found)
        print_last(found.finding(), finding=found.finding(), only_a=found.only_a, only_b=found.only_b)


def _print(found: StudyDifference) -> None:
    """Settings and answers that differ, and every overlap."""
    if len(found.settings):
        print_frame("Settings that differ", found.settings, "settings")
    differ = found.answers.query("not same").drop(columns="same")
    if len(differ):
        print_frame("Answers that differ", differ, "answers")
    print_frame("Edge overlap, 95 % over prompts", found.overlap_table(), "overlaps")
    for name, alone in zip(found.names, (found.only_a, found.only_b), strict=True):
        if alone:
            console.print(f"Only in {name}: {'; '.join(alone)}.")
