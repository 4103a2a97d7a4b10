"""Every row of an evaluation against runs made one by one; resampled circuits and edges against loops."""

from __future__ import annotations

import pytest
import torch

from mechshift_tl import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.evaluate import CircuitEvaluation, evaluate_circuit
from mechshift_tl.circuits.faithfulness import faithfulness, resamples
from mechshift_tl.circuits.random import random_circuits
from mechshift_tl.circuits.stability import edge_intervals, inclusion_frequency, jaccard_over_resamples, resampled_circuits
from mechshift_tl.compare.overlap import edge_jaccard, expected_jaccard
from mechshift_tl.graph import Graph


@pytest.fixture(scope="module")
def made(solved):
    """Model, readouts, scores, circuit, its evaluation."""
    model, readouts = solved()
    scores = attribute(model, readouts, ig_steps=2, keep_per_example=True)
    circuit = Circuit.from_scores(scores, fraction=0.3)
    others = {"other rows": solved(9, seed=5)[1]}
    evaluation = evaluate_circuit(
        model, readouts, circuit, scores=scores, others=others, n_random=3, n_resamples=20, n_boot=100, batch_tokens=84
    )
    return model, readouts, scores, circuit, evaluation


def close(check, found) -> bool:
    return (check.value, check.low, check.high) == pytest.approx((found.value, found.low, found.high), abs=1e-4)


def test_sufficiency_is_faithfulness_and_its_floor_that_of_random_circuits(made, solved) -> None:
    model, readouts, _, circuit, evaluation = made
    found = faithfulness(model, readouts, circuit, n_boot=100)
    assert close(evaluation["sufficiency"], found) and evaluation["sufficiency"].n == 12
    assert evaluation["accuracy"].value == found.accuracy
    random = [faithfulness(model, readouts, other, n_boot=100) for other in random_circuits(circuit, 3)]
    assert evaluation["sufficiency"].floor == pytest.approx(sum(one.value for one in random) / 3, abs=1e-4)
    assert evaluation["accuracy"].floor == pytest.approx(sum(one.accuracy for one in random) / 3)
    elsewhere = faithfulness(model, solved(9, seed=5)[1], circuit, n_boot=100)
    assert close(evaluation["generalisation: other rows"], elsewhere) and evaluation["generalisation: other rows"].n == 9


def test_necessity_is_what_the_complement_loses(made) -> None:
    model, readouts, _, circuit, evaluation = made
    without = faithfulness(model, readouts, ~circuit, n_boot=100)
    check = evaluation["necessity"]
    assert (check.value, check.low, check.high) == pytest.approx((1 - without.value, 1 - without.high, 1 - without.low), abs=1e-4)
    random = [faithfulness(model, readouts, ~other, n_boot=100).value for other in random_circuits(circuit, 3)]
    assert check.floor == pytest.approx(1 - sum(random) / 3, abs=1e-4)


def test_minimality_is_the_loss_of_the_weakest_tenth(made) -> None:
    model, readouts, _, circuit, evaluation = made
    parts = evaluation.parts
    assert parts["edges"].sum() == circuit.kept and len(parts) == 10
    ranked = circuit.to_dataframe()
    sizes = parts["edges"].tolist()
    whole = faithfulness(model, readouts, circuit, n_boot=100).value
    for part in (1, 10):
        start = sum(sizes[: part - 1])
        edges = circuit.edges.clone()
        for row in ranked.iloc[start : start + sizes[part - 1]].to_dict("records"):
            edges[circuit.graph.writers.index(row["writer"]), circuit.graph.readers.index(row["reader"])] = False
        smaller = Circuit(circuit.graph, edges, circuit.scores.masked_fill(~edges, 0), 1)
        assert parts.loc[part - 1, "loss"] == pytest.approx(whole - faithfulness(model, readouts, smaller, n_boot=100).value, abs=1e-4)
    assert evaluation["minimality"].value == parts.loc[9, "loss"] and evaluation["minimality"].floor == pytest.approx(whole / 10, abs=1e-4)


