"""Hooks that a user has on the model: what they change is refused, on a fresh model and on one that was attributed before, every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mechshift_tl import attribute
from mechshift_tl.bridge.hooks import has_hooks
from mechshift_tl.circuits import Circuit
from mechshift_tl.evaluation import run_circuit


def detached(tensor: Tensor, hook: Any) -> Tensor:
    """The scale of a norm as a constant: the gradient through the norm is lost."""
    return tensor.detach()


def halved_gradient(tensor: Tensor, hook: Any) -> Tensor:
    """The same values, half their gradient."""
    return tensor / 2 + (tensor / 2).detach()


def doubled(tensor: Tensor, hook: Any) -> Tensor:
    return 2 * tensor


SPOILING: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "a detached scale": ("blocks.1.ln1.hook_scale", detached),
    "the MLP's detached scale": ("blocks.0.ln2.hook_scale", detached),
    "the last detached scale": ("ln_final.hook_scale", detached),
    "q's gradient": ("blocks.1.attn.hook_q", halved_gradient),
    "k's gradient": ("blocks.0.attn.hook_k", halved_gradient),
    "v's gradient": ("blocks.0.attn.hook_v", halved_gradient),
}


@pytest.fixture
def few(rows) -> Any:
    return rows.select([0, 1])


@pytest.mark.parametrize("spoiling", SPOILING)
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "attributed before"])
def test_a_hook_that_changes_gradients_is_refused_every_time(bridged, few, spoiling: str, before: bool) -> None:
    model = bridged("arm")
    if before:
        attribute(model, few, ig_steps=1)
    with model.hooks(fwd_hooks=[SPOILING[spoiling]]):
        for _ in range(2):
            with pytest.raises(ValueError, match=r"gradients of all readers sum to .*the hooks on it change what passes"):
                attribute(model, few, ig_steps=1)
    assert attribute(model, few, ig_steps=1).matrix.isfinite().all()


@pytest.mark.parametrize("before", [False, True], ids=["fresh", "attributed before"])
def test_a_hook_that_changes_what_a_block_adds_is_refused_by_attribute_and_run_circuit(bridged, few, before: bool) -> None:
    model = bridged("arm")
    circuit = Circuit.from_scores(attribute(bridged("arm"), few, ig_steps=1), 20)
    if before:
        run_circuit(model, few, circuit)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", doubled)]):
        for ask in (lambda: attribute(model, few, method="EAP"), lambda: run_circuit(model, few, circuit)):
            with pytest.raises(ValueError, match="of what block 0 adds to the residual .*the hooks on it change what passes"):
                ask()


@pytest.mark.parametrize("before", [False, True], ids=["fresh", "attributed before"])
def test_a_hook_that_only_looks_is_not_refused_and_nothing_is_remembered_of_it(bridged, few, before: bool) -> None:
    model = bridged("arm")
    if before:
        attribute(model, few, ig_steps=1)
    expected = attribute(bridged("arm"), few, ig_steps=1).matrix
    seen: list[Tensor] = []
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_q", lambda tensor, hook: seen.append(tensor))]):
        found = attribute(model, few, ig_steps=1).matrix
        assert seen and (found - expected).abs().max() < 1e-5 * expected.abs().max()
    with (
        model.hooks(fwd_hooks=[SPOILING["a detached scale"]]),
        pytest.raises(ValueError, match="gradients of all readers"),
    ):
        attribute(model, few, ig_steps=1)


@contextmanager
def torch_hook(module: nn.Module, register: str, hook: Callable[..., object]) -> Iterator[None]:
    handle = getattr(module, register)(hook)
    try:
        yield
    finally:
        handle.remove()


def test_hooks_of_pytorch_s_count_too(bridged, few) -> None:
    model = bridged("arm")
    attribute(model, few, ig_steps=1)
    assert not has_hooks(model)
    query = model.blocks[1].attn.q.original_component
    with torch_hook(query, "register_forward_hook", lambda module, inputs, output: halved_gradient(output, None)):
        assert has_hooks(model)
    with torch_hook(query, "register_full_backward_hook", lambda module, inputs, outputs: (inputs[0] / 2,)):
        assert has_hooks(model)
        with pytest.raises(ValueError, match=r"gradients of all readers sum to .*the hooks on it change"):
            attribute(model, few, ig_steps=1)
    assert not has_hooks(model) and torch.isfinite(attribute(model, few, ig_steps=1).matrix).all()
