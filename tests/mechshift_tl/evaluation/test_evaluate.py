"""Every row of an evaluation against runs made one by one; resampled circuits and edges against loops."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from hooked_diffusion import load_pair
from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.bootstrap import bootstrap
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard, expected_jaccard, stability
from mechshift_tl.circuits.random import random_circuits
from mechshift_tl.evaluation.evaluate import CircuitEvaluation, evaluate_circuit
from mechshift_tl.evaluation.faithfulness import faithfulness
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import draw_counts
from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts import readouts as make_readouts
from mechshift_tl.runs.provenance import OtherOrigin
from mechshift_tl.tasks import IOI
from mechshift_tl.tasks.ioi import TEMPLATES


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


def without(circuit: Circuit, rows: list[dict]) -> Circuit:
    """The circuit less the edges of some rows of its table."""
    edges = circuit.edges.clone()
    for row in rows:
        edges[circuit.graph.writers.index(row["writer"]), circuit.graph.readers.index(row["reader"])] = False
    return Circuit(circuit.graph, edges, circuit.scores.masked_fill(~edges, 0), 1)


@pytest.mark.parametrize("kind", ["components", "edges", "tenths"])
def test_minimality_is_the_least_loss_without_one_part(made, solved, kind) -> None:
    model, readouts, scores, *_ = made
    circuit = Circuit.from_scores(scores, 25)
    evaluation = evaluate_circuit(model, readouts, circuit, parts=kind, n_random=1, n_boot=50)
    table, edges = evaluation.parts, circuit.to_dataframe().to_dict("records")
    out_of = lambda name: [edge for edge in edges if edge["writer"] == name]  # noqa: E731
    left_out = {
        "components": {name: out_of(name) for name in circuit.components["component"] if out_of(name)},
        "edges": {f"{edge['writer']} → {edge['reader']}": [edge] for edge in edges},
        "tenths": {str(i + 1): [edges[j] for j in part] for i, part in enumerate(np.array_split(range(len(edges)), 10))},
    }[kind]
    assert table["part"].tolist() == list(left_out) and table["edges"].tolist() == [len(part) for part in left_out.values()]
    whole = faithfulness(model, readouts, circuit, n_boot=50).value
    for i in {0, len(table) // 2, len(table) - 1}:
        found = faithfulness(model, readouts, without(circuit, list(left_out.values())[i]), n_boot=50)
        assert table.loc[i, "loss"] == pytest.approx(whole - found.value, abs=1e-4)
    check = evaluation["minimality"]
    assert check.value == table["loss"].min() and check.floor == pytest.approx(whole / len(table), abs=1e-4)
    assert check.low <= table["low"].min() and check.high <= table["high"].min(), "on every draw the least of the losses"


def test_a_part_without_which_nothing_is_lost_makes_a_circuit_not_minimal(made) -> None:
    """A head that only the queries of an unread head read: its edges carry nothing to the logits."""
    model, readouts, _, circuit, _ = made
    graph = circuit.graph
    more, place = circuit.edges.clone(), graph.writers.index("a0.h0")
    more[place], more[:, graph.readers.index("a1.h0<q>")] = False, False
    more[graph.writers.index("a1.h0")] = False
    more[place, graph.readers.index("a1.h0<q>")] = True
    padded = Circuit(graph, more, torch.zeros(more.shape), 1)
    evaluation = evaluate_circuit(model, readouts, padded, n_random=1, n_boot=50)
    part = evaluation.parts.set_index("part").loc["a0.h0"]
    assert (part["loss"], part["low"], part["high"]) == pytest.approx((0, 0, 0), abs=1e-6) and evaluation["minimality"].value <= 1e-6


def test_stability_is_the_overlap_with_resampled_circuits(made) -> None:
    _, _, scores, circuit, evaluation = made
    circuits = bootstrap(lambda drawn: Circuit.from_scores(drawn, circuit.requested, prune=True), scores, n_boot=20)
    overlaps = [edge_jaccard(circuit, other) for other in circuits]
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
    unknown: Any = "halves"
    with pytest.raises(ValueError, match="parts is 'halves'; choose one of components, edges, tenths"):
        evaluate_circuit(model, readouts, circuit, parts=unknown)
    with pytest.raises(ValueError, match="circuit of 0 edges"):
        evaluate_circuit(model, readouts, circuit - circuit)
    with pytest.raises(ValueError, match="different graphs"):
        evaluate_circuit(model, readouts, circuit, scores=scored(Graph(1, 2, 2), {}))
    same = type(readouts).from_tokens(readouts.clean, readouts.clean, readouts.target_pos, readouts.answer_ids, readouts.foil_ids)
    with pytest.raises(ValueError, match="no meaning on the readouts 'nothing changed'"):
        evaluate_circuit(model, readouts, circuit, others={"nothing changed": same}, n_random=1, n_boot=10)


def test_scores_of_another_origin_are_refused_before_any_run(made, monkeypatch) -> None:
    """Stability of a circuit among circuits of another model or task would be a number without a meaning."""
    model, readouts, scores, circuit, _ = made
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("the model was run"))
    for changed, what in (({"model": {"name": "another"}}, "weights"), ({"readouts": {"task": "countdown"}}, "task")):
        known = circuit.provenance | {"readouts": {"task": "ioi"}}
        mine = dataclasses.replace(circuit, provenance=known)
        others = dataclasses.replace(scores, provenance=known | changed)
        with pytest.raises(OtherOrigin, match=f"the scores and the circuit differ in {what}"):
            evaluate_circuit(model, readouts, mine, scores=others)


def test_an_edge_is_included_as_often_as_it_is_drawn(scored) -> None:
    """Two examples, one edge each: a draw of both keeps the larger edge."""
    graph = Graph(1, 2, 2)
    per_example = torch.zeros(2, *graph.possible.shape)
    per_example[0, 0, -1], per_example[1, 1, -1] = 3.0, 2.0
    scores = scored(graph, per_example)
    drawn = bootstrap(lambda drawn: Circuit.from_scores(drawn, 1, prune=False).edges.float(), scores, n_boot=400)
    frequency = torch.stack(drawn).mean(0)
    assert frequency[0, -1].item() == pytest.approx(0.75, abs=0.07)
    assert frequency[0, -1] + frequency[1, -1] == 1 and frequency.sum() == 1
    circuit = Circuit.from_scores(scores, 1, prune=False)
    assert stability(circuit, scores, n_boot=400).mean == pytest.approx(frequency[0, -1].item())


def by_counts(scores: EdgeScores, n_boot: int, seed: int = 0) -> torch.Tensor:
    """The matrix of every draw, from how often the draw holds each example."""
    assert scores.per_example is not None and scores.read_per_example is not None
    counts = draw_counts(scores.n_examples, n_boot, seed).float()
    weights = counts / (counts @ scores.read_per_example.float())[:, None]
    return torch.einsum("de,e...->d...", weights, scores.per_example)


def test_the_draws_of_edges_are_those_of_resampled_scores(made) -> None:
    _, _, scores, _, _ = made
    drawn = torch.stack(bootstrap(lambda drawn: drawn.matrix, scores, n_boot=30, seed=4))
    ends = torch.tensor([0.025, 0.975])
    low, high = found = drawn.quantile(ends, dim=0)
    torch.testing.assert_close(found, by_counts(scores, 30, seed=4).quantile(ends, dim=0), rtol=1e-4, atol=1e-5)
    assert (low <= high).all() and (low[~scores.graph.possible] == 0).all()


def test_draws_weigh_examples_by_what_is_read_of_them(scored) -> None:
    graph = Graph(1, 2, 2)
    per_example = torch.randn(3, *graph.possible.shape, generator=torch.Generator().manual_seed(0)) * graph.possible
    scores = scored(graph, per_example, read_per_example=torch.tensor([1, 5, 2]))
    drawn = torch.stack(bootstrap(lambda drawn: drawn.matrix, scores, n_boot=20))
    torch.testing.assert_close(drawn, by_counts(scores, 20))


def test_resampling_needs_the_examples_own_scores(solved) -> None:
    model, readouts = solved()
    scores = attribute(model, readouts, ig_steps=1)
    with pytest.raises(ValueError, match="keep_per_example=True"):
        stability(Circuit.from_scores(scores, 5), scores)


def test_generalisation_to_held_out_templates_and_other_corruptions() -> None:
    """Of a circuit that was selected on some templates under one corruption: a row of its own for each, with its interval."""
    pair = load_pair("tiny")
    assert pair.tokenizer is not None
    tokenizer = pair.tokenizer
    seen, held_out = TEMPLATES[:8], TEMPLATES[8:]

    def read(**task: Any) -> Readouts:
        return make_readouts(pair.arm, IOI(**task).examples(tokenizer, 10))

    circuit = Circuit.from_scores(attribute(pair.arm, read(templates=seen), ig_steps=1), 80)
    others = {"held-out templates": read(templates=held_out), "S2 becomes the IO": read(templates=seen, corruption="s2_to_io")}
    evaluation = evaluate_circuit(pair.arm, read(templates=seen), circuit, others=others, parts="tenths", n_random=1, n_boot=50)
    frame = evaluation.to_dataframe().set_index("check")
    for name, other in others.items():
        found = faithfulness(pair.arm, other, circuit, n_boot=50)
        row = frame.loc[f"generalisation: {name}"]
        assert row.tolist() == pytest.approx([found.value, found.low, found.high, 10, row["floor"]], abs=1e-4)
        assert row["low"] <= row["value"] <= row["high"] and row["floor"] < row["value"]
    values = [check.value for check in evaluation.checks if check.check.startswith("generalisation") or check.check == "sufficiency"]
    assert len({round(value, 6) for value in values}) == 3
