"""The circuit that a command was given; the scores that it was cut from and the prompts that it was found on, if they lie beside it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mechshift_tl.cli.errors import opening
from mechshift_tl.cli.options import words_of

if TYPE_CHECKING:
    from mechshift_tl.attribution import EdgeScores
    from mechshift_tl.bridge.protocol import HookedModel
    from mechshift_tl.circuits import Circuit
    from mechshift_tl.tasks import Task
    from mechshift_tl.tasks.examples import Examples

GRAPH_FILES = (".json", ".pt")
#: The entry of a circuit's provenance that holds the prompts it was found on.
PROMPTS = "prompts"
FOUND = "the circuit was found on them (--reuse-prompts keeps them)"


def load_circuit(path: Path, n_kv_heads: int | None = None) -> Circuit:
    """A circuit of ours, or of a graph file of EAP-IG or MIB, whose model has `n_kv_heads` where the file does not say.

    Raises ValueError when there is no such file, when it is something else, or when the circuit has no edge.
    """
    from mechshift_tl.circuits import Circuit, read_graph

    _check_file("--circuit", path)
    with opening(str(path)):
        circuit = read_graph(path, n_kv_heads) if path.suffix in GRAPH_FILES else Circuit.load(path)
    if not circuit.kept:
        raise ValueError(f"{path} holds a circuit without edges, of which there is nothing to evaluate; select more")
    return circuit


def fitted(circuit: Circuit, path: Path, model: HookedModel) -> Circuit:
    """`circuit`, read again where its graph file did not say how many KV heads there are.

    Raises ValueError when the model's graph is another, and when the circuit was found in a model of other weights or read otherwise.
    """
    from mechshift_tl.graph import Graph, check_same_graph
    from mechshift_tl.runs.provenance import check_same_origin, provenance

    n_kv_heads = Graph.of(model).n_kv_heads
    # Such a file was read as if every query head had a KV head of its own.
    if path.suffix in GRAPH_FILES and circuit.graph.n_kv_heads != n_kv_heads:
        circuit = load_circuit(path, n_kv_heads)
    check_same_graph(circuit.graph, Graph.of(model, circuit.graph.kv))
    check_same_origin({"--model": provenance(model, {}), "--circuit": circuit.provenance}, same=("weights", "spec"))
    return circuit


def scores_path(asked: Path | None, circuit: Path) -> Path | None:
    """The file of scores asked for, or that of the same name beside a circuit of ours, or None where there is none."""
    beside = circuit.with_name(circuit.name.replace("circuit", "scores"))
    # A name without "circuit" in it is replaced by itself: then the circuit would be taken for its own scores.
    is_there = circuit.suffix not in GRAPH_FILES and beside != circuit and beside.is_file()
    return asked or (beside if is_there else None)


def load_scores(path: Path | None, circuit: Circuit) -> EdgeScores | None:
    """The scores of all edges in a file; None for None. Raises ValueError when they are not of the circuit's graph, model or task."""
    from mechshift_tl.attribution import EdgeScores
    from mechshift_tl.circuits import read_graph_scores
    from mechshift_tl.graph import check_same_graph
    from mechshift_tl.runs.provenance import check_same_origin

    if path is None:
        return None
    _check_file("--scores", path)
    with opening(str(path)):
        scores = read_graph_scores(path, circuit.graph.n_kv_heads) if path.suffix in GRAPH_FILES else EdgeScores.load(path)
    check_same_graph(circuit.graph, scores.graph)
    check_same_origin({"--circuit": circuit.provenance, "--scores": scores.provenance})
    return scores


def found_on(circuit: Circuit, examples: Examples) -> Circuit:
    """`circuit`, with the prompts that it was found on in its provenance: `evaluate` leaves these out."""
    return replace(circuit, provenance=circuit.provenance | {PROMPTS: sorted({example.pair.prompt for example in examples})})


def prompts_of(circuit: Circuit, path: Path) -> set[str] | None:
    """The prompts that a circuit was found on; None where nothing says so.

    Our own files name the prompts. A graph file does not: then the `.safetensors` file of the same name is read, or `prompts.csv` beside
    it.
    """
    from mechshift_tl.circuits import Circuit

    beside = path.with_suffix(".safetensors")
    if path.suffix in GRAPH_FILES and beside.is_file():
        circuit = Circuit.load(beside)
    told = circuit.provenance.get(PROMPTS)
    if isinstance(told, list):
        return {str(prompt) for prompt in told}
    table = path.with_name("prompts.csv")
    if not table.is_file():
        return None
    # "utf-8-sig": a spreadsheet writes a byte order mark, which would become a part of the first column's name.
    with opening(str(table)), table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    # A spreadsheet may have saved the table with another separator or header: then it does not tell the prompts.
    return {row["prompt"] for row in rows if row["prompt"]} if rows and "prompt" in rows[0] else None


def apart(task: Task, prompts: set[str]) -> Task:
    """`task` without those prompts."""
    from mechshift_tl.tasks.excluding import Excluding

    return Excluding(task, prompts, FOUND) if prompts else task


def other_corruptions(task: str, data: Path | None, names: str | None, intervention: str) -> dict[str, Task]:
    """The task under other corruptions, by name: those in `names`, by default all that the task can make; none for "none".

    Raises ValueError on names that the task, or the file, does not have, and where the intervention patches from no corrupt prompt.
    """
    from mechshift_tl.tasks import IOI
    from mechshift_tl.tasks.ioi import Corruption

    if names is None:
        applies = task == "ioi" and data is None and intervention == "counterfactual"
        # The first corruption is the task's own.
        names = ",".join(get_args(Corruption)[1:]) if applies else "none"
    wanted: list[Any] = [] if names == "none" else words_of(names)
    if wanted and task != "ioi":
        raise ValueError(f"--others {names}: task {task!r} has one corruption; leave it out")
    if wanted and intervention != "counterfactual":
        raise ValueError(f"--others {names}: intervention {intervention!r} takes nothing from corrupt prompts; leave one of them out")
    return {name: IOI(corruption=name) if data is None else IOI.from_csv(data, corruption=name) for name in wanted}


def _check_file(option: str, path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{option} {path} does not exist; give a file that mechshift attribute wrote, or a graph file (.json, .pt)")
