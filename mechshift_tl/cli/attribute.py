"""`mechshift attribute`: one model's edge scores, and its circuit."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from mechshift_tl.cli.circuit_files import found_on
from mechshift_tl.cli.console import console, print_frame, print_last, print_notes
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import (
    KV,
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
from mechshift_tl.cli.prompts import draw, means_over, print_prompts
from mechshift_tl.cli.results import claim, results_in, told_apart, written_to
from mechshift_tl.cli.scoring import (
    BackwardRules,
    GapGiven,
    InterventionName,
    MeansN,
    MethodName,
    MetricName,
    RuleGiven,
    StepsGiven,
    check_choice,
    check_least,
    means_count,
    scoring,
)
from mechshift_tl.cli.task_options import Data, TaskName, named, task_of

if TYPE_CHECKING:
    from mechshift_tl.attribution import EdgeScores
    from mechshift_tl.circuits import Circuit
    from mechshift_tl.tasks.examples import Examples


def attribute(
    model: ModelName,
    task: TaskName = None,
    data: Data = None,
    n: Annotated[int | None, typer.Option(help="Examples; default all of a file, or 200.")] = None,
    out: Out = None,
    method: MethodName = "EAP-IG-inputs",
    metric: MetricName = "logit_diff",
    intervention: InterventionName = "counterfactual",
    means_n: MeansN = None,
    ig_steps: StepsGiven = None,
    rule: RuleGiven = None,
    gap: GapGiven = None,
    backward: BackwardRules = None,
    kv: KV = "grouped",
    edges: Annotated[int | None, typer.Option(help="Edges in the circuit; default min(1000, 5 % of all).")] = None,
    fraction: Annotated[float | None, typer.Option(help="Instead: a share of the possible edges.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Instead: the edges whose |score| is at least this.")] = None,
    by: Annotated[str, typer.Option(help="What ranks edges: magnitude (|score|) or signed (score).")] = "magnitude",
    greedy: Annotated[bool, typer.Option("--greedy", help="Walk back from the logits instead of ranking all edges at once.")] = False,
    select: Annotated[
        str,
        typer.Option(
            "--select",
            help="Which edges: strongest, consistent (sign holds over prompts drawn anew), frequent (most often among the strongest), "
            "or optimal (the best connected circuit, exactly). The second and third need --keep-per-example.",
        ),
    ] = "strongest",
    no_prune: Annotated[bool, typer.Option("--no-prune", help="Keep edges that lie on no path from input to logits.")] = False,
    keep_per_example: Annotated[
        bool, typer.Option("--keep-per-example", help="Keep every example's own scores, for intervals and stability.")
    ] = False,
    top: Annotated[int, typer.Option(min=0, help="Edges printed.")] = 15,
    seed: Seed = 0,
    device_map: DeviceMap = None,
    family: Family = None,
    config: ConfigFields = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score the edges of one model on one task and cut its circuit."""
    with clear_errors():
        from mechshift_tl.attribution import EdgeScores
        from mechshift_tl.attribution.attribute import attribute_edges
        from mechshift_tl.circuits import Circuit
        from mechshift_tl.circuits.select import Choice, Rank, Selection, check_size
        from mechshift_tl.graph import Graph
        from mechshift_tl.readouts import Readouts, readouts
        from mechshift_tl.runs.processes import Processes
        from mechshift_tl.runs.stages import Stages

        settings = scoring(
            method, metric, intervention, kv, ig_steps=ig_steps, rule=rule, gap=gap, backward=backward, keep_per_example=keep_per_example
        )
        choice = check_choice("--select", select, get_args(Choice))
        # It refuses another `by`.
        selection = Selection(edges, fraction, threshold, cast(Rank, by), greedy, prune=not no_prune, choose=choice)
        if choice in ("consistent", "frequent") and not keep_per_example:
            raise ValueError(f"--select {choice} needs every example's own scores; add --keep-per-example")
        name, file = named(task, data)
        apart_n, chosen, place = means_count(intervention, means_n), task_of(name, file), placed(device_map) | read_as(family, config)
        check_least("--n", n, 1)
        job: dict[str, object] = {"command": "attribute", "model": model, "task": chosen.name, "n": n, "edges": edges, "seed": seed}
        cut = {name: value for name, value in asdict(selection).items() if name not in ("n", "zeros")}
        job |= {**settings.to_dict(), **cut, "data": told_apart(file), "means_n": apart_n}
        job |= read_as(family, config)
        with results_in(out, fresh, **job) as folder:
            opened = open_model(model, place)
            if edges is not None:
                check_size(edges, Graph.of(opened, settings.kv))
            # None takes all prompts of a file. A task that makes its own prompts has no end, so it gets 200.
            examples, apart = draw(chosen, opened.tokenizer, 200 if n is None and file is None else n, apart_n, seed)
            print_prompts(examples, chosen)
            stages, written = Stages(folder), "scores.safetensors"
            claim(stages, {"model": opened}, examples)
            decoded = stages.value("decoded.json", lambda: chosen.accuracy(opened, examples))
            console.print(f"Accuracy, decoded freely: {decoded:.3f} (n = {len(examples)})")
            made = stages.draft("readouts.safetensors", Readouts.load, lambda: readouts(opened, examples, seed=seed))
            means = means_over(opened, apart, intervention, seed, stages)
            asked = partial(attribute_edges, opened, made, settings, means=means)
            # The journal belongs to the scores: it goes when they are written.
            scores: EdgeScores = stages.result(written, EdgeScores.load, lambda: asked(journal=stages.journal(written)))
            circuit = found_on(Circuit.select(scores, selection), examples)
            if folder is not None:
                Processes.here().once(lambda: _save(folder, scores, circuit, examples, opened.cfg.d_model))
        _print_scores(scores, circuit, top)
        print_last(f"{_size(circuit)}{written_to(out)}", circuit={"kept": circuit.kept, "requested": circuit.requested}, out=out)


