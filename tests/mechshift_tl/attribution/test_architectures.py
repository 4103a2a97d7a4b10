"""Architectures beyond Llama, Qwen2 and GPT-2, as TransformerLens bridges them: scored by the definition, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformer_lens.model_bridge.sources import build_bridge_from_module

from mechshift_tl import attribute
from mechshift_tl.attribution.path import quadrature
from mechshift_tl.readouts import Readouts

SHAPE: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0, "use_cache": False,
}  # fmt: skip
#: What each does that Llama does not.
KNOWN: dict[str, dict[str, Any]] = {
    "Qwen3": {"head_dim": 8},  # keys and queries are normed
    "Gemma": {"head_dim": 8},  # norms store their weight less one; embeddings are scaled
    "Olmo": {},  # norms without weights
    "Granite": {"attention_multiplier": 0.2, "residual_multiplier": 1.0, "embedding_multiplier": 2.0},  # scores scaled otherwise
    "StableLm": {"partial_rotary_factor": 0.5, "use_qkv_bias": True},  # part of each head is rotated
    "Glm": {"head_dim": 8, "partial_rotary_factor": 0.5},  # … in pairs of neighbours
    "Phi3": {},  # q, k and v in one matrix
    "SmolLM3": {"no_rope_layers": [1, 0]},  # a layer without positions
    "Mistral": {"sliding_window": 3},  # attention reaches three tokens back
    "Starcoder2": {},  # LayerNorm with biases over shared K and V
}
UNKNOWN: dict[str, dict[str, Any]] = {
    "Gemma2": {"head_dim": 8},
    "Olmo2": {},
    "Granite": {"residual_multiplier": 0.22},
}


def native(family: str, **settings: Any) -> Any:
    """A tiny random model whose norms and biases are no identities."""
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**(SHAPE | settings))).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            nn.init.normal_(parameter, mean=float("bias" not in name and family != "Gemma"), std=0.3)
    return model


def bridge(hf_model: Any, name: str = "tiny") -> Any:
    return build_bridge_from_module(hf_model, type(hf_model).__name__, hf_config=hf_model.config, tokenizer=None, model_name=name)


@pytest.fixture(scope="module")
def rows() -> Readouts:
    """Two rows of six tokens, one target each."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupt = torch.randint(3, 48, (2, 2, 6), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 2), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.tensor([5, 4]), answers, foils)


