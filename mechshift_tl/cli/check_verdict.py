"""`mechshift check-verdict`: is the verdict right on models whose relation is known?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mechshift_tl.cli.console import Stages, console, print_frame, print_last
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import AsJson, Out, PairName, Quiet, open_pair
from mechshift_tl.cli.results import written_to
from mechshift_tl.cli.scoring import check_least
from mechshift_tl.cli.task_options import TaskNames, tasks_of

if TYPE_CHECKING:
    from mechshift_tl.study.verdict_check import VerdictCheck

#: Prompts that circuits are found on and prompts that they run on, in a quick check and in a full one.
PROMPTS_QUICK, PROMPTS = (30, 30), (60, 40)
SHOWN = ["truth", "task", "seed", "circuit", "front_loaded", "distributed", "verdict", "tau_by_id", "tau_best", "jaccard", "seconds"]


def check_verdict(
    pair: PairName = "tiny",
    tasks: TaskNames = "ioi",
    role: Annotated[Literal["arm", "mdm", "control"], typer.Option(help="The model that truths are made of.")] = "arm",
    seeds: Annotated[int, typer.Option(help="How many seeds: each makes other models and other prompts.")] = 3,
    first_seed: Annotated[int, typer.Option(help="The first of them.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, fewer prompts and draws, no model trained anew: some 90 s.")] = False,
    out: Out = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Ask for the verdict on models that are the same, changed, relabelled, trained anew or broken on purpose.

    Exit status 1 where fewer than 95 % of the answers are right, or where one is wrong with confidence.
    """
    with clear_errors():
        from mechshift_tl.study.verdict_check import QUICK, TRAINED_ANEW, TRUTHS, VerdictCheck, check_verdict

        check_least("--seeds", seeds, 1)
        wanted, model = tasks_of(tasks), open_pair(pair).models.get(role)
        if model is None:
            raise ValueError(f"the pair {pair!r} has no {role}; choose another --role")
        n, held_out = PROMPTS_QUICK if quick else PROMPTS
        rows = []
        repeats = range(first_seed, first_seed + (1 if quick else seeds))
        asked = {task.name: [*TRUTHS, TRAINED_ANEW] if task.name == "ioi" and not quick else list(TRUTHS) for task in wanted}
        with console.status("starting") as status:
            stage = Stages(status, len(repeats) * sum(map(len, asked.values())))
            for task in wanted:
                found = check_verdict(
                    model, task, seeds=repeats, n=n, held_out=held_out, chosen=asked[task.name],
                    settings=QUICK if quick else None,
                    progress=lambda row: stage(f"{row.task}, seed {row.seed}, {row.truth}: {row.circuit}, {row.verdict}"),
                )  # fmt: skip
                rows += found.rows
        check = VerdictCheck(tuple(rows))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            check.save(out / "check.json")
            check.to_dataframe().to_csv(out / "check.csv", index=False)
        _print(check, out)
    raise typer.Exit(0 if check.passed else 1)


def _print(check: VerdictCheck, out: Path | None) -> None:
    print_frame("Verdicts on known truths", check.to_dataframe().loc[:, list(SHOWN)], "verdicts")
    n, wrong = len(check.rows), sum(row.wrong for row in check.rows)
    said = f"{check.share_right:.0%} of {n} answers are right, {wrong} wrong with confidence: {'passed' if check.passed else 'failed'}"
    print_last(f"{said}{written_to(out)}", passed=check.passed, out=out)