def test_stability_is_the_overlap_with_resampled_circuits(made) -> None:
    _, _, scores, circuit, evaluation = made
    overlaps = [edge_jaccard(circuit, other) for other in resampled_circuits(scores, circuit.requested, n_boot=20, prune=True)]
    check = evaluation["stability"]
    assert check.value == pytest.approx(sum(overlaps) / 20) and check.low <= check.value <= check.high
    assert check.floor == expected_jaccard(circuit, circuit) < check.value


def test_the_whole_graph_is_sufficient_and_necessary(solved) -> None:
    model, readouts = solved()
    graph = Graph.of(model)
    whole = Circuit(graph, graph.possible, torch.zeros(graph.possible.shape), graph.n_edges)
    evaluation = evaluate_circuit(model, readouts, whole, n_random=1, n_boot=10)
    for name in ("sufficiency", "necessity"):
        assert (evaluation[name].value, evaluation[name].floor) == pytest.approx((1, 1), abs=1e-5)
    assert [check.check for check in evaluation.checks] == ["sufficiency", "necessity", "accuracy", "minimality"]


def test_an_evaluation_is_shown_and_kept(made, tmp_path) -> None:
    *_, evaluation = made
    frame = evaluation.to_dataframe()
    assert list(frame.columns) == ["check", "value", "low", "high", "n", "floor"] and len(frame) == 6
    assert len(evaluation.figure().data) == 2 and "necessity" in evaluation._repr_html_()
    evaluation.save(tmp_path / "evaluation.safetensors")
    again = CircuitEvaluation.load(tmp_path / "evaluation.safetensors")
    assert again.checks == evaluation.checks and again.parts.equals(evaluation.parts) and again.kept == evaluation.kept


def test_what_cannot_be_evaluated_is_refused(made, solved, scored) -> None:
    model, readouts, _, circuit, evaluation = made
    with pytest.raises(KeyError, match="'beauty' was not checked; these were: sufficiency"):
        evaluation["beauty"]
    with pytest.raises(ValueError, match="circuit of 0 edges"):
        evaluate_circuit(model, readouts, circuit - circuit)
    with pytest.raises(ValueError, match="different graphs"):
        evaluate_circuit(model, readouts, circuit, scores=scored(Graph(1, 2, 2), {}))
    same = type(readouts).from_tokens(readouts.clean, readouts.clean, readouts.target_pos, readouts.answer_ids, readouts.foil_ids)
    with pytest.raises(ValueError, match="no meaning on the readouts 'nothing changed'"):
        evaluate_circuit(model, readouts, circuit, others={"nothing changed": same}, n_random=1, n_boot=10)


def test_an_edge_is_included_as_often_as_it_is_drawn(scored) -> None:
    """Two examples, one edge each: a draw of both keeps the larger edge."""
    graph = Graph(1, 2, 2)
    per_example = torch.zeros(2, *graph.possible.shape)
    per_example[0, 0, -1], per_example[1, 1, -1] = 3.0, 2.0
    scores = scored(graph, per_example)
    frequency = inclusion_frequency(scores, 1, n_boot=400, prune=False)
    assert frequency[0, -1].item() == pytest.approx(0.75, abs=0.07)
    assert frequency[0, -1] + frequency[1, -1] == 1 and frequency.sum() == 1
    circuit = Circuit.from_scores(scores, 1, prune=False)
    assert jaccard_over_resamples(circuit, scores, n_boot=400).mean == pytest.approx(frequency[0, -1].item())


def test_the_intervals_of_edges_are_those_of_resampled_scores(made) -> None:
    _, _, scores, _, _ = made
    found = edge_intervals(scores, n_boot=30, seed=4)
    draws = []
    for counts in resamples(scores.n_examples, 30, seed=4).long().tolist():
        draws.append(scores.resample([e for e, times in enumerate(counts) for _ in range(times)]).matrix)
    low, high = torch.stack(draws).quantile(torch.tensor([0.025, 0.975]), dim=0)
    torch.testing.assert_close(found.low, low, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.high, high, rtol=1e-4, atol=1e-5)
    assert (found.low <= found.high).all() and (found.low[~scores.graph.possible] == 0).all()


def test_resampling_needs_the_examples_own_scores(solved) -> None:
    model, readouts = solved()
    scores = attribute(model, readouts, ig_steps=1)
    for function in (inclusion_frequency, edge_intervals):
        with pytest.raises(ValueError, match="keep_per_example=True"):
            function(scores)
