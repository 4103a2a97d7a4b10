"""Circuits of the reference EAP-IG implementation, from its own scores: the strongest edges, these pruned, and its greedy ones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mechshift_tl.circuits import Circuit
from mechshift_tl.graph import Graph

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
SETTINGS = {"in_graph_topn_raw": {"prune": False}, "in_graph": {}, "greedy_in_graph": {"greedy": True}}


@pytest.mark.parametrize(("folder", "graph"), [("eap_mha", Graph(2, 4, 4)), ("eap_gqa", Graph(2, 4, 2, "ungrouped"))])
@pytest.mark.parametrize("n", [0, 5, 20, 60, 100, 110])
def test_the_same_edges_are_kept(folder, graph, n, scored):
    tensors = load_file(GOLDENS / folder / "reference.safetensors")
    scores = scored(graph, tensors["EAP-IG-inputs.nld.full"])
    stored = {name: settings for name, settings in SETTINGS.items() if f"circuit.{n}.{name}" in tensors}
    assert len(stored) == (3 if n else 2)
    for name, settings in stored.items():
        kept = tensors[f"circuit.{n}.{name}"].bool()
        assert torch.equal(Circuit.from_scores(scores, n, zeros=True, **settings).edges, kept)
        assert torch.equal(Circuit.from_scores(scores, n, **settings).edges, kept & (scores.matrix != 0))
