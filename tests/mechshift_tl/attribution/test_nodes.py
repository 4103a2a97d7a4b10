"""Nodes and neurons: against edges, against finite differences in float64, and against outputs put into the native model by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores, NodeScores
from mechshift_tl.attribution.path import quadrature
from mechshift_tl.readouts import Readouts

THREE = quadrature("midpoint", 3)


@pytest.fixture(scope="module")
def few(rows) -> Readouts:
    """Two examples: four rows of two lengths in two steps."""
    return rows.select([0, 1])


def close(found: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    """Equal to within `share` of the largest entry."""
    assert (found - expected).abs().max() <= share * expected.abs().max()


@pytest.mark.parametrize("kind", ["arm", "mdm", "gpt2"])
@pytest.mark.parametrize(
    ("method", "intervention"),
    [("EAP", "counterfactual"), ("clean-corrupted", "counterfactual"), ("EAP-IG-inputs", "counterfactual"), ("EAP-IG-inputs", "zero")],
)
def test_a_node_is_the_sum_of_its_outgoing_edges(bridged, few, kind, method, intervention) -> None:
    model = bridged(kind)
    edges, nodes = (
        attribute(model, few, method=method, level=level, intervention=intervention, keep_per_example=True) for level in ("edges", "nodes")
    )
    assert isinstance(edges, EdgeScores) and isinstance(nodes, NodeScores) and nodes.ids == edges.writers
    close(nodes.matrix, edges.matrix.sum(1))
    close(nodes.per_step, edges.per_step.sum(2))
    assert nodes.per_example is not None and edges.per_example is not None
    close(nodes.per_example, edges.per_example.sum(2))
    assert nodes.completeness_gap == pytest.approx(edges.completeness_gap, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kind", ["arm", "mdm", "gpt2"])
@pytest.mark.parametrize("method", ["EAP", "EAP-IG-inputs", "EAP-IG-activations"])
def test_an_mlp_is_the_sum_of_its_neurons_only_along_one_path(bridged, few, kind, method) -> None:
    """The down projection is linear and its bias is on both sides; along their own paths too, for the MLP's output moves as they do."""
    model = bridged(kind)
    nodes, neurons = (attribute(model, few, method=method, level=level) for level in ("nodes", "neurons"))
    assert neurons.ids[:2] == ["m0.n0", "m0.n1"] and len(neurons.ids) == len(neurons.matrix) == 2 * model.cfg.d_mlp
    mlps = [nodes.ids.index(name) for name in ("m0", "m1")]
    torch.testing.assert_close(neurons.matrix.view(2, -1).sum(1), nodes.matrix[mlps], rtol=1e-4, atol=1e-5)


def test_nodes_are_the_metric_s_slopes_along_their_delta(bridged, definition, few) -> None:
    """d/dt of the metric with t·Δu added at the node, at every point of the path, by central differences."""
    step, by_hand = 1e-3, definition("gpt2", [])
    nodes = attribute(bridged("gpt2"), few, level="nodes", ig_steps=3)
    expected = torch.zeros(len(nodes.matrix))
    for i in range(len(few)):
        clean, corrupt, logits = by_hand.ends(few, i)
        shown = (few.clean[i] >= 0).nonzero()[:, 0]
        for node, (name, part) in enumerate(writers(by_hand.stands)):
            delta = torch.zeros_like(clean[name])
            delta[:, part] = (clean[name] - corrupt[name])[:, part]
            for alpha, weight in THREE:
                start = corrupt[by_hand.stands[0]] + alpha * (clean[by_hand.stands[0]] - corrupt[by_hand.stands[0]])
                ends = [shifted(by_hand, few.clean[i, shown], start[shown], name, sign * step * delta[shown]) for sign in (1, -1)]
                up, down = (by_hand.metric(end, few, i, logits).item() for end in ends)
                expected[node] += int(few.n_read[i]) * weight * (up - down) / (2 * step)
    close(nodes.matrix, expected / int(few.n_read.sum()), 1e-4)


def writers(stands: list[str]) -> Iterator[tuple[str, Any]]:
    """Hook of every node and where on it the node stands."""
    for name in stands:
        yield from ((name, h) for h in range(4)) if name.endswith("hook_z") else ((name, slice(None)),)


