"""The command `mechshift`: a study of a pair, the circuit of one model, the accuracy of a pair, the cost of either beforehand.

Settings and inputs are checked before any work. A bad one ends the command with one line and exit status 2; results are written beside the
output folder first and moved there whole, so an interrupted run leaves nothing that looks finished, and started again goes on where it
stopped (`workplace`). Of processes launched together only the first prints and writes.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

    from mechshift_tl.circuits.circuit import Circuit
    from mechshift_tl.tasks import Task
    from mechshift_tl.tasks.task import Examples

SUMMARY = "Circuits of autoregressive and masked-diffusion language models: found, compared, reported."
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=SUMMARY)
#: How long a failed process leaves its launcher to end it, before it speaks for itself.
LAUNCHER_SECONDS = 3
console = Console(markup=False)  # what is printed may hold brackets of its own

PairName = Annotated[str, typer.Option("--pair", help="Name of a bundled pair, or a folder that holds arm, mdm and tokenizer.")]
TaskNames = Annotated[str, typer.Option("--tasks", help="Tasks, separated by commas.")]
Seed = Annotated[int, typer.Option(help="Seed of prompts, floors and intervals.")]
Steps = Annotated[int, typer.Option(help="Points on the integration path.")]
Rule = Annotated[str, typer.Option(help="Where they lie: midpoint, gauss-legendre, right or left.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Discard what a stopped run into the same folder has finished.")]
KV = Annotated[str, typer.Option(help="K and V readers per KV head (grouped) or per query head (ungrouped).")]


@app.command()
def run(
    pair: PairName,
    out: Annotated[Path, typer.Option(help="New or empty folder for artefacts and report.html.")],
    tasks: TaskNames = "ioi,countdown",
    n: Annotated[int, typer.Option(help="Prompts per task that ARM and MDM read correctly.")] = 200,
    edges: Annotated[int | None, typer.Option(help="Edges per circuit; default min(1000, 5 % of all).")] = None,
    components: Annotated[int | None, typer.Option(help="K of the component overlap; default min(100, 10 % of all).")] = None,
    held_out: Annotated[int, typer.Option(help="Further prompts on which circuits are run in every model; 0 runs none.")] = 40,
    ig_steps: Steps = 5,
    rule: Rule = "midpoint",
    kv: KV = "grouped",
    seed: Seed = 0,
    fresh: Fresh = False,
) -> None:
    """Compare the circuits of an ARM, its MDM and its control, task by task, and write a report."""
    with clear_errors():
        from mechshift_tl.processes import Team
        from mechshift_tl.study import StudyConfig, run_study

        settings: dict[str, Any] = {"n": n, "seed": seed, "ig_steps": ig_steps, "rule": rule, "kv": kv, "held_out": held_out}
        config = StudyConfig(**settings, edges=edges, components=components)
        wanted = _tasks(tasks)
        with _workplace(out, fresh, command="run", pair=pair, tasks=tasks, **config.to_dict()) as folder:
            models = _pair(pair)
            with console.status("starting") as status:
                study = run_study(models, wanted, config, folder=folder, progress=lambda stage: _stage(status, stage))
                from mechshift_tl.report import write_report

                _stage(status, "report")
                Team.here().once(lambda: (study.save(folder), write_report(study, folder / "report.html")))
        _print_frame("Held-out accuracy (decoded freely), and how the prompts were found", study.accuracy())
        _print_frame(
            "Edge overlap: Jaccard of circuits, 95 % interval over prompts, floor of random circuits, ceiling of one model",
            study.overlap_table(),
        )
        for task, one in study.tasks.items():
            for role, comparison in one.comparisons.items():
                console.print(" ".join([f"{task}, ARM → {role}: {comparison.verdict}", *one.notes(role)]))
            if one.evidence is not None:
                n = int(one.evidence.faithfulness["n"].min())
                title = f"{task}: faithfulness of each circuit in each model on {n} prompts kept apart, 95 %, and of random circuits"
                _print_frame(title, one.evidence.grid())
        console.print(f"Report: {out / 'report.html'}", soft_wrap=True)


@app.command()
def attribute(
    model: Annotated[str, typer.Option(help="Checkpoint folder, GGUF file, or hub id (org/name@revision).")],
    task: Annotated[str, typer.Option(help="ioi or countdown.")],
    data: Annotated[Path | None, typer.Option(help="CSV (ioi) or JSON lines (countdown) to take prompts from.")] = None,
    n: Annotated[int | None, typer.Option(help="Examples; default all of a file, or 200.")] = None,
    out: Annotated[Path | None, typer.Option(help="New or empty folder for scores and circuit.")] = None,
    edges: Annotated[int | None, typer.Option(help="Edges in the circuit; default min(1000, 5 % of all).")] = None,
    top: Annotated[int, typer.Option(help="Edges printed.")] = 15,
    ig_steps: Steps = 5,
    rule: Rule = "midpoint",
    kv: KV = "grouped",
    seed: Seed = 0,
    fresh: Fresh = False,
    device_map: Annotated[str | None, typer.Option(help='Where layers go: "auto", …, or JSON, {"module": "cpu" | "disk" | 0, …}.')] = None,
) -> None:
    """Score the edges of one model on one task and cut its circuit."""
    with clear_errors():
        from hooked_diffusion import HookedDiffusionTransformer
        from mechshift_tl.attribution import EdgeScores
        from mechshift_tl.attribution.attribute import attribute as attribute_edges
        from mechshift_tl.attribution.path import quadrature
        from mechshift_tl.circuits.circuit import Circuit
        from mechshift_tl.circuits.select import check_size
        from mechshift_tl.graph import Graph
        from mechshift_tl.processes import Team
        from mechshift_tl.readouts import Readouts, readouts
        from mechshift_tl.stages import Stages

        settings: dict[str, Any] = {"ig_steps": ig_steps, "rule": rule, "kv": kv}
        quadrature(settings["rule"], ig_steps)
        chosen, placed = _task_of(task, data), _placed(device_map)
        job = {"command": "attribute", "model": model, "task": task, "data": str(data), "n": n, "edges": edges, "seed": seed, **settings}
        with _workplace(out, fresh, **job) as folder:
            opened = HookedDiffusionTransformer.from_pretrained(model, **placed)
            if edges is not None:
                check_size(edges, Graph.of(opened, settings["kv"]))
            for note in opened.source.get("notes", []):
                console.print(f"Note: {note}")
            examples = chosen.examples(opened.tokenizer, 200 if n is None and data is None else n, seed)
            console.print(f"{len(examples)} examples of {task}" + "".join(f"; {c} dropped: {why}" for why, c in examples.dropped.items()))
            stages, name = Stages(folder), "scores.safetensors"
            decoded = stages.value("decoded.json", lambda: chosen.accuracy(opened, examples))
            console.print(f"Accuracy, decoded freely: {decoded:.3f} (n = {len(examples)})")
            made = stages.draft("readouts.safetensors", Readouts.load, lambda: readouts(opened, examples, seed=seed))
            scoring = partial(attribute_edges, opened, made, **settings, journal=stages.journal(name))
            scores: EdgeScores = stages.result(name, EdgeScores.load, scoring)
            circuit = Circuit.from_scores(scores, edges)
            if folder is not None:
                Team.here().once(lambda: _save_circuit(folder, circuit, examples))
        console.print(f"Logit difference: clean {scores.clean:.3f}, corrupt {scores.corrupt:.3f}")
        console.print(f"Completeness gap of the path: {100 * scores.completeness_gap:.1f} % of their difference")
        console.print(f"Circuit: {circuit.kept} edges kept of {circuit.requested} requested, of {scores.graph.n_edges} possible")
        _print_frame(f"Top {top} edges by |score|", scores.top(top))
        if out is not None:
            console.print(f"Written: {out}")


@app.command()
def accuracy(
    pair: PairName,
    tasks: TaskNames = "ioi,countdown",
    n: Annotated[int, typer.Option(help="Held-out examples per task.")] = 500,
    seed: Seed = 0,
) -> None:
    """Held-out accuracy of every model of a pair, decoded freely, with its 95 % interval (Wilson)."""
    with clear_errors():
        import pandas as pd
        from scipy.stats import binomtest

        wanted, models, rows = _tasks(tasks), _pair(pair), []
        for task in wanted:
            examples = task.examples(models.tokenizer, n, seed)
            for role, model in models.models.items():
                share = task.accuracy(model, examples)
                low, high = binomtest(round(share * n), n).proportion_ci(method="wilson")
                rows.append({"task": task.name, "model": role, "accuracy": share, "low": low, "high": high, "n": n})
        _print_frame(f"Held-out accuracy of {pair}", pd.DataFrame(rows))


@app.command()
def models() -> None:
    """List the natural pairs that --pair knows by name: where they are, under which licence, and how much memory their weights take."""
    from hooked_diffusion.known import models as known
    from hooked_diffusion.pairs import bundled_pairs

    frame = known().astype({"GiB (bf16)": str})
    frame.insert(1, "ARM → MDM", frame.pop("ARM") + "\n→ " + frame.pop("MDM"))
    _print_frame("Pairs on the hub; licences as third parties report them", frame)
    console.print(f"Bundled: {', '.join(bundled_pairs())}. Evidence: P code, T third parties, U unverified")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint folder, GGUF file, or hub id (org/name@revision).")],
    out: Annotated[Path, typer.Argument(help="New or empty folder for the native checkpoint.")],
    family: Annotated[str | None, typer.Option(help="Family, where the config does not tell it.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Such as bfloat16; default: as stored.")] = None,
) -> None:
    """Write a checkpoint as a native folder that plain transformers opens too, with the same logits."""
    with clear_errors():
        from hooked_diffusion.checkpoints import convert as convert_checkpoint

        with whole_folder(out) as folder, console.status(f"converting {source}"):
            written = convert_checkpoint(source, folder, family=family, dtype=dtype)
        for note in written.source["notes"]:
            console.print(f"Note: {note}")
        spec, native = written.spec, type(written.hf_model).__name__
        console.print(f"{native}, {spec.direction} attention, logit shift {spec.logit_shift}, mask {spec.mask_token_id}")
        if spec.attention == "block":
            console.print("Note: plain transformers needs the block-causal mask with every call")
        console.print(f"Written: {out}")


@app.command()
def plan(
    pair: Annotated[str, typer.Option("--pair", help="A public pair by name, a bundled one, a folder, a GGUF file, or a hub id.")],
    task: Annotated[str, typer.Option(help="ioi or countdown.")] = "countdown",
    n: Annotated[int, typer.Option(help="Prompts.")] = 500,
    tokens: Annotated[int | None, typer.Option(help="Tokens per row; default counted, where a tokenizer is at hand.")] = None,
    read: Annotated[int | None, typer.Option(help="Answer tokens read per prompt; default counted likewise, or 1.")] = None,
    batch: Annotated[str, typer.Option(help="Rows at a time, separated by commas.")] = "8",
    dtype: Annotated[str, typer.Option(help="Dtypes of the weights, separated by commas.")] = "float32,bfloat16",
    flops: Annotated[float, typer.Option(help="Operations per second of the device, as it reaches them.")] = 1e14,
    ig_steps: Steps = 5,
    kv: KV = "grouped",
    seed: Seed = 0,
) -> None:
    """Count what attributing a model will take, without its weights: edges, operations, time, memory, disk."""
    with clear_errors():
        from hooked_diffusion.shapes import find_shape
        from mechshift_tl import plan as planning
        from mechshift_tl.attribution.path import quadrature

        settings: dict[str, Any] = {"ig_steps": ig_steps, "kv": kv, "rate": flops, "dtypes": _words(dtype)}
        quadrature("midpoint", ig_steps)
        batches = [_number(word, "--batch") for word in _words(batch)]
        shape, chosen = find_shape(pair), _task_of(task, None)
        tokenizer = None if tokens is not None else shape.tokenizer()
        if tokens is None and tokenizer is None:
            raise ValueError(f"no tokenizer of {pair} is at hand to count tokens with; state them with --tokens (and --read)")
        if tokens is None:
            work = planning.workload_of(chosen, tokenizer, n, seed)
        else:
            work = planning.Workload(n, n * (1 if read is None else read), tokens)
        with console.status("running it without data"):
            made = planning.plan(shape.config, work, name=shape.name, batches=batches, notes=shape.notes, **settings)
        for note in made.notes:
            console.print(f"Note: {note}")
        _print_frame(f"Plan of {pair}: {task}, n = {n}", made.summary())
        _print_frame("Memory", made.to_dataframe())


@app.command("version")
def print_version() -> None:
    """Print the versions that a result depends on."""
    for package in ("mechshift-tl", "transformer-lens", "transformers", "torch"):
        console.print(f"{package} {version(package)}")


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn the errors that a user can mend into one line and exit status 2, and the end of a run that had ended before into none.

    Of processes launched together the first speaks for all; another, failing alone, waits for the launcher to end it first.
    """
    from mechshift_tl.memory import is_out_of_memory
    from mechshift_tl.processes import ProcessFailed, Team
    from mechshift_tl.workplace import AlreadyFinished

    team = Team()
    try:
        team = Team.here()
        console.quiet = not team.is_first
        with _notes():
            yield
        team.part()
    except AlreadyFinished as finished:
        console.print(str(finished))
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError, RuntimeError) as error:
        known = not isinstance(error, RuntimeError) or isinstance(error, ProcessFailed) or is_out_of_memory(error)
        if not known:
            raise
        if not team.is_first:
            time.sleep(LAUNCHER_SECONDS)
        if team.is_first or not isinstance(error, ProcessFailed):
            Console(stderr=True).print(Text.assemble(("Error:", "bold red"), f" {error or 'out of memory'}"), soft_wrap=True)
        raise typer.Exit(2) from error


