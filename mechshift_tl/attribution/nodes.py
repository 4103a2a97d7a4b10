"""Scores of nodes (input, heads, MLPs) and of single MLP neurons, by the same paths and rules as edges.

    score(u) = Σ_batch,pos ⟨Δu, ∂m/∂u⟩ / n          the gradient averaged over the path; positive = the node supports the behaviour

A *site* is one hook with the nodes that stand there: the embeddings, a layer's heads (in head space), an MLP's output, or its neurons.
Along the embeddings' path every site is differentiated at once; along the activations' path each site runs from its own corrupt to its own
clean value. Exact patching replaces one node's output by its corrupt value and lets everything after it run. A node's score over the
embeddings' path is the sum of its outgoing edges' scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.along import Along
from mechshift_tl.attribution.gradients import Source, walk
from mechshift_tl.attribution.metrics import Metric
from mechshift_tl.attribution.path import Method, Points
from mechshift_tl.attribution.rules import RuleHooks
from mechshift_tl.attribution.scoring import TokenGroups
from mechshift_tl.bridge.hooks import EMBED, Kept, inject
from mechshift_tl.bridge.protocol import HookedModel, has_mlps
from mechshift_tl.interventions.neurons import NEURONS, run_neurons
from mechshift_tl.interventions.outputs import WriterOutputs
from mechshift_tl.readouts import Batch


@dataclass(frozen=True)
class Site:
    """One hook and its nodes: clean and corrupt outputs `(b, pos, node, width)`, and where the nodes stand in the list of all nodes."""

    name: str
    clean: Float[Tensor, "b pos node width"]
    corrupt: Float[Tensor, "b pos node width"]
    nodes: slice

    @property
    def source(self) -> Source:
        """The path of this site's own outputs."""
        return Source(self.name, self.clean, self.corrupt, self.nodes, 0)


def node_sites(model: HookedModel, clean: WriterOutputs, corrupt: WriterOutputs) -> list[Site]:
    """Input, heads and MLPs, in the order of `graph.writers`."""
    heads = model.cfg.n_heads
    sites = [Site(EMBED, clean.input[:, :, None], corrupt.input[:, :, None], slice(0, 1))]
    for i in range(model.cfg.n_layers):
        at = 1 + i * (heads + 1)
        sites.append(Site(f"blocks.{i}.attn.hook_z", clean.z[i], corrupt.z[i], slice(at, at + heads)))
        if has_mlps(model):
            mlp = slice(at + heads, at + heads + 1)
            sites.append(Site(f"blocks.{i}.hook_mlp_out", clean.mlp[i][:, :, None], corrupt.mlp[i][:, :, None], mlp))
    return sites


def neuron_sites(model: HookedModel, batch: Batch, *, zero: bool) -> list[Site]:
    """The neurons of every MLP, layer by layer; `zero` takes 0 for their corrupt activation."""
    clean = run_neurons(model, batch, "clean")
    corrupt = tuple(torch.zeros_like(acts) for acts in clean) if zero else run_neurons(model, batch, "corrupt")
    width = clean[0].shape[-1]
    return [
        Site(NEURONS.format(i), acts[..., None], others[..., None], slice(i * width, (i + 1) * width))
        for i, (acts, others) in enumerate(zip(clean, corrupt, strict=True))
    ]


def node_scores(
    model: HookedModel,
    batch: Batch,
    metrics: Sequence[Metric],
    clean_logits: Float[Tensor, "b k d_vocab"],
    sites: Sequence[Site],
    embeddings: Source,
    points: Points,
    method: Method,
    *,
    rules: RuleHooks,
    along: Along,
    groups: TokenGroups,
    n_nodes: int,
) -> list[Float[Tensor, "rows spans nodes"]]:
    """Per metric, the scores of all `n_nodes` nodes, per group of tokens; 0 for those that stand at none of `sites`."""
    if method == "exact":
        return _patched(model, batch, metrics, clean_logits, sites, groups, n_nodes)
    own = method == "EAP-IG-activations"
    # Along the activations' path each site has a walk of its own; the embeddings' path passes all sites at once.
    walks = [(site.source, [site]) for site in sites] if own else [(embeddings, list(sites))]
    scores = [clean_logits.new_zeros(*groups.shape, n_nodes) for _ in metrics]
    for source, met in walks:
        sums: list[Kept] = [{} for _ in metrics]
        wanted = list({*(site.name for site in met), *along.wanted})
        with closing(walk(model, batch, metrics, clean_logits, source, points, wanted, rules=rules)) as walked:
            for weight, _, gradients in walked:
                along.add(source, gradients, weight)
                _add_point(sums, gradients, weight)
        for total, score in zip(sums, scores, strict=True):
            for site in met:
                met_by = ((site.clean - site.corrupt) * total[site.name].reshape(site.clean.shape)).sum(-1)
                _add_parts(score[..., site.nodes], met_by.flatten(0, 1), groups)
    return scores


def _add_point(sums: Sequence[Kept], gradients: Sequence[Kept], weight: float) -> None:
    """Add one point of the path, per metric and site."""
    for total, found in zip(sums, gradients, strict=True):
        for name, gradient in found.items():
            total[name] = total[name].add_(gradient, alpha=weight) if name in total else gradient * weight


def _add_parts(score: Float[Tensor, "rows spans node"], values: Float[Tensor, "tok node"], groups: TokenGroups) -> None:
    for part, tokens in groups.of(len(values)):
        score[part] += values[tokens].sum(0)


@torch.no_grad()
def _patched(
    model: HookedModel, batch: Batch, metrics: Sequence[Metric], clean_logits: Tensor, sites: Sequence[Site], groups: TokenGroups,
    n_nodes: int,
) -> list[Float[Tensor, "rows spans nodes"]]:  # fmt: skip
    """One forward per node (and per span): metric(clean) − metric(node at its corrupt value), times the positions read."""
    base = [metric.values(clean_logits, batch, clean_logits) for metric in metrics]
    scores = [clean_logits.new_zeros(len(batch), groups.shape[1], n_nodes) for _ in metrics]
    for site in sites:
        for node in range(site.clean.shape[2]):
            for i, where in enumerate(groups.patches):
                # One node at a time, at its corrupt value at `where`; all others stay clean.
                value = site.clean.clone()
                value[:, :, node][where] = site.corrupt[:, :, node][where]
                with model.hooks(fwd_hooks=inject(site.name, {site.name: value})):
                    logits = batch.logits(model)
                for metric, clean, score in zip(metrics, base, scores, strict=True):
                    score[:, i, site.nodes.start + node] = (clean - metric.values(logits, batch, clean_logits)) * batch.k
    return [groups.of_patches(score) for score in scores]
