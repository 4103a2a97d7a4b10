"""Models of TransformerLens' own (`boot_native`), with and without norms and MLPs, one way and both: scored, patched, run, read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import boot

from hooked_diffusion import DiffusionSpec
from mechshift_tl import attribute
from mechshift_tl.attribution.path import quadrature
from mechshift_tl.bridge.alignment import aligned_logits, spec_of
from mechshift_tl.circuits import Circuit
from mechshift_tl.evaluation import run_circuit
from mechshift_tl.evaluation.run import run_edges
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts
from mechshift_tl.runs.provenance import provenance
from mechshift_tl.views import component_lens

SHAPE: dict[str, Any] = {
    "n_layers": 2, "d_model": 16, "d_head": 4, "n_heads": 4, "n_ctx": 8, "d_vocab": 20, "d_vocab_out": 7, "d_mlp": 24, "act_fn": "relu",
    "attention_dir": "causal", "normalization_type": None, "seed": 3, "initializer_range": 0.3,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "no norm": {},
    "no norm, both ways": {"attention_dir": "bidirectional"},
    "final RMSNorm alone": {"final_rms": True},
    "LayerNorm": {"normalization_type": "LN"},
    "LayerNorm without weights, both ways": {"normalization_type": "LNPre", "attention_dir": "bidirectional"},
    "RMSNorm without weights": {"normalization_type": "RMSPre"},
    "gated MLP, rotated": {"normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu", "positional_embedding_type": "rotary"},
    "shared K and V": {"n_key_value_heads": 2},
}
ALONE: dict[str, Any] = {"attn_only": True}
SETTINGS: list[dict[str, Any]] = [
    {"method": "exact"}, {"method": "EAP-IG-activations"}, {"level": "nodes"}, {"level": "nodes", "method": "exact"},
]  # fmt: skip


def native(**settings: Any) -> Any:
    """A tiny random model whose biases are not 0; one that attends both ways predicts each position's own token."""
    model: Any = boot(TransformerBridgeConfig(**(SHAPE | settings)))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.original_model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    if model.cfg.attention_dir != "causal":
        model.spec = DiffusionSpec("full", logit_shift=0)
    return model


