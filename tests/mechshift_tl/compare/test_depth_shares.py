"""Shares by layer of hand-made scores: what they sum, how models and tasks are contrasted, and when front-loading is claimed."""

from __future__ import annotations

from math import isnan

import pytest
import torch

from mechshift_tl.circuits import Circuit
from mechshift_tl.compare.depth import At
from mechshift_tl.compare.depth_result import KINDS, DepthShares, between_tasks, summed_up
from mechshift_tl.compare.depth_shares import depth_shares, layer_shares
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import drawn_examples

GRAPH = Graph(3, 2, 2)
ALIGNED = {role: [0, 1, 2] for role in ("mdm", "control")}


def per_example(early: float, n: int = 12, seed: int = 0) -> torch.Tensor:
    """Scores of `n` examples: noise everywhere, and `early` more on the edges into layer 0."""
    noise = torch.randn(n, *GRAPH.shape, generator=torch.Generator().manual_seed(seed)) * 0.1
    return (1 + noise + early * (GRAPH.reader_layers == 0)) * GRAPH.possible


def shares_of(scored, *, mdm: float = 3.0, control: float = 0.5, n_boot: int = 40, **given) -> DepthShares:
    amounts = {"arm": 0.0, "mdm": mdm, "control": control}
    scores = {role: scored(GRAPH, per_example(early, seed=i)) for i, (role, early) in enumerate(amounts.items())}
    circuits = {role: Circuit.from_scores(one, 80) for role, one in scores.items()}
    return depth_shares(scores, circuits, task="made", n_boot=n_boot, **{"best_layers": ALIGNED, **given})


def test_layers_hold_what_a_loop_over_edges_adds_up(scored):
    scores = scored(GRAPH, per_example(1.0))
    columns: dict[At, str] = {"reader": "reader_layer", "writer": "writer_layer"}
    for at, layer_of in columns.items():
        edges = scores.to_dataframe()
        sums = [edges.loc[edges[layer_of] == layer, "score"].abs().sum() for layer in range(3)]
        assert layer_shares(scores.matrix, GRAPH, at).tolist() == pytest.approx([one / sum(sums) for one in sums], abs=1e-6)


def test_shares_of_circuits_are_those_of_their_edges_alone(scored):
    found = shares_of(scored)
    circuit = Circuit.from_scores(scored(GRAPH, per_example(0.0)), 80)
    assert found.of("circuit", "arm")[0].tolist() == pytest.approx(layer_shares(circuit.scores, GRAPH).tolist())
    assert isnan(found.early("function", "arm").value)
    assert found.shares[0, :3].sum(-1).tolist() == [[pytest.approx(1)] * 3] * 3


def test_draws_are_scores_on_drawn_prompts_the_same_for_every_model(scored):
    found = shares_of(scored, n_boot=3)
    for i, role in enumerate(found.roles):
        own = per_example((0.0, 3.0, 0.5)[i], seed=i)
        for draw, examples in enumerate(drawn_examples(12, 3), 1):
            assert found.of("all edges", role)[draw].tolist() == pytest.approx(
                layer_shares(own[examples].mean(0), GRAPH).tolist(), abs=1e-5
            )


def test_early_shares_centres_and_shifts_by_hand(scored):
    found = shares_of(scored, n_boot=0)
    share = found.of("all edges", "mdm")[0]
    assert found.early("all edges", "mdm").value == pytest.approx(share[0].item())
    assert found.centre_draws("all edges", "mdm")[0].item() == pytest.approx((share[1] + 2 * share[2]).item() / 3)
    shift = found.early_shift("all edges")
    assert shift.value == pytest.approx(found.early("all edges", "mdm").value - found.early("all edges", "control").value)
    assert shift.interval is None and not found.front_loaded


def test_losses_become_shares_of_their_sizes(scored):
    losses = {role: torch.tensor([[0.6, -0.2, 0.2], [0.5, 0.5, 0.0]]) for role in ("arm", "mdm", "control")}
    found = shares_of(scored, n_boot=1, losses=losses, n_held_out=7)
    assert found.of("function", "mdm").tolist() == [pytest.approx([0.6, 0.2, 0.2]), pytest.approx([0.5, 0.5, 0.0])]
    assert "by function (n = 7)" in found.finding()
    with pytest.raises(ValueError, match="losses have 1 draws, scores 4"):
        shares_of(scored, n_boot=4, losses=losses)


def test_front_loading_needs_more_than_the_control_and_aligned_layers(scored):
    assert shares_of(scored).front_loaded
    assert shares_of(scored).finding().count("Supported: the MDM is front-loaded.") == 1
    assert not shares_of(scored, mdm=0.5).front_loaded
    assert not shares_of(scored, mdm=3.0, control=4.0).front_loaded
    moved = shares_of(scored, best_layers={"mdm": [0, 0, 1], "control": [0, 1, 2]})
    assert not moved.front_loaded and "layers do not align" in moved.finding()
    unknown = shares_of(scored, best_layers=None)
    assert unknown.all_aligned is None and not unknown.front_loaded and "was not checked" in unknown.finding()


def test_without_a_control_nothing_is_claimed(scored):
    scores = {role: scored(GRAPH, per_example(early)) for role, early in (("arm", 0.0), ("mdm", 3.0))}
    circuits = {role: Circuit.from_scores(one, 80) for role, one in scores.items()}
    found = depth_shares(scores, circuits, n_boot=10, best_layers={"mdm": [0, 1, 2]})
    assert not found.front_loaded and "not supported" in found.finding()
    assert list(found.to_dataframe()["model"].unique()) == ["ARM", "MDM", "MDM − ARM"]


def test_tasks_are_contrasted_by_independent_draws(scored):
    a, b = shares_of(scored), shares_of(scored, mdm=1.0)
    both = between_tasks(a, b)
    assert both.value == pytest.approx(a.early_shift("all edges").value - b.early_shift("all edges").value)
    assert both.interval is not None and both.interval.low > 0
    same = between_tasks(a, a)
    assert same.value == 0 and same.interval is not None
    # Paired draws of one task would differ by nothing; independent ones do differ.
    assert same.interval.low < 0 < same.interval.high


def test_figures_frames_and_files(scored, tmp_path):
    found = shares_of(scored)
    assert len(list(found.figure().data)) == 2 * 3 * 2  # bands and lines of three models in two panels: no function was given
    assert set(found.to_dataframe()["kind"]) == set(KINDS)
    found.save(tmp_path / "depth.safetensors")
    again = DepthShares.load(tmp_path / "depth.safetensors")
    assert torch.allclose(again.shares, found.shares, equal_nan=True)
    assert again.finding() == found.finding() and again.aligned == found.aligned


def test_what_cannot_be_is_refused(scored):
    with pytest.raises(ValueError, match="cut is 4; the models have 3 layers"):
        shares_of(scored, cut=4)
    found = shares_of(scored, n_boot=0)
    with pytest.raises(ValueError, match="no shares of 'edges' for 'arm'"):
        found.of("edges", "arm")
    assert summed_up(torch.tensor([1.0])).interval is None
