"""What exact patching promises beside the scores that the brute force and the goldens pin: edges asked for, batching, errors.

Models whose keys are normed have no hand-written twin; there TransformerLens' own split inputs, and a model with its K and V repeated, say
what the scores must be.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import Qwen3Config, Qwen3ForCausalLM

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.metrics import logit_diff
from mechshift_tl.interventions.outputs import run_writers
from mechshift_tl.readouts import Readouts

MDM = DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2)


@pytest.fixture(scope="module")
def model(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(), spec=MDM)


@pytest.fixture(scope="module")
def simple() -> Readouts:
    """Two rows of six tokens, one target each."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupt = torch.randint(3, 48, (2, 2, 6), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 2), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.tensor([5, 4]), answers, foils)


def exact(model: Any, rows: Readouts, edges: Tensor | None = None, **settings: Any) -> EdgeScores:
    return attribute(model, rows, method="exact", edges=edges, **settings)


def qwen3(n_kv: int) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=2, initializer_range=0.3,
        num_attention_heads=4, num_key_value_heads=n_kv, head_dim=8,
    )  # fmt: skip
    native = Qwen3ForCausalLM(config).eval()
    for name, parameter in native.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    return native


def bridge(native: Any) -> Any:
    return build_bridge_from_module(native, "Qwen3ForCausalLM", hf_config=native.config, tokenizer=None, model_name="qwen3-tiny")


def assert_same(one: Tensor, other: Tensor, share: float = 1e-5) -> None:
    """Equal to within `share` of the largest entry."""
    assert (one - other).abs().max() <= share * other.abs().max()


@pytest.mark.parametrize("kv", ["grouped", "ungrouped"])
def test_only_what_is_asked_for_is_measured(model, rows, kv) -> None:
    whole = exact(model, rows, kv=kv)
    asked = whole.graph.possible & (torch.rand(whole.matrix.shape, generator=torch.Generator().manual_seed(0)) < 0.2)
    some = exact(model, rows, asked, kv=kv)
    assert_same(some.matrix, whole.matrix * asked)
    assert (some.matrix[~asked] == 0).all() and (whole.matrix[~whole.graph.possible] == 0).all()
    assert exact(model, rows, torch.zeros_like(asked), kv=kv).matrix.abs().sum() == 0


def test_scores_do_not_depend_on_batching(model, rows) -> None:
    whole = exact(model, rows, kv="ungrouped", keep_per_example=True)
    small = exact(model, rows, kv="ungrouped", keep_per_example=True, batch_tokens=24)
    assert_same(small.matrix, whole.matrix)
    assert_same(small.per_step, whole.per_step)
    assert_same(small.resample(range(rows.n_examples)).matrix, whole.matrix)
    assert_same(whole.resample([1, 3]).matrix, exact(model, rows.select([1, 3]), kv="ungrouped").matrix)


def test_nothing_differs_nothing_scores(model, rows) -> None:
    scores = exact(model, dataclasses.replace(rows, corrupt=rows.clean))
    assert scores.matrix.abs().max() < 1e-5 * abs(scores.clean)


def test_several_metrics_are_measured_at_once(model, simple) -> None:
    both = attribute(model, simple, method="exact", metric=["logit_diff", "kl"])
    for name, scores in both.items():
        assert_same(scores.matrix, exact(model, simple, metric=name).matrix)
    assert (both["kl"].matrix >= -1e-6).all(), "no edge brings a run closer to the clean one than itself"


def test_a_span_is_patched_alone(model, simple) -> None:
    """What the logits read at a position comes from that position: of two spans only the one that is read there carries anything."""
    parts = simple.answer_ids, simple.foil_ids
    rows = Readouts.from_tokens(simple.clean, simple.corrupt, torch.tensor([5, 4]), *parts, spans={"before": (0, 4), "after": (4, 6)})
    scores = exact(model, rows, per_position=True)
    assert scores.span("before").matrix[:, -1].abs().max() < 1e-5 * scores.matrix.abs().max()
    assert_same(scores.span("after").matrix[:, -1], exact(model, simple).matrix[:, -1])


def test_padding_does_not_leak(model, simple) -> None:
    pad = torch.full((2, 3), 5)
    clean, corrupt = (torch.cat([pad, tokens], 1) for tokens in (simple.clean, simple.corrupt))
    mask = torch.arange(9).expand(2, -1) >= 3
    padded = Readouts.from_tokens(clean, corrupt, simple.target_pos + 3, simple.answer_ids, simple.foil_ids, attention_mask=mask)
    assert_same(exact(model, padded, kv="ungrouped").matrix, exact(model, simple, kv="ungrouped").matrix)


def test_edges_into_normed_queries_and_keys_are_those_of_split_inputs(simple) -> None:
    """TransformerLens' own way: every head with an input of its own, which a hook may change."""
    model = bridge(qwen3(n_kv=2))
    scores = exact(model, simple)
    batch = next(simple.batches(10_000))
    clean, logits = run_writers(model, batch)
    head = (clean - run_writers(model, batch, "corrupt")[0]).z[0][:, :, 2] @ model.blocks[0].attn.W_O[2]
    model.set_use_split_qkv_input(True)
    for reader, name, index in (("a1.h3<q>", "hook_q_input", 3), ("a1.g1<k>", "hook_k_input", 1), ("a1.g0<v>", "hook_v_input", 0)):

        def without(tensor: Tensor, hook: Any, index: int = index) -> Tensor:
            tensor = tensor.clone()
            tensor[:, :, index] -= head
            return tensor

        with torch.no_grad(), model.hooks(fwd_hooks=[(f"blocks.1.attn.{name}", without)]):
            patched = batch.logits(model)
        effect = logit_diff(logits, batch.answer_ids, batch.foil_ids) - logit_diff(patched, batch.answer_ids, batch.foil_ids)
        found = scores.matrix[scores.writers.index("a0.h2"), scores.readers.index(reader)]
        torch.testing.assert_close(found, effect.mean(), rtol=1e-3, atol=1e-6)


def test_ungrouped_edges_are_those_of_a_model_with_its_keys_and_values_repeated(simple) -> None:
    grouped, repeated = qwen3(n_kv=2), qwen3(n_kv=4)
    weights = grouped.state_dict()
    for name in weights:
        if "k_proj" in name or "v_proj" in name:
            weights[name] = weights[name].reshape(2, 8, -1).repeat_interleave(2, 0).flatten(0, 1)
    repeated.load_state_dict(weights)
    one, other = exact(bridge(grouped), simple, kv="ungrouped"), exact(bridge(repeated), simple)
    assert one.readers == other.readers
    assert_same(one.matrix, other.matrix)


def test_the_model_is_left_as_it_was(model, simple) -> None:
    before = model(simple.clean)
    exact(model, simple)
    assert torch.equal(model(simple.clean), before)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_what_cannot_be_measured_is_refused(model, simple) -> None:
    possible = exact(model, simple, batch_tokens=1).graph.possible
    with pytest.raises(ValueError, match=r"edges is torch.float32 \(3, 4\); give a bool mask \(11, 19\)"):
        exact(model, simple, torch.ones(3, 4))
    with pytest.raises(ValueError, match="edges is a list; give a bool mask, such as a circuit's .edges"):
        exact(model, simple, cast(Any, [("input", "m0")]))
    with pytest.raises(ValueError, match="a0.h0 → a0.h0<q> cannot exist; intersect edges with graph.possible"):
        exact(model, simple, torch.ones_like(possible))
    with pytest.raises(ValueError, match="edges= chooses what exact patching measures; method 'EAP' of edges scores all of them"):
        attribute(model, simple, method="EAP", edges=possible)