def disagreement(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest score."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("family", KNOWN)
def test_edges_are_their_definition(definition: Callable[..., Any], rows, family) -> None:
    scores = attribute(bridge(native(family, **KNOWN[family])), rows, ig_steps=2)
    expected = definition(bridge(native(family, **KNOWN[family])), quadrature("midpoint", 2)).matrix(rows)
    assert disagreement(scores.matrix, expected) < 1e-5


@pytest.mark.parametrize("family", KNOWN)
def test_tokens_that_the_path_does_not_move_are_left_out_of_it(definition: Callable[..., Any], rows, family) -> None:
    late = replace(rows, corrupt=torch.where(torch.arange(6) == 3, rows.corrupt, rows.clean))
    scores = attribute(bridge(native(family, **KNOWN[family])), late, ig_steps=2)
    expected = definition(bridge(native(family, **KNOWN[family])), quadrature("midpoint", 2)).matrix(late)
    assert disagreement(scores.matrix, expected) < 1e-5


@pytest.mark.parametrize("family", KNOWN)
def test_edges_are_patched_by_the_model_s_own_norms_and_projections(definition: Callable[..., Any], rows, family) -> None:
    """One edge of every kind: the reader's input is remade by its own modules, in float64, from a residual that lacks Δu."""
    scores = attribute(bridge(native(family, **KNOWN[family])), rows, method="exact")
    by_hand = definition(bridge(native(family, **KNOWN[family])), [])
    for writer, reader in [("input", "a1.h1<q>"), ("a0.h2", "a1.g1<k>"), ("m0", "a1.g0<v>"), ("a1.h3", "m1"), ("a0.h1", "logits")]:
        expected = sum(patched(by_hand, rows, i, writer, reader) for i in range(2)) / 2
        found = scores.matrix[scores.writers.index(writer), scores.readers.index(reader)].item()
        assert found == pytest.approx(expected, abs=1e-5 * scores.matrix.abs().max().item()), (writer, reader)


@torch.no_grad()
def patched(by_hand: Any, rows: Readouts, i: int, writer: str, reader: str) -> float:
    """What the metric of row `i` loses without what `writer` brings `reader`."""
    model, graph = by_hand.model, by_hand.graph
    clean, corrupt, logits = by_hand.ends(rows, i)
    delta = by_hand.expanded({name: clean[name] - corrupt[name] for name in clean})[graph.writers.index(writer)]
    block = model.blocks[1]
    stream, module, hook = {
        "m": ("blocks.1.hook_resid_mid", block.ln2, "blocks.1.mlp.hook_in"),
        "l": ("blocks.1.hook_resid_post", model.ln_final, "unembed.hook_in"),
        "a": ("blocks.1.hook_resid_pre", block.ln1, f"blocks.1.attn.hook_{reader[-2]}"),
    }[reader[0]]
    kept = {stream: torch.empty(0), hook: torch.empty(0)}
    by_hand.run(rows.clean[i], kept)
    remade = module(kept[stream] - delta)
    if reader[0] == "a":
        head, whole = int(reader[4]), kept[hook].clone()
        whole[:, :, head] = getattr(block.attn, reader[-2])(remade).reshape(whole.shape)[:, :, head]
        remade = whole
    after = by_hand.run(rows.clean[i], {}, {hook: remade})
    return (by_hand.metric(logits, rows, i, logits) - by_hand.metric(after, rows, i, logits)).item()


def with_own_k_and_v(hf_model: Any) -> Any:
    """The same function without groups: each K and V head is written out once per query head that shares it."""
    heads, shared = hf_model.config.num_attention_heads, hf_model.config.num_key_value_heads
    for layer in hf_model.model.layers:
        attention = layer.self_attn
        for name in ("k_proj", "v_proj"):
            old = getattr(attention, name)
            new = nn.Linear(old.in_features, old.out_features * heads // shared, bias=old.bias is not None)
            for kind in ("weight", "bias")[: 1 + (old.bias is not None)]:
                per_head = getattr(old, kind).data.unflatten(0, (shared, -1))
                setattr(new, kind, nn.Parameter(per_head.repeat_interleave(heads // shared, 0).flatten(0, 1)))
            setattr(attention, name, new)
        attention.num_key_value_groups, attention.num_key_value_heads = 1, heads
    hf_model.config = copy.deepcopy(hf_model.config)
    hf_model.config.num_key_value_heads = heads
    return hf_model


@pytest.mark.parametrize("family", [family for family in KNOWN if family != "Phi3"])
def test_ungrouped_scores_are_those_of_a_model_whose_heads_have_their_own(rows, family) -> None:
    shared, apart = native(family, **KNOWN[family]), with_own_k_and_v(native(family, **KNOWN[family]))
    assert (shared(rows.clean).logits - apart(rows.clean).logits).abs().max() < 1e-4, "the ungrouped model is another one"
    ungrouped, expected = attribute(bridge(shared), rows, kv="ungrouped"), attribute(bridge(apart), rows)
    assert ungrouped.readers == expected.readers
    assert disagreement(ungrouped.matrix, expected.matrix) < 1e-5


@pytest.mark.parametrize("family", KNOWN)
def test_ungrouped_scores_sum_to_the_group_s(rows, family) -> None:
    model = bridge(native(family, **KNOWN[family]))
    grouped, ungrouped = (attribute(model, rows, kv=kv) for kv in ("grouped", "ungrouped"))
    for column, reader in enumerate(grouped.readers):
        kind = reader[-3:] if reader.endswith(">") else ""
        shared = [component + kind for component in grouped.graph.components_of(reader)] or [reader]
        summed = ungrouped.matrix[:, [ungrouped.readers.index(name) for name in shared]].sum(1)
        assert (grouped.matrix[:, column] - summed).abs().max() < 1e-5 * grouped.matrix.abs().max(), reader


@pytest.mark.parametrize("family", UNKNOWN)
@pytest.mark.parametrize("level", ["edges", "nodes"])
def test_blocks_that_add_something_else_than_their_writers_are_refused(rows, family, level) -> None:
    model = bridge(native(family, **UNKNOWN[family]), family)
    with pytest.raises(ValueError, match=rf"{family}: heads and MLP miss \d+% of what block . adds to the residual \(post-norms"):
        attribute(model, rows, level=level)


def test_norms_that_are_not_what_they_say_are_refused(rows, monkeypatch) -> None:
    """A weight read wrongly, as once Gemma's would have been: gradients of the readers no longer add up to the residual's."""
    from mechshift_tl.attribution import readers

    model = bridge(native("Gemma", **KNOWN["Gemma"]), "odd")
    monkeypatch.setattr(readers, "norm_weight", lambda norm, device=None: norm.weight.detach())
    with pytest.raises(ValueError, match=r"odd: the gradients of all readers sum to -?\d+\.\d+ of the residual stream's"):
        attribute(model, rows)
    attribute(model, rows, level="nodes", method="EAP")
    monkeypatch.undo()
    attribute(model, rows, method="EAP")


@pytest.mark.parametrize("family", ["Qwen3", "Gemma"])
@pytest.mark.parametrize("processing", [{}, {"no_processing": True}])
def test_weights_processed_by_transformer_lens_score_alike(rows, family, processing) -> None:
    """Folded norms, centred weights and biases: another parametrisation of the same function and the same residual readers."""
    model = bridge(native(family, **KNOWN[family]))
    model.enable_compatibility_mode(**processing)
    expected = attribute(bridge(native(family, **KNOWN[family])), rows, method="EAP")
    assert disagreement(attribute(model, rows, method="EAP").matrix, expected.matrix) < 1e-4


def test_neurons_of_a_mixture_of_experts_are_refused(rows) -> None:
    model = bridge(native("Mixtral", num_local_experts=2), "mixture")
    with pytest.raises(ValueError, match="mixture: blocks.0.mlp.hook_post holds .* not d_mlp = 64 neurons .*; attribute its nodes instead"):
        attribute(model, rows, level="neurons")
    edges, nodes = (attribute(model, rows, level=level) for level in ("edges", "nodes"))
    assert disagreement(edges.matrix.sum(1), nodes.matrix) < 1e-5
