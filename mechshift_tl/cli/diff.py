"""`mechshift diff`: two studies side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechshift_tl.cli.console import console, print_frame
from mechshift_tl.cli.errors import clear_errors

if TYPE_CHECKING:
    from mechshift_tl.study.difference import StudyDifference


def diff(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a study.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Hold two studies against each other: settings, answers, overlaps."""
    with clear_errors():
        from mechshift_tl.study import Study
        from mechshift_tl.study.difference import difference

        found = difference(Study.load(run_a), Study.load(run_b), (run_a.name or "a", run_b.name or "b"))
        if as_json:
            frames = {name: getattr(found, name).to_dict("records") for name in ("settings", "answers", "overlaps")}
            print(json.dumps({"finding": found.finding(), "only_a": found.only_a, "only_b": found.only_b, **frames}))
        else:
            _print(found)


def _print(found: StudyDifference) -> None:
    """Settings and answers that differ, every overlap, and the finding."""
    if len(found.settings):
        print_frame("Settings that differ", found.settings)
    differ = found.answers.query("not same").drop(columns="same")
    if len(differ):
        print_frame("Answers that differ", differ)
    print_frame("Edge overlap, 95 % over prompts", found.overlap_table())
    for name, alone in zip(found.names, (found.only_a, found.only_b), strict=True):
        if alone:
            console.print(f"Only in {name}: {'; '.join(alone)}.")
    console.print(found.finding(), soft_wrap=True)
