"""Circuits of the reference EAP-IG implementation, from its own scores, before and after its pruning."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mechshift_tl.circuits import Circuit
from mechshift_tl.graph import Graph

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"


@pytest.mark.parametrize(("folder", "graph"), [("eap_mha", Graph(2, 4, 4)), ("eap_gqa", Graph(2, 4, 2, "ungrouped"))])
@pytest.mark.parametrize("n", [5, 20, 60, 100, 110])
def test_the_same_edges_are_kept(folder, graph, n, scored):
    """The reference also fills up with edges that score exactly zero (n = 110 asks for all)."""
    tensors = load_file(GOLDENS / folder / "reference.safetensors")
    matrix = tensors["EAP-IG-inputs.nld.full"]
    for prune, name in ((False, "in_graph_topn_raw"), (True, "in_graph")):
        circuit = Circuit.from_scores(scored(graph, matrix), n, prune=prune)
        assert torch.equal(circuit.edges, tensors[f"circuit.{n}.{name}"].bool() & (matrix != 0))
