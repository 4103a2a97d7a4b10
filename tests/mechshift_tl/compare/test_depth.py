"""Depth of a hand-made circuit: profiles, early share, centre."""

import math
from typing import Any

import pytest
import torch

from mechshift_tl.circuits import Circuit
from mechshift_tl.compare.depth import centre_of_depth, default_cut, depth_labels, depth_profile, early_curve, early_share
from mechshift_tl.graph import Graph

GRAPH = Graph(3, 2, 2)
EDGES = {("input", "m0"): 1.0, ("m0", "m1"): -2.0, ("m1", "m2"): 3.0, ("m2", "logits"): 2.0}


@pytest.fixture
def circuit(scored) -> Circuit:
    return Circuit.from_scores(scored(GRAPH, EDGES), 4)


def test_profiles_are_fractions_by_reader_writer_or_count(circuit):
    assert depth_labels(GRAPH) == ["input", "0", "1", "2", "logits"]
    assert depth_profile(circuit).tolist() == [0, 1 / 8, 2 / 8, 3 / 8, 2 / 8]
    assert depth_profile(circuit, at="writer").tolist() == [1 / 8, 2 / 8, 3 / 8, 2 / 8, 0]
    assert depth_profile(circuit, weight="count").tolist() == [0, 0.25, 0.25, 0.25, 0.25]
    assert depth_profile(circuit, at="writer", weight="count").tolist() == [0.25, 0.25, 0.25, 0.25, 0]


def test_early_share_and_centre_leave_input_and_logits_out(circuit):
    profile = depth_profile(circuit)
    torch.testing.assert_close(early_curve(profile), torch.tensor([0, 1 / 6, 3 / 6, 1], dtype=torch.float64))
    assert early_share(profile) == pytest.approx(1 / 6)
    assert early_share(profile, 2) == pytest.approx(1 / 2)
    assert centre_of_depth(profile) == pytest.approx((0 * 1 + 1 * 2 + 2 * 3) / 6)


@pytest.mark.parametrize(("n_layers", "cut"), [(1, 1), (2, 1), (6, 2), (28, 9), (32, 11)])
def test_a_third_of_the_layers_is_early(n_layers, cut):
    assert default_cut(n_layers) == cut


def test_a_circuit_without_layers_has_no_depth(scored):
    profile = depth_profile(Circuit.from_scores(scored(GRAPH, {("input", "logits"): 1.0}), 1))
    assert profile.tolist() == [0, 0, 0, 0, 1]
    assert math.isnan(early_share(profile)) and math.isnan(centre_of_depth(profile))


def test_unknown_settings_are_refused(circuit):
    unknown: Any = "edge"
    with pytest.raises(ValueError, match="at 'edge'"):
        depth_profile(circuit, at=unknown)
    with pytest.raises(ValueError, match="cut is 4; the model has 3 layers"):
        early_share(depth_profile(circuit), 4)
