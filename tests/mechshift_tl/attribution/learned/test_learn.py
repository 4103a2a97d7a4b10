"""Learned masks: a planted truth that they find, the same end after a stop, sizes, nodes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.attribution import EdgeScores, attribute
from mechshift_tl.attribution.learned import descent, learn_masks
from mechshift_tl.circuits import Circuit, read_graph_scores, write_graph
from mechshift_tl.evaluation.faithfulness import recovered
from mechshift_tl.evaluation.run import run_circuits
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts

SPECS = {"causal": DiffusionSpec(), "full": DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2)}
FAST: dict[str, Any] = {"steps": 8, "rows": 4}


def with_idle_heads(native: Any, attention: str) -> Any:
    """A model of one layer, with a silent MLP, whose heads 0 and 1 write much and cancel: its behaviour is that of heads 2 and 3."""
    hf_model = native(num_hidden_layers=1, num_key_value_heads=4)
    attn = hf_model.model.layers[0].self_attn
    with torch.no_grad():
        for part in (attn.q_proj, attn.k_proj, attn.v_proj):
            part.weight[8:16] = part.weight[:8]
        hf_model.model.layers[0].mlp.down_proj.weight.zero_()
        attn.o_proj.weight[:, :8] *= 4
        attn.o_proj.weight[:, 8:16] = -attn.o_proj.weight[:, :8]
    return HookedDiffusionTransformer.from_hf(hf_model, spec=SPECS[attention])


def rows_of(model: Any, n: int = 12, seed: int = 0) -> Readouts:
    """Rows whose answer the model ranks first when clean, and whose foil when corrupt."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(3, 48, (n, 7), generator=generator)
    corrupt = clean.clone()
    corrupt[:, 1:5] = torch.randint(3, 48, (n, 4), generator=generator)
    at = 6 - model.spec.logit_shift
    with torch.no_grad():
        answers, foils = (model(tokens)[:, at].argmax(-1) for tokens in (clean, corrupt))
    return Readouts.from_tokens(clean, corrupt, torch.full((n,), 6), answers, (foils + (foils == answers)) % 48)


def auroc(scores: EdgeScores, truth: torch.Tensor, other: torch.Tensor) -> float:
    """The share of pairs of a true and another edge in which |score| of the true one is larger."""
    strength = scores.matrix.abs()
    return (strength[truth][:, None] > strength[other]).double().mean().item()


def edges_of(graph: Graph, heads: range) -> torch.Tensor:
    """The edges input → k, input → v and head → logits of some heads of the first layer."""
    edges = torch.zeros_like(graph.possible)
    for h in heads:
        edges[0, [graph.readers.index(f"a0.h{h}<{kind}>") for kind in "kv"]] = True
        edges[graph.writers.index(f"a0.h{h}"), -1] = True
    return edges


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_a_planted_truth_is_ranked_better_than_by_its_start(native, attention) -> None:
    model = with_idle_heads(native, attention)
    readouts, graph = rows_of(model, 24), Graph.of(model)
    parts = edges_of(graph, range(2, 4)), edges_of(graph, range(2))
    start = attribute(model, readouts)
    learned = learn_masks(model, readouts, start=start, steps=80, rows=12, smallest=0.1, largest=0.6, spread=1.0)
    assert auroc(learned, *parts) > max(0.9, auroc(start, *parts) + 0.1)
    held_out = rows_of(model, 24, seed=1)
    deficits = [
        sum((1 - recovered(run)[0]).abs().item() for run in run_circuits(model, held_out, [Circuit.from_scores(s, n) for n in (4, 6, 9)]))
        for s in (learned, start)
    ]
    assert deficits[0] < 0.6 * deficits[1]


def test_a_stopped_run_goes_on_and_ends_bit_equal(native, tmp_path, monkeypatch) -> None:
    model = HookedDiffusionTransformer.from_hf(native())
    readouts = rows_of(model)
    start = attribute(model, readouts, ig_steps=1)
    monkeypatch.setattr(descent, "KEPT_EVERY", 3)
    whole = learn_masks(model, readouts, start=start, **FAST)
    step = descent.Descent._step

    def stopping(self: Any, held: Any) -> None:
        if self.done == 5:
            raise KeyboardInterrupt
        step(self, held)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(descent.Descent, "_step", stopping)
        learn_masks(model, readouts, start=start, journal=tmp_path, **FAST)
    taken: list[int] = []
    monkeypatch.setattr(descent.Descent, "_step", lambda self, held: taken.append(self.done) or step(self, held))
    resumed = learn_masks(model, readouts, start=start, journal=tmp_path, **FAST)
    assert taken == [3, 4, 5, 6, 7] and torch.equal(resumed.matrix, whole.matrix)
    with pytest.raises(ValueError, match="is the journal of other work"):
        learn_masks(model, readouts, start=start, journal=tmp_path, **FAST, seed=1)