@torch.no_grad()
def shifted(by_hand: Any, tokens: Tensor, start: Tensor, name: str, delta: Tensor) -> Tensor:
    """Logits with `start` for an embedding and `delta` added at a hook."""
    first = (by_hand.stands[0], lambda tensor, hook: start.reshape(tensor.shape))
    second = (name, lambda tensor, hook: tensor + delta.reshape(tensor.shape))
    with by_hand.model.hooks(fwd_hooks=[first, second]):
        return by_hand.model(tokens[None])


# Exact patching, with the native model's own modules.


@contextmanager
def put_in(module: Any, columns: slice, values: Tensor) -> Iterator[None]:
    """Puts `values (rows, pos, columns)` into some columns of what a native module reads."""

    def before(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = args[0].clone()
        changed[..., columns] = values
        return (changed,)

    handle = module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def read_by(native: Any, module: Any, tokens: Tensor) -> Tensor:
    """What a native module reads when the model runs."""
    kept = []
    handle = module.register_forward_pre_hook(lambda _module, args: kept.append(args[0].clone()))
    native(input_ids=tokens, use_cache=False)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("intervention", ["counterfactual", "zero"])
@pytest.mark.parametrize("level", ["nodes", "neurons"])
@torch.no_grad()
def test_exact_patching_is_a_native_model_given_other_values(native, level, intervention) -> None:
    generator = torch.Generator().manual_seed(3)
    clean, corrupt = torch.randint(3, 48, (2, 2, 6), generator=generator)
    rows = Readouts.from_tokens(clean, corrupt, torch.tensor([5, 4]), torch.tensor([7, 8]), torch.tensor([9, 10]))
    scores = attribute(HookedDiffusionTransformer.from_hf(native()), rows, level=level, method="exact", intervention=intervention)
    by_hand = native().double()

    def metric() -> Tensor:
        logits = by_hand(input_ids=clean, use_cache=False).logits[torch.arange(2), rows.target_pos[:, 0] - 1]
        return (logits[torch.arange(2), rows.answer_ids[:, 0]] - logits[torch.arange(2), rows.foil_ids[:, 0]]).mean()

    base, expected = metric(), {}
    for n, layer in enumerate(by_hand.model.layers):
        down, out = layer.mlp.down_proj, layer.self_attn.o_proj
        heads = {f"a{n}.h{h}": (out, slice(8 * h, 8 * h + 8)) for h in range(4)} | {f"m{n}": (down, slice(None))}
        neurons = {f"m{n}.n{i}": (down, slice(i, i + 1)) for i in range(64)}
        for name, (module, columns) in (heads if level == "nodes" else neurons).items():
            other = read_by(by_hand, module, corrupt)[..., columns]
            with put_in(module, columns, 0 * other if intervention == "zero" else other):
                expected[name] = base - metric()
    if level == "nodes":
        assert scores.matrix[0].item() == pytest.approx(scores.effect, rel=1e-5), "the input patched everywhere is the corrupt run"
    wanted = torch.stack([expected[name] for name in scores.ids if name != "input"])
    close(scores.matrix[scores.matrix.shape[0] - len(wanted) :], wanted)


def test_a_node_s_own_path_ends_in_its_exact_effect(bridged, few) -> None:
    """Input and MLPs move alone on their paths, so finely sampled they are complete; heads of a layer move together."""
    model = bridged("gpt2")
    exact = attribute(model, few, level="nodes", method="exact")
    fine = attribute(model, few, level="nodes", method="EAP-IG-activations", rule="gauss-legendre", ig_steps=24)
    alone = [0, 5, 10]
    close(fine.matrix[alone], exact.matrix[alone], 2e-3)


def test_nodes_and_neurons_are_saved_and_listed(bridged, few, tmp_path) -> None:
    neurons = attribute(bridged("arm"), few, level="neurons", method="EAP")
    neurons.save(tmp_path / "neurons.safetensors")
    again = NodeScores.load(tmp_path / "neurons.safetensors")
    assert torch.equal(again.matrix, neurons.matrix) and again.ids == neurons.ids and again.settings == neurons.settings
    frame = neurons.to_dataframe()
    strongest = frame.iloc[0]
    assert strongest["node"] == neurons.ids[int(neurons.matrix.abs().argmax())] and strongest["layer"] == int(strongest["node"][1])