@pytest.fixture(scope="module")
def rows() -> Readouts:
    """Two rows of six tokens, one target each, answered from a vocabulary of seven."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupt = torch.randint(0, 20, (2, 2, 6), generator=generator)
    answers, foils = torch.randint(0, 7, (2, 2), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.tensor([5, 4]), answers, foils)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["EAP-IG-inputs", "EAP-IG-activations"])
def test_edges_are_their_definition(definition: Callable[..., Any], rows, kind, method) -> None:
    scores = attribute(native(**KINDS[kind]), rows, method=method, ig_steps=2)
    by_hand = definition(native(**KINDS[kind]), quadrature("midpoint", 2), activations=method == "EAP-IG-activations")
    expected = by_hand.matrix(rows)
    assert (scores.matrix - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", [*KINDS, "attention alone"])
def test_an_exact_effect_is_what_a_circuit_of_all_other_edges_lacks(rows, kind) -> None:
    model = native(**KINDS.get(kind, ALONE))
    graph, exact = Graph.of(model), attribute(model, rows, method="exact")
    edges = graph.possible.nonzero()[::5].tolist()
    without = [graph.possible.clone() for _ in edges]
    for mask, (writer, reader) in zip(without, edges, strict=True):
        mask[writer, reader] = False
    runs = run_edges(model, rows, graph, without)
    lost = torch.tensor([run.mean(run.clean) - run.mean(run.circuit) for run in runs])
    assert (lost - exact.matrix[tuple(torch.tensor(edges).T)]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", [*KINDS, "attention alone"])
def test_the_whole_graph_is_the_model_and_its_lens_sums_to_it(rows, kind) -> None:
    model = native(**KINDS.get(kind, ALONE))
    scores = attribute(model, rows, method="EAP")
    run = run_circuit(model, rows, Circuit.from_scores(scores, n=scores.graph.n_edges))
    assert run.mean(run.clean) == pytest.approx(scores.clean, abs=1e-6)
    assert (run.circuit.metric - run.clean.metric).abs().max() < 1e-5
    lens = component_lens(model, rows)
    assert lens.gap < 1e-5
    assert lens.effects.sum().item() == pytest.approx(scores.clean, abs=1e-5)


def test_attention_alone_scores_as_a_model_whose_mlps_write_nothing(rows) -> None:
    alone, silent = native(**ALONE), native()
    silent.original_model.load_state_dict(alone.original_model.state_dict(), strict=False)
    for name, parameter in silent.original_model.named_parameters():
        if "fc_out" in name:
            torch.nn.init.zeros_(parameter)
    assert torch.equal(alone(rows.clean), silent(rows.clean))
    for settings in SETTINGS:
        found, expected = (attribute(model, rows, **settings) for model in (alone, silent))
        assert (found.matrix - expected.matrix).abs().max() < 1e-6, settings
    assert Graph.of(alone).n_edges < Graph.of(silent).n_edges
    assert not Graph.of(alone).possible[Graph.of(alone).writers.index("m0")].any()
    with pytest.raises(ValueError, match="mlp.hook_post holds 0 activations"):
        attribute(alone, rows, level="neurons")


@pytest.mark.parametrize("kind", [*KINDS, "attention alone"])
@pytest.mark.parametrize("method", ["relp", "gim"])
def test_rules_act_where_a_model_has_their_parts(rows, kind, method) -> None:
    """The readers' gradients sum to the stream's, or `attribute` would refuse; a node is the sum of its edges."""
    model = native(**KINDS.get(kind, ALONE))
    edges, nodes = (attribute(model, rows, method=method, level=level) for level in ("edges", "nodes"))
    assert edges.matrix.isfinite().all() and edges.matrix.abs().max() > 0
    torch.testing.assert_close(nodes.matrix, edges.matrix.sum(1), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="method 'atp\\*' differentiates attention scores"):
        attribute(model, rows, method="atp*")


def test_a_spec_says_how_a_plain_bridge_is_read() -> None:
    tokens = torch.arange(5)[None]
    causal, both = native(), native(attention_dir="bidirectional")
    assert torch.equal(aligned_logits(both, tokens), both(tokens))
    assert torch.equal(aligned_logits(causal, tokens)[:, 1:], causal(tokens)[:, :-1])
    causal.spec = DiffusionSpec("causal", logit_shift=0)
    assert torch.equal(aligned_logits(causal, tokens), causal(tokens))
    assert provenance(causal, {})["spec"] == causal.spec.to_dict()
    del both.spec
    with pytest.raises(ValueError, match=r"native attends both ways, and nothing says .*set model.spec = DiffusionSpec\(\"full\""):
        spec_of(both)
    both.spec = DiffusionSpec("causal")
    with pytest.raises(ValueError, match="native attends full; its spec says 'causal'"):
        spec_of(both)


def test_answers_belong_to_the_vocabulary_of_the_logits() -> None:
    clean, corrupt = torch.tensor([[3, 19]]), torch.tensor([[4, 19]])
    with pytest.raises(ValueError, match="readouts.answer_ids holds id 7, outside the vocabulary of 7"):
        Readouts.from_tokens(clean, corrupt, torch.tensor([1]), torch.tensor([7]), torch.tensor([0])).check(native())
    larger = native(d_vocab_out=30)
    Readouts.from_tokens(clean, corrupt, torch.tensor([1]), torch.tensor([29]), torch.tensor([0])).check(larger)


def test_hidden_tokens_change_nothing() -> None:
    """Padding on the left of a bridge that attends both ways: the scores are those of the row without it."""
    model = native(attention_dir="bidirectional", positional_embedding_type="rotary")
    clean, corrupt, answer, foil = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 9, 7]]), torch.tensor([1]), torch.tensor([2])
    bare = attribute(model, Readouts.from_tokens(clean, corrupt, torch.tensor([2]), answer, foil))
    pad = torch.tensor([[0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    rows = Readouts.from_tokens(
        torch.cat([pad, clean], 1), torch.cat([pad, corrupt], 1), torch.tensor([4]), answer, foil, attention_mask=mask
    )
    assert (attribute(model, rows).matrix - bare.matrix).abs().max() < 1e-6


def test_k_and_v_per_query_head_are_refused(rows) -> None:
    with pytest.raises(ValueError, match="takes no K or V per query head; use kv='grouped'"):
        attribute(native(n_key_value_heads=2), rows, kv="ungrouped")