@pytest.mark.parametrize(("family", "attention"), [("llama", "full"), ("gpt2", "causal"), ("qwen3", "causal")])
@pytest.mark.parametrize("kv", ["grouped", "ungrouped"])
def test_scores_are_ranks_that_circuits_and_files_take(native, tmp_path: Path, family, attention, kv) -> None:
    if (family, kv) == ("gpt2", "ungrouped"):
        pytest.skip("GPT-2 has no groups")
    model = HookedDiffusionTransformer.from_hf(native(family), spec=SPECS[attention])
    readouts = rows_of(model, 4)
    scores = learn_masks(model, readouts, kv=kv, **FAST)
    n, found = scores.graph.n_edges, scores.matrix[scores.graph.possible]
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    torch.testing.assert_close(found.sort(descending=True).values, (1 - ranks.log() / torch.tensor(n + 1.0).log().double()).float())
    assert Circuit.from_scores(scores, 9, prune=False).kept == 9
    write_graph(scores, tmp_path / "importances.json")
    assert read_graph_scores(tmp_path / "importances.json").matrix.max() > 0
    exact = attribute(model, readouts, ig_steps=1)
    assert (scores.clean, scores.corrupt) == pytest.approx((exact.clean, exact.corrupt), abs=1e-4)
    assert torch.equal(learn_masks(model, readouts, kv=kv, **FAST).matrix, scores.matrix)


def test_nodes_one_size_and_another_loss(native) -> None:
    model = HookedDiffusionTransformer.from_hf(native())
    readouts = rows_of(model, 4)
    nodes = learn_masks(model, readouts, level="nodes", start=attribute(model, readouts, level="nodes", ig_steps=1), **FAST)
    assert nodes.matrix.shape == (11,) and nodes.matrix.max() == 1
    one = learn_masks(model, readouts, objective=10, **FAST)
    most = learn_masks(model, readouts, objective=10, loss="metric", **FAST)
    assert not torch.equal(one.matrix, most.matrix)


def test_what_does_not_fit_is_refused(native) -> None:
    model = HookedDiffusionTransformer.from_hf(native())
    readouts = rows_of(model, 4)
    other = attribute(HookedDiffusionTransformer.from_hf(native(num_hidden_layers=1)), readouts, method="EAP")
    with pytest.raises(ValueError, match="n_layers 2 and 1"):
        learn_masks(model, readouts, start=other)
    start: Any = attribute(model, readouts, level="nodes", method="EAP")
    with pytest.raises(ValueError, match="are not of edges; give scores of edges"):
        learn_masks(model, readouts, start=start)
    with pytest.raises(ValueError, match="objective is 500, but there are .* edges; give a smaller size"):
        learn_masks(model, readouts, objective=500)
    same = Readouts.from_tokens(readouts.clean, readouts.clean, readouts.target_pos, readouts.answer_ids, readouts.foil_ids)
    with pytest.raises(ValueError, match="in the clean and in the corrupt run; give prompts that differ"):
        learn_masks(model, same)


def test_attribute_learns_from_a_start_by_eap_ig(native):
    model = with_idle_heads(native, "causal")
    rows = rows_of(model, 4)
    found = attribute(model, rows, method="learned", ig_steps=2, seed=3)
    by_hand = learn_masks(model, rows, start=attribute(model, rows, ig_steps=2), seed=3)
    assert found.matrix.equal(by_hand.matrix)
    assert found.settings is not None and (found.settings.method, found.settings.seed) == ("learned", 3)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"keep_per_example": True}, "keep_per"),
        ({"level": "neurons"}, "neurons"),
        ({"gap": 0.1}, "gap"),
    ]
    for given, message in refused:
        with pytest.raises(ValueError, match=message):
            attribute(model, rows, method="learned", **given)
