"""Circuits of all edges but one against exact patching of that edge: two implementations that share no forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformer_lens.model_bridge.sources import build_bridge_from_module

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.evaluation.run import run_edges
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.replaced import writer_means
from mechshift_tl.readouts import Readouts

SHAPE: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0, "use_cache": False,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    "Qwen3": {"head_dim": 6},
    "Gemma": {"head_dim": 8},
    "Starcoder2": {},
}
WITHOUT_GROUPS: dict[str, dict[str, Any]] = {
    "OPT": {"num_key_value_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32},  # rows and positions are one axis around the MLPs
    "Phi3": {},  # q, k and v in one matrix: grouped, but only as a group
}


def tiny(family: str) -> Any:
    """A tiny random model whose norms and biases are no identities."""
    torch.manual_seed(0)
    settings = SHAPE | (FAMILIES | WITHOUT_GROUPS)[family]
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**settings)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            nn.init.normal_(parameter, mean=float("bias" not in name and family != "Gemma"), std=0.3)
    return model


def rows(seed: int = 1) -> Readouts:
    """Two rows of six tokens, read at two positions; the second's first token is hidden."""
    generator = torch.Generator().manual_seed(seed)
    clean, corrupt = torch.randint(3, 48, (2, 2, 6), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 2, 2), generator=generator)
    mask = torch.tensor([[True] * 6, [False] + [True] * 5])
    return Readouts.from_tokens(clean, corrupt, torch.tensor([[3, 5], [4, 5]]), answers, foils, attention_mask=mask)


def assert_parity(model: Any, kv: Any, intervention: Any = "counterfactual") -> None:
    """metric(clean) − metric(all edges but e) is e's exact score, for the input's and a few other edges into every kind of reader."""
    graph, readouts = Graph.of(model, kv), rows()
    means = writer_means(model, rows(2), positional=intervention == "mean_positional") if intervention.startswith("mean") else None
    order = torch.randperm(int(graph.possible.sum()), generator=torch.Generator().manual_seed(0))
    chosen = graph.possible.nonzero()[order[:6]].tolist()
    chosen += [[0, column] for column in range(graph.attention_readers(1).start, len(graph.readers), 4)]
    asked = torch.zeros_like(graph.possible)
    asked[tuple(torch.tensor(chosen).T)] = True
    settings: dict[str, Any] = {"intervention": intervention, "means": means}
    exact = attribute(model, readouts, method="exact", kv=kv, edges=asked, **settings)
    places = asked.nonzero().tolist()
    without = [graph.possible.clone() for _ in places]
    for edges, (writer, reader) in zip(without, places, strict=True):
        edges[writer, reader] = False
    runs = run_edges(model, readouts, graph, without, **settings)
    found = torch.tensor([run.mean(run.clean) - run.mean(run.circuit) for run in runs])
    expected = exact.matrix[asked]
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-5 * max(1.0, abs(exact.clean)))


def bridge(family: str) -> Any:
    hf_model = tiny(family)
    return build_bridge_from_module(hf_model, type(hf_model).__name__, hf_config=hf_model.config, tokenizer=None, model_name=family)


@pytest.mark.parametrize(
    ("family", "kv"), [*((f, kv) for f in FAMILIES for kv in ("grouped", "ungrouped")), *((f, "grouped") for f in WITHOUT_GROUPS)]
)
def test_all_edges_but_one_are_the_edge_s_exact_score(family, kv) -> None:
    assert_parity(bridge(family), kv)


@pytest.mark.parametrize("intervention", ["counterfactual", "zero", "mean", "mean_positional"])
def test_so_they_are_on_an_mdm_whatever_stands_outside(native, intervention) -> None:
    spec = DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2)
    assert_parity(HookedDiffusionTransformer.from_hf(native("qwen2"), spec=spec), "ungrouped", intervention)


def test_and_on_learned_positions_with_layer_norm(native) -> None:
    assert_parity(HookedDiffusionTransformer.from_hf(native("gpt2")), "grouped")


def test_heads_that_take_no_k_and_v_of_their_own_are_refused() -> None:
    model = bridge("Phi3")
    graph = Graph.of(model, "ungrouped")
    with pytest.raises(ValueError, match="Phi3: its q, k and v come from one matrix, .*; run circuits of kv='grouped' scores"):
        run_edges(model, rows(), graph, [graph.possible])