@contextmanager
def _notes() -> Iterator[None]:
    """Print what an attribution warns of as notes."""
    from mechshift_tl.attribution.sweep import BatchHalved

    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Any, *details: Any) -> None:
            if isinstance(message, BatchHalved):
                console.print(f"Note: {message}")
            else:
                shown(message, *details)

        warnings.showwarning = show
        yield


@contextmanager
def _workplace(out: Path | None, fresh: bool, **settings: Any) -> Iterator[Any]:
    """The folder that becomes `out`, of a run that can be stopped and continued; None stays None."""
    if out is None:
        yield None
        return
    from mechshift_tl.provenance import versions
    from mechshift_tl.workplace import workplace

    with workplace(out, {**settings, "versions": versions()}, fresh=fresh, say=console.print) as folder:
        yield folder


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when the block ends well, and vanishes when it does not.

    Raises ValueError when `out` is a file or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"output folder {out} is not empty; name a new one, or empty it")
    partial = out.with_name(f".{out.name}.draft")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _tasks(names: str) -> list[Task]:
    from mechshift_tl.tasks import task_class

    return [task_class(name.strip())() for name in names.split(",") if name.strip()]


def _task_of(name: str, data: Path | None) -> Task:
    from mechshift_tl.tasks import IOI, Countdown, task_class

    chosen = task_class(name)
    if data is None:
        return chosen()
    if not data.is_file():
        raise ValueError(f"data file {data} does not exist")
    return IOI.from_csv(data) if chosen is IOI else Countdown.from_jsonl(data)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _number(word: str, option: str) -> int:
    if not word.isdigit():
        raise ValueError(f"{option} holds {word!r}; give whole numbers, separated by commas")
    return int(word)


