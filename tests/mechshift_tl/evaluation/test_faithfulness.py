"""Faithfulness: the ratio and its interval against loops, what is refused, and the curve against single runs."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch

from mechshift_tl import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.random import random_circuits
from mechshift_tl.circuits.select import Rank
from mechshift_tl.evaluation.curve import SIZES, FaithfulnessCurve, _area, faithfulness_curve
from mechshift_tl.evaluation.faithfulness import Faithfulness, faithfulness, recovered
from mechshift_tl.evaluation.run import CircuitRun, Outcome, run_circuit
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import draw_counts


def outcome(metric: list[float]) -> Outcome:
    values = torch.tensor(metric)
    return Outcome(values, values > 0, values > -1)


def run_of(circuit: list[float], clean: list[float], base: list[float], read: list[int]) -> CircuitRun:
    return CircuitRun(outcome(circuit), outcome(clean), outcome(base), torch.tensor(read), 5, 20, "counterfactual", "logit_diff")


RUN = run_of([1.0, 2.0, -0.5], [2.0, 3.0, 1.0], [0.0, -1.0, 0.5], [1, 2, 1])


def test_the_ratio_is_one_of_means_over_read_positions() -> None:
    expected = (1.0 * 1 + 3.0 * 2 - 1.0 * 1) / (2.0 * 1 + 4.0 * 2 + 0.5 * 1)
    found = Faithfulness.of(RUN)
    assert found.value == pytest.approx(expected)
    assert (found.circuit, found.clean, found.base) == pytest.approx(((1 + 4 - 0.5) / 4, (2 + 6 + 1) / 4, (0 - 2 + 0.5) / 4))
    assert (found.accuracy, found.clean_accuracy) == pytest.approx((2 / 3, 1)) and found.above_foil == 1
    assert found.to_dataframe().loc[0, "kept"] == 5 and "0.571" in found._repr_html_()


def test_the_interval_is_over_examples_drawn_together() -> None:
    counts = draw_counts(3, 50, seed=3)
    assert (counts.sum(1) == 3).all()
    for draw, value in zip(counts, recovered(RUN, counts), strict=True):
        examples = [e for e, times in enumerate(draw.long().tolist()) for _ in range(times)]
        top = sum(((RUN.circuit.metric[e] - RUN.base.metric[e]) * RUN.read[e]).item() for e in examples)
        bottom = sum(((RUN.clean.metric[e] - RUN.base.metric[e]) * RUN.read[e]).item() for e in examples)
        assert value.item() == pytest.approx(top / bottom)
    found = Faithfulness.of(RUN, n_boot=50, seed=3)
    assert (found.low, found.high) == pytest.approx(recovered(RUN, counts).quantile(torch.tensor([0.025, 0.975]).double()).tolist())


def test_one_example_has_no_interval() -> None:
    found = Faithfulness.of(run_of([1.0], [2.0], [0.0], [1]))
    assert found.value == 0.5 and found.low != found.low and found.high != found.high


def test_a_gap_within_chance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no meaning on these readouts: .* 0.25 clean and 0 at the base.* over 4 examples.* holds 0"):
        Faithfulness.of(run_of([0.0] * 4, [3.0, -3.0, 2.0, -1.0], [0.0] * 4, [1] * 4))
    with pytest.raises(ValueError, match="holds 0"):
        Faithfulness.of(run_of([1.0], [0.0], [0.0], [1]))


def test_the_whole_graph_is_faithful_and_no_edge_is_not(solved) -> None:
    model, readouts = solved()
    graph = Graph.of(model)
    for edges, expected in ((graph.possible, 1.0), (torch.zeros_like(graph.possible), 0.0)):
        found = faithfulness(model, readouts, Circuit(graph, edges, torch.zeros(edges.shape), int(edges.sum())), batch_tokens=28)
        assert (found.value, found.low, found.high) == pytest.approx((expected,) * 3, abs=1e-5)
        assert found.clean_accuracy == 1.0 and found.accuracy == pytest.approx(1.0 if expected else found.accuracy)
    with pytest.raises(ValueError, match="n_boot is 0"):
        faithfulness(model, readouts, Circuit(graph, graph.possible, torch.zeros(edges.shape), 1), n_boot=0)


SHARES = [0.05, 0.2, 0.5, 1.0]


@pytest.fixture(scope="module")
def curve(solved) -> FaithfulnessCurve:
    model, readouts = solved()
    return faithfulness_curve(model, readouts, attribute(model, readouts, ig_steps=2), sizes=SHARES[::-1], n_random=3, n_boot=200)


def test_the_curve_is_its_circuits_run_one_by_one(curve, solved) -> None:
    model, readouts = solved()
    scores = attribute(model, readouts, ig_steps=2)
    for row in curve.table.to_dict("records"):
        circuit = Circuit.from_scores(scores, fraction=row["requested"], by=row["rank"], zeros=row["requested"] == 1)
        found = faithfulness(model, readouts, circuit, n_boot=200)
        assert row["kept"] == circuit.kept and row["share"] == circuit.kept / scores.graph.n_edges
        assert (row["faithfulness"], row["low"], row["high"]) == pytest.approx((found.value, found.low, found.high), abs=1e-4)
        assert row["accuracy"] == found.accuracy
        if row["requested"] < 1:
            others = [recovered(run_circuit(model, readouts, other))[0].item() for other in random_circuits(circuit, 3)]
            assert row["random"] == pytest.approx(sum(others) / 3, abs=1e-4)
    whole = curve.table[curve.table["requested"] == 1]
    assert whole["faithfulness"].tolist() == pytest.approx([1.0, 1.0], abs=1e-5) == whole["random"].tolist()
    assert whole["share"].tolist() == [1.0, 1.0] and curve.table["requested"].tolist() == SHARES * 2


def test_the_areas_are_trapezoids_over_what_is_kept(curve) -> None:
    for rank, area in (("signed", curve.cpr), ("magnitude", curve.cmd)):
        rows = curve.table[curve.table["rank"] == rank]
        for column, found in (("faithfulness", area.value), ("random", area.random)):
            height = rows[column] if rank == "signed" else (1 - rows[column]).abs()
            x, y = rows["share"].tolist(), height.tolist()
            expected = sum((x[i + 1] - x[i]) * (y[i] + y[i + 1]) / 2 for i in range(len(x) - 1))
            assert found == pytest.approx(expected)
        assert area.low <= area.value <= area.high or rank == "magnitude"
    assert curve.cpr.value > curve.cpr.random


def test_what_is_above_the_model_is_as_far_from_it_as_what_is_below() -> None:
    """A circuit more faithful than the model is not so by |1 − faithfulness|: CMD adds up distances, CPR what is recovered."""
    runs = [dataclasses.replace(run_of([f] * 3, [1.0] * 3, [0.0] * 3, [1] * 3), kept=kept) for f, kept in ((0.5, 4), (1.5, 8), (1.0, 20))]
    areas: dict[Rank, float] = {"signed": 0.2 * 1.0 + 0.6 * 1.25, "magnitude": 0.2 * 0.5 + 0.6 * 0.25}
    for rank, expected in areas.items():
        table = pd.DataFrame({"rank": [rank] * 3, "random": [0.0, 2.0, 1.0]})
        area = _area(rank, runs, table, draw_counts(3, 10))
        assert (area.value, area.low, area.high) == pytest.approx((expected,) * 3)
        assert area.random == pytest.approx(0.2 * 1.0 + 0.6 * (1.5 if rank == "signed" else 0.5))


def test_a_curve_is_drawn_and_kept(curve, tmp_path) -> None:
    assert len(curve.figure().data) == 4
    assert "CPR" in curve._repr_html_() and curve.to_dataframe() is curve.table
    curve.save(tmp_path / "curve.safetensors")
    again = FaithfulnessCurve.load(tmp_path / "curve.safetensors")
    assert again.table.equals(curve.table) and (again.cpr, again.cmd) == (curve.cpr, curve.cmd)
    assert (again.clean, again.base, again.n_examples, again.metric) == (curve.clean, curve.base, 12, "logit_diff")


def test_impossible_sizes_are_refused(solved) -> None:
    model, readouts = solved()
    scores = attribute(model, readouts, ig_steps=1)
    assert SIZES[0] == 0.001 and SIZES[-1] == 1.0
    for sizes in ([0.0, 1.0], [0.5], [0.5, 1.5]):
        with pytest.raises(ValueError, match="at least two shares"):
            faithfulness_curve(model, readouts, scores, sizes=sizes)
