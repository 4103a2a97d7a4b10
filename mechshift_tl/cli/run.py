"""`mechshift run`: the study of a pair, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechshift_tl.cli.console import console, print_frame, print_stage
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import (
    KV,
    ConfigFields,
    Family,
    Fresh,
    PairName,
    Rule,
    Seed,
    Steps,
    TaskNames,
    open_pair,
    placed,
    read_as,
    tasks_of,
)
from mechshift_tl.cli.results import results_in

if TYPE_CHECKING:
    from mechshift_tl.study import Study


def run(
    pair: PairName,
    out: Annotated[Path, typer.Option(help="New or empty folder for artefacts and report.html.")],
    tasks: TaskNames = "ioi,countdown",
    n: Annotated[int, typer.Option(help="Prompts per task that every model of the pair reads correctly.")] = 200,
    edges: Annotated[int | None, typer.Option(help="Edges per circuit; default min(1000, 5 % of all).")] = None,
    components: Annotated[int | None, typer.Option(help="K of the component overlap; default min(100, 10 % of all).")] = None,
    held_out: Annotated[int, typer.Option(help="Further prompts on which circuits are run in every model; 0 runs none.")] = 40,
    ig_steps: Steps = 5,
    rule: Rule = "midpoint",
    kv: KV = "grouped",
    seed: Seed = 0,
    fresh: Fresh = False,
    family: Family = None,
    config: ConfigFields = None,
) -> None:
    """Compare the circuits of an ARM, its MDM and its control, task by task, and write a report."""
    with clear_errors():
        from mechshift_tl.runs.processes import Processes
        from mechshift_tl.study import StudyConfig, run_study

        settings: dict[str, Any] = {"n": n, "seed": seed, "ig_steps": ig_steps, "rule": rule, "kv": kv, "held_out": held_out}
        study_config = StudyConfig(**settings, edges=edges, components=components)
        wanted, how = tasks_of(tasks), read_as(family, config, of_pair=True)
        with results_in(out, fresh, command="run", pair=pair, tasks=tasks, **study_config.to_dict(), **how) as folder:
            models = open_pair(pair, placed(None) | how)
            with console.status("starting") as status:
                study = run_study(models, wanted, study_config, folder=folder, progress=lambda stage: print_stage(status, stage))
                from mechshift_tl.report import write_report

                print_stage(status, "report")
                Processes.here().once(lambda: write_report(study, folder / "report.html"))
        _print_study(study)
        console.print(f"Report: {out / 'report.html'}", soft_wrap=True)


def _print_study(study: Study) -> None:
    """Accuracy, overlaps with what must be said beside them, and faithfulness."""
    print_frame("Held-out accuracy (decoded freely), and how the prompts were found", study.accuracy())
    print_frame(
        "Edge overlap: Jaccard of circuits, 95 % interval over prompts, floor of random circuits, ceiling of one model",
        study.overlap_table(),
    )
    for task, one in study.tasks.items():
        for role, comparison in one.comparisons.items():
            console.print(" ".join([f"{task}, ARM → {role}: {comparison.verdict}", *one.notes(role)]))
        if one.evidence is not None:
            n = int(one.evidence.faithfulness["n"].min())
            title = f"{task}: faithfulness of each circuit in each model on {n} prompts kept apart, 95 %, and of random circuits"
            print_frame(title, one.evidence.grid())