def _placed(device_map: str | None) -> dict[str, Any]:
    """Where a model goes: as the map says, or to this process's own device."""
    from mechshift_tl.processes import Team

    if device_map is None:
        return {"device": Team.here().device}
    if Team.here().count > 1:
        raise ValueError("--device-map spreads a model over all devices, which several processes cannot share; launch one, or leave it out")
    try:
        return {"device_map": json.loads(device_map) if device_map.startswith("{") else device_map}
    except ValueError as error:
        raise ValueError(f"--device-map {device_map} is not valid JSON: {error}") from error


def _pair(name: str) -> Any:
    from hooked_diffusion import load_pair
    from mechshift_tl.processes import Team

    with console.status(f"opening {name}"):
        return load_pair(name, device=Team.here().device)


def _save_circuit(folder: Path, circuit: Circuit, examples: Examples) -> None:
    circuit.save(folder / "circuit.safetensors")
    circuit.to_dataframe().to_csv(folder / "circuit.csv", index=False)
    examples.to_dataframe().to_csv(folder / "prompts.csv", index=False)


def _stage(status: Any, stage: str) -> None:
    console.print(f"· {stage}", style="dim")
    status.update(stage)


def _print_frame(title: str, frame: pd.DataFrame) -> None:
    table = Table(title=title, title_justify="left", show_lines=True)
    for name, column in frame.items():
        right = all(isinstance(value, (int, float)) for value in column)
        table.add_column(str(name), justify="right" if right else "left", overflow="fold", no_wrap=str(name).startswith(("ARM", "name")))
    for values in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values))
    console.print(table)


if __name__ == "__main__":
    app()
