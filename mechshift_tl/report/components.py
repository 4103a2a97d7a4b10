"""One section per component of some circuit: its edges, what its lens says, its neurons, its attention, and each of them by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.compare.attention import AttentionComparison
from mechshift_tl.compare.neuron_result import NeuronComparison
from mechshift_tl.study.results import TaskStudy
from mechshift_tl.views.lens_table import ComponentLens

#: Components that have a section, edges of each model in it, neurons, and top tokens.
COMPONENTS, EDGES, NEURONS, TOKENS = 120, 6, 8, 3


@dataclass(frozen=True)
class LensLine:
    """What one model's component says, over all reads; `tokens` with their shares of reads. Units: `ComponentLens.to_dataframe`."""

    effect: float
    answer_rank: float
    entropy: float
    tokens: list[tuple[str, float]]


@dataclass(frozen=True)
class EdgeLine:
    """One edge of the component, with its score by role, 0 where that model's circuit lacks it."""

    writer: str
    reader: str
    scores: dict[str, float]


@dataclass(frozen=True)
class StepLine:
    """One step: by role, Σ |score| of the component's edges there and its lens' effect, in logits; None where nothing is read."""

    step: int
    mass: dict[str, float | None]
    effect: dict[str, float | None]


@dataclass(frozen=True)
class Component:
    """What the page shows of a component; mappings are by role. `kind`: in words; `set`: of `component_sets`, empty outside the top."""

    id: str
    kind: str
    set: str
    mass: dict[str, float]
    lens: dict[str, LensLine]
    edges: list[EdgeLine]
    steps: list[StepLine]
    neurons: pd.DataFrame | None
    has_attention: bool


class Patterns(TypedDict):
    """Attention on one prompt: `patterns[role][head]` is `(query, key)`, in [0, 1]; `tokens` of the row, by role."""

    tokens: dict[str, list[str]]
    patterns: dict[str, dict[str, list[list[float]]]]


def components(task: TaskStudy) -> list[Component]:
    """The components of any model's circuit, strongest first."""
    masses = {role: dict(zip(c.graph.components, c.component_scores().tolist(), strict=True)) for role, c in task.circuits.items()}
    largest = {name: max(mass[name] for mass in masses.values()) for name in task.circuits["arm"].graph.components}
    names = [name for name, mass in sorted(largest.items(), key=lambda one: -one[1]) if mass > 0][:COMPONENTS]
    return _Made.of(task, masses).all(names)


def patterns(task: TaskStudy) -> Patterns | None:
    """The attention patterns that a study keeps; None where it measured none."""
    found = task.measured.get("attention")
    if not isinstance(found, AttentionComparison):
        return None
    by_role: dict[str, dict[str, list[list[float]]]] = {}
    for i, role in enumerate(found.top):
        n = len(found.tokens[role])
        by_role[role] = {head: _rounded(found.patterns[i, j, :n, :n]) for j, head in enumerate(found.heads)}
    return {"tokens": found.tokens, "patterns": by_role}