def _print_scores(scores: EdgeScores, circuit: Circuit, top: int) -> None:
    asked = scores.settings
    assert asked is not None
    end = "corrupt" if asked.intervention == "counterfactual" else f"from {asked.intervention} inputs"
    console.print(f"{asked.metric}: clean {scores.clean:.3f}, {end} {scores.corrupt:.3f}")
    if not asked.learns:  # ranks do not add up to anything
        console.print(f"Completeness gap: {100 * scores.completeness_gap:.1f} % of their difference")
    if scores.example_gap is not None:
        left = f"{100 * scores.example_gap:.1f} % left to the mean prompt"
        console.print(f"Points: {scores.points}, found in {scores.passes} passes; {left}")
    print_frame(f"Top {top} edges by |score|", scores.top(top), "edges")


def _size(circuit: Circuit) -> str:
    return f"Circuit: {circuit.kept} edges kept of {circuit.requested} requested, of {circuit.graph.n_edges} possible"


def _save(folder: Path, scores: EdgeScores, circuit: Circuit, examples: Examples, d_model: int) -> None:
    """Save a circuit as an artefact, a table, a graph file of EAP-IG with the scores of all edges, and a picture. Save its prompts."""
    from mechshift_tl.circuits import write_graph
    from mechshift_tl.report.page import write_page

    circuit.save(folder / "circuit.safetensors")
    circuit.to_dataframe().to_csv(folder / "circuit.csv", index=False)
    write_graph(circuit, folder / "circuit.json", scores=scores, d_model=d_model)
    examples.write_csv(folder / "prompts.csv")
    if circuit.kept:
        write_page(circuit.figure(), folder / "circuit.html", f"Circuit of {circuit.kept} edges on {examples.task}")
    else:
        print_notes(["the circuit is empty, so there is no picture of it"])
