"""Ablation: a model runs, and some of its components or neurons write what another run, a mean, or nothing would write.

Unlike a circuit's run, which patches edges, an ablated component is gone for every reader, and everything behind it runs live on what is
left. Components are heads and MLPs, in the order of `Graph.components`; single neurons of the MLPs can be ablated too.

A forward of a small model costs the same for one row and for many, so several sets are ablated in one forward: every set has its own copy
of the rows.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechshift_tl.bridge.hooks import Hooks, as_hook
from mechshift_tl.bridge.protocol import HookedModel, has_mlps
from mechshift_tl.interventions.neurons import NEURONS, Activations
from mechshift_tl.interventions.outputs import WriterOutputs
from mechshift_tl.readouts import Batch
from mechshift_tl.readouts.batch import TENSORS


@torch.no_grad()
def ablated_logits(model: HookedModel, batch: Batch, hooks: Hooks, copies: int) -> Float[Tensor, "copies b k d_vocab"]:
    """Aligned logits at the targets, float32, under `component_hooks` or `neuron_hooks` of `copies` sets.

    Cost: one forward of the clean rows, `copies` times.
    """
    with model.hooks(fwd_hooks=hooks):
        logits = _copies(batch, copies).logits(model, "clean")
    return logits.unflatten(0, (copies, len(batch)))


def component_hooks(model: HookedModel, sets: Bool[Tensor, "sets n_components"], outputs: WriterOutputs) -> Hooks:
    """Hooks for a forward of one copy of the rows per set, in which its components write what `outputs`, of one copy, has of them.

    Layers that no set touches have no hook. Raises ValueError unless there is one entry per head and MLP of the model.
    """
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    if sets.shape[1:] != (layers * (heads + 1),):
        raise ValueError(f"the sets are {tuple(sets.shape)}; {model.cfg.model_name} has {layers * (heads + 1)} heads and MLPs")
    by_layer = sets.view(-1, layers, heads + 1)
    hooks: Hooks = []
    for layer, (z, mlp) in enumerate(zip(outputs.z, outputs.mlp, strict=True)):
        chosen = by_layer[:, layer]
        if chosen[:, :-1].any():
            hooks.append((f"blocks.{layer}.attn.hook_z", as_hook(partial(_put, chosen=chosen[:, :-1], other=z))))
        if has_mlps(model) and chosen[:, -1].any():
            hooks.append((f"blocks.{layer}.hook_mlp_out", as_hook(partial(_put, chosen=chosen[:, -1:], other=mlp[:, :, None]))))
    return hooks


def neuron_hooks(sets: Bool[Tensor, "sets n_layers d_mlp"], activations: Activations) -> Hooks:
    """The same for neurons, whose activations become those of `activations`. Raises ValueError unless the sets are of as many neurons."""
    shape = (len(activations), activations[0].shape[-1])
    if sets.shape[1:] != shape:
        raise ValueError(f"the sets are {tuple(sets.shape)}; the MLPs have {shape[0]} layers of {shape[1]} neurons")
    return [
        (NEURONS.format(layer), as_hook(partial(_put, chosen=sets[:, layer], other=other[..., None])))
        for layer, other in enumerate(activations)
        if sets[:, layer].any()
    ]


def _put(tensor: Tensor, chosen: Bool[Tensor, "sets part"], other: Float[Tensor, "b pos part d"]) -> Tensor:
    """`tensor`, all copies of the rows, with the chosen parts of `other`; a bridge may hand heads on flat."""
    copies = tensor.reshape(len(chosen), *other.shape)
    where = chosen.to(tensor.device)[:, None, None, :, None]
    return torch.where(where, other.to(tensor), copies).reshape(tensor.shape)


def _copies(batch: Batch, times: int) -> Batch:
    """The rows `times` times over, one copy behind the other."""
    kept = {name: tensor for name in (*TENSORS, "index") if (tensor := getattr(batch, name)) is not None}
    return replace(batch, **{name: torch.cat([tensor] * times) for name, tensor in kept.items()})
