"""`mechshift run`: the study of a pair, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechshift_tl.cli import study_options as of
from mechshift_tl.cli.console import Stages, console, print_frame, print_last
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import AsJson, Family, Fresh, PairName, Quiet, open_pair, placed, read_as, tokenizer_of
from mechshift_tl.cli.results import results_in
from mechshift_tl.cli.task_options import Data, TaskNames, print_dropped, tasks_of, words_for_file

if TYPE_CHECKING:
    from mechshift_tl.study import Study


#: Tasks of a study where neither an option nor a file names any.
TASKS = "ioi,countdown"
#: The options that are no setting of a study.
OTHERS = ("pair", "out", "tasks", "data", "quick", "fresh", "family", "config", "as_json", "quiet")


def run(
    pair: PairName,
    out: Annotated[Path, typer.Option(help="New or empty folder for artefacts and report.html.")],
    tasks: TaskNames = None,
    data: Data = None,
    quick: of.Quick = False,
    n: of.N = None,
    seed: of.StudySeed = None,
    method: of.StudyMethod = None,
    ig_steps: of.IgSteps = None,
    rule: of.PathRule = None,
    gap: of.StudyGap = None,
    kv: of.StudyKV = None,
    edges: of.Edges = None,
    components: of.Components = None,
    cut: of.Cut = None,
    neuron_layer: of.NeuronLayer = None,
    n_boot: of.Draws = None,
    n_random: of.NRandom = None,
    held_out: of.HeldOut = None,
    validity_n: of.ValidityN = None,
    validity_edges: of.ValidityEdges = None,
    recovers: of.Recovers = None,
    clear: of.Clear = None,
    null_circuits: of.NullCircuits = None,
    kept: of.Kept = None,
    replaced: of.Replaced = None,
    early_margin: of.EarlyMargin = None,
    spread_margin: of.SpreadMargin = None,
    verdict_draws: of.VerdictDraws = None,
    permutations: of.Permutations = None,
    measurements: of.Measurements = None,
    fresh: Fresh = False,
    family: Family = None,
    config: of.StudyFile = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare the circuits of an ARM, its MDM and its control, task by task, and write a report."""
    # Every setting of a study has the name of its option: see the test that holds the two lists against each other.
    given = {name: value for name, value in locals().items() if name not in OTHERS}
    with clear_errors():
        from mechshift_tl.runs.processes import Processes
        from mechshift_tl.study import run_study
        from mechshift_tl.study.config_file import write_config_file
        from mechshift_tl.study.run import most_stages

        file, fields = of.split_config(config)
        study_config, named = of.study_config(quick, file, given)
        asked = tasks or (named or TASKS if data is None else None)
        wanted, how = tasks_of(asked, data), read_as(family, fields, of_pair=True)
        names = ",".join(task.name for task in wanted)
        with results_in(out, fresh, command="run", pair=pair, tasks=names, **study_config.to_dict(), **how) as folder:
            models = open_pair(pair, placed(None) | how)
            for task in wanted:
                print_dropped(task, tokenizer_of(models))
            with console.status("starting") as status:
                stage = Stages(status, 1 + most_stages(len(wanted), len(models.models), study_config))  # and the report
                study = run_study(models, wanted, study_config, folder=folder, progress=stage)
                from mechshift_tl.report import write_report

                Processes.here().once(lambda: write_config_file(study_config, words_for_file(asked, data), folder / "study.toml"))
                stage("report")
                Processes.here().once(lambda: write_report(study, folder / "report.html"))
        _print_study(study)
        said = study.verdicts.sentence()
        print_last(f"{said} Report: {out / 'report.html'}", verdicts=said, report=out / "report.html")


def _print_study(study: Study) -> None:
    """Accuracy, overlaps with what must be said beside them, and faithfulness."""
    if study.conditions.all:
        print_frame("Where the paper's reading would break", study.conditions.to_dataframe(), "conditions")
    print_frame("Held-out accuracy (decoded freely), and how the prompts were found", study.accuracy(), "accuracy")
    print_frame(
        "Edge overlap: Jaccard of circuits, 95 % interval over prompts, floor of random circuits, ceiling of one model",
        study.overlap_table(),
        "overlap",
    )
    for task, one in study.tasks.items():
        for role, comparison in one.comparisons.items():
            console.print(" ".join([f"{task}, ARM → {role}: {comparison.verdict}", *one.notes(role)]))
        if one.evidence is not None:
            n = int(one.evidence.faithfulness["n"].min())
            title = f"{task}: faithfulness of each circuit in each model on {n} prompts kept apart, 95 %, and of random circuits"
            print_frame(title, one.evidence.grid(), f"{task}.faithfulness")
