"""Activations of the neurons of every MLP: measured on one side of a batch, averaged over prompts, or what replaces them.

A neuron's activation is `mlp.hook_post`; for a gated MLP that is act(gate) · up.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.hooks import Kept, capture
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.readouts import Batch, Readouts, Side

NEURONS = "blocks.{}.mlp.hook_post"
#: One tensor per layer.
Activations = tuple[Float[Tensor, "b pos d_mlp"], ...]
NeuronMeans = Float[Tensor, "n_layers d_mlp"]


@torch.no_grad()
def run_neurons(model: HookedModel, batch: Batch, side: Side) -> Activations:
    """Every neuron's activation on one side, float32, detached. At hidden tokens it is 0: no other token sees what they do."""
    names, kept = [NEURONS.format(layer) for layer in range(model.cfg.n_layers)], Kept()
    with model.hooks(fwd_hooks=capture(names, kept)):
        batch.logits(model, side)
    rows, hidden = batch.clean, ~batch.visible(side)[..., None]
    # Some MLPs flatten rows and positions: the batch's own shape is put back.
    return tuple(kept[name].to(rows.device, torch.float32).reshape(*rows.shape, -1).masked_fill(hidden, 0) for name in names)


def neuron_means(model: HookedModel, readouts: Readouts, *, batch_tokens: int | None = None) -> NeuronMeans:
    """Mean activation of every neuron over all visible tokens of the clean rows, float32 on the CPU. Cost: one forward of the rows."""
    total, count = torch.zeros(model.cfg.n_layers, 1, dtype=torch.float64), 0
    for batch in readouts.batches(batch_tokens_for(model, "writers", batch_tokens)):
        batch = batch.to(model.cfg.device)
        total = total + torch.stack([acts.sum((0, 1), dtype=torch.float64).cpu() for acts in run_neurons(model, batch, "clean")])
        count += int(batch.visible("clean").sum())
    return (total / count).float()


def replaced_neurons(model: HookedModel, batch: Batch, by: str, means: NeuronMeans | None = None) -> Activations:
    """What neurons are replaced by: 0 ("zero"), `means` ("mean"), or the corrupt run ("counterfactual", one forward).

    Raises ValueError on another `by`, and where means are missing, not wanted, or of another model.
    """
    if by not in ("zero", "mean", "counterfactual"):
        raise ValueError(f"neurons are replaced by {by!r}; choose zero, mean or counterfactual")
    if (by == "mean") != (means is not None):
        raise ValueError(f"replacing neurons by {by!r} {'needs' if by == 'mean' else 'uses no'} means=neuron_means(model, other_prompts)")
    if by == "counterfactual":
        return run_neurons(model, batch, "corrupt")
    width = model.cfg.d_mlp
    values = torch.zeros(model.cfg.n_layers, width or 0) if means is None else means
    if values.shape != (model.cfg.n_layers, width):
        raise ValueError(f"the means are {tuple(values.shape)}; {model.cfg.model_name} has {model.cfg.n_layers} layers of {width} neurons")
    return tuple(row.to(batch.clean.device).expand(*batch.clean.shape, -1) for row in values)
