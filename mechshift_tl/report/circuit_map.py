"""The circuits of one task as the page draws them: every component's place, and every edge with its score in each model.

A browser lays them out anew for each width, so that nothing is cut off and no text gets small: `templates/circuit.js`.
"""

from __future__ import annotations

from typing import TypedDict

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.graph import Graph
from mechshift_tl.study.results import TaskStudy

#: Edges of each model that the page can draw, strongest first.
EDGES = 400


class Edge(TypedDict):
    """An edge of some circuit. `into`: the components that read it. `scores`: by role, of the circuits that hold it."""

    writer: str
    reader: str
    into: list[str]
    scores: dict[str, float]


class CircuitMap(TypedDict):
    """`layers`, `heads`: of the graph. `kept`: by role, the circuit's edges. `edges`: strongest first."""

    layers: int
    heads: int
    kept: dict[str, int]
    edges: list[Edge]


def circuit_map(task: TaskStudy) -> CircuitMap:
    """What the page needs to draw all circuits of a task."""
    graph = task.circuits["arm"].graph
    found: dict[tuple[str, str], dict[str, float]] = {}
    for role, circuit in task.circuits.items():
        for writer, reader, score in _strongest(circuit):
            found.setdefault((writer, reader), {})[role] = score
    edges: list[Edge] = [{"writer": w, "reader": r, "into": _into(graph, r), "scores": scores} for (w, r), scores in found.items()]
    edges.sort(key=lambda edge: -max(map(abs, edge["scores"].values())))
    kept = {role: circuit.kept for role, circuit in task.circuits.items()}
    return {"layers": graph.n_layers, "heads": graph.n_heads, "kept": kept, "edges": edges}


def _strongest(circuit: Circuit) -> list[tuple[str, str, float]]:
    rows = circuit.to_dataframe().head(EDGES)
    return [(str(w), str(r), float(f"{s:.4g}")) for w, r, s in zip(rows["writer"], rows["reader"], rows["score"], strict=True)]


def _into(graph: Graph, reader: str) -> list[str]:
    return list(graph.components_of(reader)) or ["logits"]
