"""`mechshift trajectory`: a post-training's checkpoints, studied one by one: abrupt, gradual, or nobody can tell?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechshift_tl.cli import study_options as of
from mechshift_tl.cli.console import Stages, console, print_frame, print_last
from mechshift_tl.cli.errors import clear_errors, opening
from mechshift_tl.cli.options import AsJson, Fresh, Quiet, not_empty, number_of, words_of
from mechshift_tl.cli.results import results_in
from mechshift_tl.cli.task_options import TaskNames, tasks_of

if TYPE_CHECKING:
    from mechshift_tl.study.trajectory import TrainingRun, Trajectory

SHOWN = ["task", "role", "name", "answer", "at", "low", "high", "change", "smallest_change", "first"]


def trajectory(
    folder: Annotated[Path, typer.Argument(help="Folder of a post-training, with checkpoints/STEP in it.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New or empty folder for the points, the tables and report.html.")],
    control: Annotated[Path | None, typer.Option(callback=not_empty, help="The same for the control.")] = None,
    arm: Annotated[
        str | None,
        typer.Option(callback=not_empty, help="The ARM that both started from: a checkpoint, or a bundled pair; default what they say."),
    ] = None,
    tasks: TaskNames = "ioi,countdown",
    checkpoints: Annotated[str | None, typer.Option(help="Steps to look at, separated by commas; default all.")] = None,
    n: of.N = None,
    held_out: of.HeldOut = None,
    seed: of.StudySeed = None,
    ig_steps: of.IgSteps = None,
    edges: of.Edges = None,
    components: of.Components = None,
    cut: of.Cut = None,
    n_boot: of.Draws = None,
    n_random: of.NRandom = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Study the MDM and its control at each checkpoint of their training; say when overlap, depth and accuracy change, and how."""
    named = ("n", "held_out", "seed", "ig_steps", "edges", "components", "cut", "n_boot", "n_random")
    given = {name: value for name, value in locals().items() if name in named and value is not None}
    with clear_errors():
        from mechshift_tl.runs.processes import Processes
        from mechshift_tl.study.trajectory import run_trajectory
        from mechshift_tl.study.trajectory.run import DEFAULTS

        config, wanted = replace(DEFAULTS, **given), tasks_of(tasks)
        runs = _runs({"mdm": folder, "control": control}, checkpoints)
        # Lists, as a file holds them: a stopped run is known by what its file says.
        what = {run.role: [[one.step, one.tokens] for one in run.checkpoints] for run in runs}
        job = {"command": "trajectory", "arm": arm, "tasks": tasks, "folders": [str(folder), str(control)], **what, **config.to_dict()}
        with results_in(out, fresh, **job) as place, console.status("starting") as status, opening("a checkpoint"):
            stage = Stages(status)
            found = run_trajectory(runs, wanted, config, arm=arm, folder=place, progress=stage)
            from mechshift_tl.report.trajectory import write_trajectory_report

            stage("report")
            Processes.here().once(lambda: write_trajectory_report(found, place / "report.html"))
        _print(found)
        print_last(f"{found.finding()} Report: {out / 'report.html'}", finding=found.finding(), report=out / "report.html")


def _runs(folders: dict[str, Path | None], checkpoints: str | None) -> list[TrainingRun]:
    """The runs of these folders, at the steps that were asked for; step 0 is always there."""
    from mechshift_tl.study.trajectory import TrainingRun

    runs = [TrainingRun.of(one, role) for role, one in folders.items() if one is not None]
    if checkpoints is None:
        return runs
    steps = [number_of(word, "--checkpoints") for word in words_of(checkpoints)]
    return [run.only(step for step in steps if step or run.checkpoints[0].step == 0) for run in runs]


def _print(found: Trajectory) -> None:
    print_frame("What changed, when (training tokens), and how", found.changes_table().loc[:, SHOWN], "changes")
