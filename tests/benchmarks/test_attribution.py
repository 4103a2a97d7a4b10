"""That each variant of the benchmark computes what it is measured for; nothing here is timed."""

from __future__ import annotations

import json

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from benchmarks import attribution
from benchmarks.circuits import circuit_costs
from benchmarks.floor import floor
from benchmarks.growth import growth
from benchmarks.literal import published, split_hooks
from benchmarks.measure import costs, peak_bytes
from benchmarks.peer import edge_scores
from benchmarks.sizes import Size, hooked, native, prompts, ungrouped
from mechshift_tl import attribute

GROUPED = Size(3, 64, 4, 2, prompts=3, tokens=9)
PLAIN = Size(2, 64, 4, 4, prompts=2, tokens=7)


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_the_floor_is_the_path_s_gradient_at_the_embeddings() -> None:
    model, rows = native(GROUPED), prompts(GROUPED)
    embed = model.get_input_embeddings()
    gradient = floor(model, rows, 4)
    along = (gradient * (embed(rows.clean) - embed(rows.corrupt))).sum() / len(rows)
    scores = attribute(hooked(model), rows, ig_steps=4)
    assert along.item() == pytest.approx(scores.matrix[0].sum().item(), rel=1e-4)


@pytest.mark.parametrize("method", [split_hooks, published])
def test_the_literal_methods_agree_with_attribute(method) -> None:
    model, rows = native(GROUPED), prompts(GROUPED)
    assert_same(attribute(hooked(model), rows, ig_steps=3).matrix, method(hooked(model), rows, 3))
    expanded = method(hooked(ungrouped(model)), rows, 3)
    assert_same(attribute(hooked(model), rows, ig_steps=3, kv="ungrouped").matrix, expanded)


def test_the_literal_methods_leave_the_model_as_it_was() -> None:
    bridge, rows = hooked(native(PLAIN)), prompts(PLAIN)
    before = bridge(rows.clean)
    for method in (split_hooks, published):
        method(bridge, rows, 1)
        assert torch.equal(bridge(rows.clean), before)
        assert all(p.grad is None and not p.requires_grad for p in bridge.parameters())
        assert not bridge.cfg.use_split_qkv_input and not bridge.cfg.use_attn_result


def test_transformer_lens_agrees_with_one_step_at_the_corrupt_end() -> None:
    bridge, rows = hooked(native(PLAIN)), prompts(PLAIN)
    assert_same(attribute(bridge, rows, ig_steps=1, rule="left").matrix, edge_scores(bridge, rows))


def test_ungrouping_changes_no_logit() -> None:
    model = native(GROUPED)
    tokens = prompts(GROUPED).clean
    torch.testing.assert_close(ungrouped(model)(tokens).logits, model(tokens).logits, atol=1e-6, rtol=1e-5)


def test_peak_memory_is_exact() -> None:
    def run() -> None:
        first = torch.empty(1000)
        second = first.neg()  # both are held: 8000 bytes
        del first
        torch.empty(500).copy_(second[:500])

    assert peak_bytes(run) == 8000


def test_variants_take_turns_until_their_patience_ends() -> None:
    turns: list[str] = []
    measured = costs({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, repeats=3)
    assert turns == ["a", "b"] * 4
    assert [len(cost.seconds) for cost in measured.values()] == [3, 3]
    assert len(costs({"a": lambda: None}, repeats=3, patience=0.0)["a"].seconds) == 1


def test_growth_doubles_one_factor() -> None:
    grown = growth("heads", 1, start=PLAIN, doublings=1)
    assert grown.values == (4, 8) and not grown.targets()
    assert "| 8 " in grown.markdown()
    assert [t.name for t in growth("prompts", 1, start=PLAIN, doublings=1).targets()] == ["time of attribute when prompts doubles"]
    wider = growth("width", 1, start=PLAIN, doublings=1)
    assert [t.name for t in wider.targets()] == ["attribute / floor at the greatest width, as a share of that at the least"]


def test_circuits_keep_the_shares_they_are_named_by() -> None:
    measured = circuit_costs(PLAIN, 1, shares=(0.02, 1.0))
    assert list(measured.alone) == [0.02, 1.0] and len(measured.targets()) == 2
    assert "| 100 %" in measured.markdown()


def test_the_command_prints_targets_and_writes_every_figure(tmp_path) -> None:
    app = Typer()
    app.command()(attribution.main)
    threads = torch.get_num_threads()
    result = CliRunner().invoke(app, ["--size", "tiny", "--factor", "none", "--repeats", "1", "--json", str(tmp_path / "figures.json")])
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert all(
        word in result.output for word in ("attribute / floor", "published", "TransformerLens", "peak MiB", "target ≤", "kept edges")
    )
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["sizes"]["tiny"]["costs"]) == {
        "floor", "attribute", "attribute, two thirds alike", "attribute, full attention", "split hooks", "published"
    }  # fmt: skip
    unknown = CliRunner().invoke(app, ["--size", "huge"])
    assert unknown.exit_code == 2 and "huge" in unknown.output
