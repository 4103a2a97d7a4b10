"""Masses of components: by hand on a few edges, and against the masses that a circuit of all edges has."""

from __future__ import annotations

import pytest
import torch

from mechshift_tl.circuits import Circuit
from mechshift_tl.compare.masses import MASSES, ComponentMasses, component_masses, masses
from mechshift_tl.graph import Graph

GRAPH = Graph(2, 4, 2)
EDGES = {("input", "m0"): 1.0, ("m0", "a1.g0<k>"): -2.0, ("m0", "logits"): 1.0, ("a1.h1", "logits"): 4.0}


def test_masses_by_hand(scored):
    found = component_masses({"arm": scored(GRAPH, EDGES)}, task="made")
    total = 8.0
    at = {name: found.components.index(name) for name in ("m0", "a1.h0", "a1.h1", "a1.h2")}

    def named(mass: str) -> list[float]:
        return [found.of(mass, "arm")[i].item() * total for i in at.values()]

    assert named("source") == [3.0, 0.0, 4.0, 0.0]
    assert named("source signed") == [-1.0, 0.0, 4.0, 0.0]
    assert named("sink") == [1.0, 1.0, 1.0, 0.0]  # the two heads of the group share its edge
    assert named("sink signed") == [1.0, -1.0, -1.0, 0.0]
    assert "ARM a1.h1 (0.50)" in found.finding()


def test_masses_are_those_of_the_circuit_of_all_edges(scored):
    scores = scored(GRAPH, torch.randn(GRAPH.shape, generator=torch.Generator().manual_seed(0)) * GRAPH.possible)
    circuit, total = Circuit.from_scores(scores, GRAPH.n_edges, prune=False), scores.matrix.abs().sum()
    source, sink, *signed = masses(scores.matrix, GRAPH)
    torch.testing.assert_close(source * total, circuit.sources)
    torch.testing.assert_close(sink * total, circuit.sinks)
    torch.testing.assert_close((signed[0] + signed[1]) * total, circuit.component_scores(signed=True))


def test_shared_mass_intervals_files_and_figure(scored, tmp_path):
    generator = torch.Generator().manual_seed(1)
    scores = {
        role: scored(GRAPH, (1 + torch.randn(9, *GRAPH.shape, generator=generator)) * GRAPH.possible) for role in ("arm", "mdm", "control")
    }
    found = component_masses(scores | {"control": scores["arm"]}, n_boot=30)
    assert found.masses.shape == (3, 3, len(MASSES), len(GRAPH.components))
    assert found.shared("source", "control") == pytest.approx(1) and found.shared("source", "mdm") < 1
    assert torch.all(found.masses[1] <= found.masses[2])
    found.save(tmp_path / "masses.safetensors")
    again = ComponentMasses.load(tmp_path / "masses.safetensors")
    assert again.finding() == found.finding() and len(again.to_dataframe()) == 3 * len(GRAPH.components)
    assert len(list(again.figure().data)) == 6


def test_scores_without_mass_and_unknown_masses_are_refused(scored):
    with pytest.raises(ValueError, match="every score of 'arm' is 0"):
        component_masses({"arm": scored(GRAPH, {})})
    with pytest.raises(ValueError, match="no 'flow' of 'arm'"):
        component_masses({"arm": scored(GRAPH, EDGES)}).of("flow", "arm")