@dataclass(frozen=True)
class _Made:
    """What all sections of a task are made from."""

    task: TaskStudy
    masses: Mapping[str, Mapping[str, float]]
    sets: Mapping[str, str]
    lens_rows: Mapping[str, pd.DataFrame]
    step_effects: Mapping[str, dict[int, dict[str, float]]]
    step_masses: Mapping[str, dict[int, dict[str, float]]]
    neuron_rows: pd.DataFrame | None
    seen: set[str]

    @classmethod
    def of(cls, task: TaskStudy, masses: Mapping[str, Mapping[str, float]]) -> _Made:
        sets = {one: name for name, members in task.component_sets.items() for one in members}
        rows = {role: lens.to_dataframe().set_index("component") for role, lens in task.lenses.items()}
        attention, neurons = (task.measured.get(name) for name in ("attention", "neurons"))
        heads = set(attention.heads) if isinstance(attention, AttentionComparison) else set()
        compared = neurons.to_dataframe() if isinstance(neurons, NeuronComparison) else None
        effects = {role: _effects(lens) for role, lens in task.lenses.items()}
        by_step = {role: _step_masses(scores) for role, scores in task.scores.items()}
        return cls(task, masses, sets, rows, effects, by_step, compared, heads)

    def all(self, names: list[str]) -> list[Component]:
        edges = {name: [] for name in names} | self._edges()
        return [self.one(name, edges[name]) for name in names]

    def one(self, name: str, edges: list[EdgeLine]) -> Component:
        mass = {role: of[name] for role, of in self.masses.items()}
        lens = {role: self._lens(role, name) for role in self.lens_rows}
        kept = sorted(edges, key=lambda edge: -max(map(abs, edge.scores.values())))[: 2 * EDGES]
        return Component(
            name, _in_words(name), self.sets.get(name, ""), mass, lens, kept, self._steps(name), self._neurons(name), name in self.seen
        )

    def _lens(self, role: str, name: str) -> LensLine:
        row = self.lens_rows[role].loc[name]
        tokens = [(repr(word)[1:-1], share) for word, share in self.task.lenses[role].top_tokens(name)[:TOKENS]]
        return LensLine(float(row["logit_diff"]), float(row["answer_rank"]), float(row["entropy"]), tokens)

    def _edges(self) -> dict[str, list[EdgeLine]]:
        """Component → the edges of all circuits into and out of it."""
        scores: dict[tuple[str, str], dict[str, float]] = {}
        for role, circuit in self.task.circuits.items():
            for writer, reader, score in _rows(circuit):
                scores.setdefault((writer, reader), dict.fromkeys(self.task.circuits, 0.0))[role] = score
        graph, found = self.task.circuits["arm"].graph, {}
        for (writer, reader), of in scores.items():
            for name in {writer, *graph.components_of(reader)} - {"input"}:
                found.setdefault(name, []).append(EdgeLine(writer, reader, of))
        return found

    def _steps(self, name: str) -> list[StepLine]:
        """Nothing for a task of one step."""
        steps = sorted({step for by_step in self.step_masses.values() for step in by_step})
        if len(steps) < 2:
            return []
        return [StepLine(step, _at(self.step_masses, step, name), _at(self.step_effects, step, name)) for step in steps]

    def _neurons(self, name: str) -> pd.DataFrame | None:
        if self.neuron_rows is not None:
            rows = self.neuron_rows[self.neuron_rows["neuron"].str.startswith(f"{name}.")]
            return rows.head(3 * NEURONS) if len(rows) else None
        mine = [(role, one) for role, one in self.task.neurons.items() if name == f"m{one.layer}"]
        frames = [
            one.top(NEURONS)[["neuron", "selectivity", "null_95", "peak_group", "peak_mean"]].assign(model=role) for role, one in mine
        ]
        return pd.concat(frames) if frames else None


def _at(of: Mapping[str, dict[int, dict[str, float]]], step: int, name: str) -> dict[str, float | None]:
    return {role: by_step.get(step, {}).get(name) for role, by_step in of.items()}


def _rows(circuit: Circuit) -> list[tuple[str, str, float]]:
    frame = circuit.to_dataframe()
    return list(zip(frame["writer"], frame["reader"], frame["score"], strict=True))


def _effects(lens: ComponentLens) -> dict[int, dict[str, float]]:
    return {step: dict(zip(lens.components, lens.at_step(step).effects.tolist(), strict=True)) for step in lens.steps}


def _step_masses(scores: EdgeScores) -> dict[int, dict[str, float]]:
    """Step → component → Σ |score| of all its edges, read and sent."""
    graph, found = scores.graph, {}
    for step, matrix in zip(scores.steps, scores.per_step, strict=True):
        size = matrix.abs()
        mass = size.sum(1)[1:] + (size.sum(0) @ graph.membership.to(size)[:, 1:])
        found[step] = dict(zip(graph.components, mass.tolist(), strict=True))
    return found


def _in_words(name: str) -> str:
    layer, _, head = name[1:].partition(".h")
    return f"head {head} of layer {layer}" if head else f"MLP of layer {layer}"


def _rounded(pattern: Float[Tensor, "query key"]) -> list[list[float]]:
    return torch.round(pattern, decimals=2).tolist()
