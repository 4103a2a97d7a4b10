"""`mechshift evaluate`: a circuit tested in several ways, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from mechshift_tl.cli import circuit_files
from mechshift_tl.cli.console import print_last, print_notes
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import (
    MOST_DRAWS,
    AsJson,
    ConfigFields,
    DeviceMap,
    Family,
    Fresh,
    ModelName,
    Out,
    Quiet,
    Seed,
    open_model,
    placed,
    read_as,
)
from mechshift_tl.cli.results import results_in, told_apart, written_to
from mechshift_tl.cli.scoring import MeansN, check_choice, check_intervention_name, check_least, means_count
from mechshift_tl.cli.task_options import Data, TaskName, named, task_of

if TYPE_CHECKING:
    from mechshift_tl.cli.measuring import Asked
    from mechshift_tl.evaluation.run import RunSettings


def evaluate(
    model: ModelName,
    circuit: Annotated[Path, typer.Option(help="circuit.safetensors of mechshift, or a graph file (.json, .pt) of EAP-IG or MIB.")],
    task: TaskName = None,
    data: Data = None,
    n: Annotated[int | None, typer.Option(help="Examples that the circuit was not found on; default all of a file, or 100.")] = None,
    out: Out = None,
    scores: Annotated[
        Path | None, typer.Option(help="Scores of all edges, for stability and --curve; default those beside the circuit.")
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Also faithfulness over circuit size, with CPR and CMD.")] = False,
    others: Annotated[
        str | None, typer.Option(help="Other corruptions to generalise to, separated by commas; default all that ioi makes; or none.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="logit_diff, prob_diff, log_prob or kl; default the circuit's own.")] = None,
    intervention: Annotated[
        str | None,
        typer.Option(help="What edges outside are given: counterfactual, zero, mean, mean_positional; default the circuit's own."),
    ] = None,
    means_n: MeansN = None,
    parts: Annotated[str, typer.Option(help="What minimality leaves out in turn: components, edges or tenths of them.")] = "components",
    n_random: Annotated[
        int, typer.Option(max=MOST_DRAWS, help="Random circuits behind the floors; at most 5 of them at each size of the curve.")
    ] = 10,
    n_resamples: Annotated[int, typer.Option(max=MOST_DRAWS, help="Circuits of resampled prompts behind stability.")] = 100,
    reuse_prompts: Annotated[
        bool, typer.Option("--reuse-prompts", help="Do not leave out the prompts that the circuit was found on, which flatter it.")
    ] = False,
    seed: Seed = 0,
    device_map: DeviceMap = None,
    family: Family = None,
    config: ConfigFields = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a circuit: sufficiency, necessity, minimality, stability, generalisation, each beside random circuits of its profile."""
    with clear_errors():
        from mechshift_tl.attribution.metrics import resolve
        from mechshift_tl.cli.measuring import UNTOLD, Work
        from mechshift_tl.evaluation.evaluate import Parts
        from mechshift_tl.runs.processes import Processes
        from mechshift_tl.runs.provenance import text_digest
        from mechshift_tl.runs.stages import Stages

        for option, value in {"--n": n, "--n-random": n_random, "--n-resamples": n_resamples}.items():
            check_least(option, value, 1)
        left_out_in_turn: Parts = check_choice("--parts", parts, get_args(Parts))
        kind, file = named(task, data)
        chosen, found, place = task_of(kind, file), circuit_files.load_circuit(circuit), placed(device_map) | read_as(family, config)
        name = check_intervention_name(intervention or found.intervention or "counterfactual")
        measure = metric or found.metric or "logit_diff"
        settings: RunSettings = {"metric": measure, "intervention": name}
        resolve(measure)
        elsewhere = circuit_files.other_corruptions(chosen.name, file, others, name)
        apart_n = means_count(name, means_n)
        asked: Asked = {"parts": left_out_in_turn, "n_random": n_random, "n_resamples": n_resamples}
        found_scores = circuit_files.scores_path(scores, circuit)
        if curve and found_scores is None:
            raise ValueError(f"--curve needs the scores of all edges, and none lie beside {circuit}; give them with --scores")
        all_edges = circuit_files.load_scores(found_scores, found)
        told = circuit_files.prompts_of(found, circuit)
        left_out = set() if reuse_prompts else told or set()
        job: dict[str, object] = {"command": "evaluate", "model": model, "task": chosen.name, "n": n, "means_n": apart_n, "seed": seed}
        files = {"circuit": circuit, "scores": found_scores, "data": file}
        # Another list of prompts beside the circuit leaves out others, so a stopped run cannot go on with it.
        job["left_out"] = text_digest(repr(sorted(left_out)))
        job |= {**settings, **asked, "curve": curve, "others": list(elsewhere), **{key: told_apart(path) for key, path in files.items()}}
        job |= read_as(family, config)
        with results_in(out, fresh, **job) as folder:
            opened = open_model(model, place)
            if told is None:
                print_notes([f"nothing beside {circuit} tells {UNTOLD}"])
            if all_edges is None or all_edges.per_example is None:
                print_notes(["no stability: it needs scores that mechshift attribute wrote with --keep-per-example, beside the circuit"])
            tasks = {name: circuit_files.apart(one, left_out) for name, one in elsewhere.items()}
            work = Work(
                circuit_files.fitted(found, circuit, opened), all_edges, circuit_files.apart(chosen, left_out), tasks,
                100 if n is None and file is None else n, apart_n, settings, asked, curve, seed, UNTOLD if told is None else "",
            )  # fmt: skip
            measured = work.run(opened, Stages(folder))
            if folder is not None:
                Processes.here().once(lambda: measured.save(folder))
        measured.print()
        print_last(f"{measured.sentence()}{written_to(out)}", out=out)
