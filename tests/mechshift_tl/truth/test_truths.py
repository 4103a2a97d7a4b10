"""Known circuits: what each program says, which edges its weights use, which of them move, and that methods are held to both."""

from __future__ import annotations

import pytest
import torch

from mechshift_tl.attribution.settings import PathSettings
from mechshift_tl.evaluation.run import run_edges
from mechshift_tl.evaluation.validity import validity
from mechshift_tl.truth import Truth, load_truth, measure_truth, truths
from mechshift_tl.truth.result import TruthTable

METHODS: dict[str, PathSettings] = {"EAP": {"method": "EAP"}, "EAP-IG 30": {"method": "EAP-IG-inputs", "ig_steps": 30}}
#: Edges that can exist, that the program uses, and that move, as counted by others' compilations of the same programs.
COUNTS = {"reverse-full": (77, 13, 2), "unique-sort-full": (23, 10, 6), "sort-full": (46, 13, 7), "histogram-full": (8, 6, 4)}
GATE = [
    "input → a0.h0<k>", "input → a0.h0<v>", "input → a0.h1<k>", "input → a0.h1<v>", "input → a1.h0<k>", "a0.h0 → m0", "a0.h1 → m0",
    "m0 → a1.h0<v>", "a1.h0 → logits",
]  # fmt: skip


def named(truth: Truth, edges: torch.Tensor) -> set[str]:
    return {f"{truth.graph.writers[u]} → {truth.graph.readers[v]}" for u, v in edges.nonzero().tolist()}


@pytest.mark.parametrize("name", [name for name in truths() if not name.startswith("planted")])
def test_a_model_says_what_its_program_says(name) -> None:
    truth = load_truth(name)
    for batch in truth.readouts.batches(10**6):
        assert torch.equal(batch.logits(truth.model).argmax(-1), batch.answer_ids)
        assert torch.equal(batch.logits(truth.model, "corrupt").argmax(-1), batch.foil_ids)


@pytest.mark.parametrize("name", [*COUNTS, "dyck-full", "pattern-causal", "xor-full"])
def test_the_program_s_edges_are_all_there_is(name) -> None:
    truth = load_truth(name)
    (run,) = run_edges(truth.model, truth.readouts, truth.graph, [truth.program_edges])
    assert (run.circuit.metric - run.clean.metric).abs().max() < 1e-4
    assert not (truth.program_edges & ~truth.graph.possible).any()


@pytest.mark.parametrize("name", COUNTS)
def test_edges_are_counted_as_elsewhere(name) -> None:
    truth = load_truth(name)
    assert (truth.graph.n_edges, int(truth.program_edges.sum()), int(truth.moving_edges.sum())) == COUNTS[name]
    assert not (truth.moving_edges & ~truth.program_edges).any()


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_a_gate_s_edges_are_those_that_were_set(attention) -> None:
    truth = load_truth(f"and-{attention}")
    assert named(truth, truth.program_edges) == set(GATE)
    assert named(truth, truth.moving_edges) == {edge for edge in GATE if "<k>" not in edge}
    assert truth.model.cfg.attention_dir == ("causal" if attention == "causal" else "bidirectional")


def test_what_is_redundant_does_not_move() -> None:
    truth = load_truth("or-redundant-full")
    assert named(truth, truth.moving_edges) == {"m0 → a1.h0<v>", "a1.h0 → logits"}
    assert "exact patching" in truth.note


@pytest.fixture(scope="module")
def table() -> TruthTable:
    rows = [row for name in ("histogram-full", "or-redundant-full") for row in measure_truth(load_truth(name), METHODS, n_boot=10)]
    return TruthTable(tuple(rows), 10, 0)


def test_thirty_points_find_what_one_gradient_misses(table) -> None:
    histogram = table.moving.loc["histogram-full"]
    assert histogram["exact"] == histogram["EAP-IG 30"] == 1.0
    assert histogram["EAP"] == 0.625
    assert 0.2 < histogram["random"] < 0.8


def test_a_path_finds_a_redundant_gate_that_patching_cannot(table) -> None:
    program = table.table("program").loc["or-redundant-full"]
    assert program["EAP-IG 30"] > program["exact"] + 0.1


def test_the_findings_say_where_a_method_fails(table, tmp_path) -> None:
    assert table.findings()[0].startswith("Supported: exact patching reaches an AUROC of 0.99 on every truth")
    assert any(line.startswith("On histogram-full, EAP 0.62: its MLP turns a number") for line in table.findings())
    table.save(tmp_path / "truth.json")
    again = TruthTable.load(tmp_path / "truth.json")
    assert again.to_dataframe().equals(table.to_dataframe())
    assert len(table.figure().data) == 1


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["causal", "full"])
def test_a_planted_circuit_is_what_moves(attention) -> None:
    truth = load_truth(f"planted-{attention}")
    assert named(truth, truth.moving_edges) == named(truth, truth.program_edges)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="truth: 'nand-full' is unknown; choose of and-causal"):
        load_truth("nand-full")


def test_validity_warns_where_a_method_or_patching_itself_is_blind() -> None:
    """Steep steps between points of the path, and a gate whose inputs suffice without each other."""
    truth = load_truth("histogram-full")
    asked: dict[str, PathSettings] = {"EAP-IG 5": {"ig_steps": 5}, "EAP": {"method": "EAP"}}
    steep = validity(truth.model, truth.readouts, methods=asked, rank_by="EAP-IG 5", n_boot=4)
    assert len(steep.warnings) == 1
    assert "EAP-IG 5 misses" in steep.warnings[0]
    truth = load_truth("or-redundant-full")
    blind = validity(truth.model, truth.readouts, methods=asked, rank_by="EAP-IG 5", n_boot=4)
    assert "worth 0% of the effect: some suffice without others" in blind.warnings[-1]
