"""The tables of a report, as plain rows for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mechshift_tl.evaluation.transfer import Transfer
from mechshift_tl.intervals import judged
from mechshift_tl.study.results import OverlapRow, Study, TaskStudy

EDGES_SHOWN = 15
PROMPTS_SHOWN = 3

#: The rows of one table of the page.
Rows: TypeAlias = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class OverlapLine:
    """A row of `Study.overlaps` with what must be said beside it: the word of its verdict, the numbers in words, and notes."""

    row: OverlapRow
    head: str
    finding: str
    notes: list[str]


def overlap_lines(study: Study) -> list[OverlapLine]:
    """Every comparison of every task."""
    found = [(one, role, c) for one in study.tasks.values() for role, c in one.comparisons.items()]
    return [
        OverlapLine(row, judged(c.supported), c.finding, one.notes(role))
        for row, (one, role, c) in zip(study.overlaps(), found, strict=True)
    ]


def faithfulness_rows(task: TaskStudy) -> Sequence[Transfer]:
    """Every circuit in every model; empty where none was run."""
    return () if task.evidence is None else task.evidence.runs


def area_rows(task: TaskStudy) -> Rows:
    """Role, CPR and CMD of every curve."""
    curves = {} if task.evidence is None else task.evidence.curves
    return [{"role": role, "cpr": curve.cpr, "cmd": curve.cmd, "n": curve.n_examples} for role, curve in curves.items()]


def validity_rows(task: TaskStudy) -> Rows:
    """Every model's methods against exact patching, over all edges measured."""
    measured = {} if task.evidence is None else task.evidence.validity
    return [{"role": role} | row for role, one in measured.items() for row in one.table.query("edges == 'all'").to_dict("records")]


def sizes(study: Study) -> dict[str, int]:
    """What every comparison of a study has in common: edges `requested`, components compared (`k`), layers that are early (`cut`)."""
    first = next(iter(next(iter(study.tasks.values())).comparisons.values()))
    return {"requested": first.requested[0], "k": first.settings.k, "cut": first.settings.cut}


def model_rows(study: Study) -> Rows:
    """Role, source and spec of every model."""
    specs = study.provenance["specs"]
    return [{"role": role, "source": source, "spec": specs[role]} for role, source in study.provenance["models"].items()]


def versions(study: Study) -> dict[str, str]:
    """Package → version, as the first task's scores recorded them."""
    first = next(iter(study.tasks.values()))
    found = next(iter(first.scores.values())).provenance.get("versions")
    return {str(name): str(version) for name, version in found.items()} if isinstance(found, dict) else {}


def edge_tables(task: TaskStudy) -> dict[str, Rows]:
    """Role → its strongest edges, and in which models' circuits each lies."""
    circuits = {role: circuit.edge_set() for role, circuit in task.circuits.items()}
    tables = {}
    for role, scores in task.scores.items():
        rows = scores.top(EDGES_SHOWN).to_dict("records")
        tables[role] = [{**row, **_holders(role, (row["writer"], row["reader"]), circuits)} for row in rows]
    return tables


def _holders(role: str, edge: tuple[str, str], circuits: dict[str, frozenset[tuple[str, str]]]) -> Mapping[str, object]:
    """`pruned` where the model's own circuit lacks the edge, `shared` with which other models' circuits."""
    return {"pruned": edge not in circuits[role], "shared": [other for other in circuits if other != role and edge in circuits[other]]}


def prompt_rows(task: TaskStudy) -> Rows:
    """The first prompts, clean and corrupt."""
    return task.pool.examples.to_dataframe().head(PROMPTS_SHOWN).to_dict("records")
