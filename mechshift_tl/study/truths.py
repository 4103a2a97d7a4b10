"""Models whose relation to a given one is known by construction: what a verdict must say of them is not in doubt.

Each change makes a new model and leaves the given one as it is. Names in brackets are what a verdict should say of the two.

- `copied`: the same weights [kept]. `noisy`: every matrix with a little noise added [kept].
- `heads_permuted`: the same function, with heads relabelled inside their layers [moved]; `neurons_permuted`: the same for MLP neurons.
- `shuffled`: the entries of every matrix in another order; `reinitialised`: fresh weights. Neither does the task [cannot tell].
- `silent_layer`: a layer that adds nothing, in front or behind. Two models that differ in its place alone compute the same [moved by
  layers: kept after matching, and no more front-loaded].

They work on Llama, Qwen2 and Qwen3 weights, whose projections are matrices of their own.
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from hooked_diffusion.model import HookedDiffusionTransformer
from mechshift_tl.circuits.permuted import random_image
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import seeded

#: Parts of a layer by the head or neuron they belong to: the projection, and the axis that counts them.
BY_HEAD = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1}
BY_NEURON = {"gate_proj": 0, "up_proj": 0, "down_proj": 1}
LAYER = re.compile(r"model\.layers\.(\d+)\.")

Weights = dict[str, Tensor]


def copied(model: HookedDiffusionTransformer) -> HookedDiffusionTransformer:
    """The same weights in a model of its own."""
    return _rebuilt(model, weights_of(model), "copy")


def noisy(model: HookedDiffusionTransformer, share: float, seed: int = 0) -> HookedDiffusionTransformer:
    """Gaussian noise on every matrix, whose standard deviation is `share` of the matrix's own."""
    generator = seeded(seed)
    weights = {
        name: w + share * w.std() * torch.randn(w.shape, generator=generator) if w.ndim > 1 else w for name, w in weights_of(model).items()
    }
    return _rebuilt(model, weights, f"noise {share:g}")


def heads_permuted(model: HookedDiffusionTransformer, seed: int = 0) -> HookedDiffusionTransformer:
    """Heads relabelled inside their layers, none where it was; heads that share keys and values stay together. The function stays the same.

    Raises ValueError on a model whose layers have one head.
    """
    graph = Graph.of(model)
    image = _all_moved(graph, seed)
    weights = weights_of(model)
    for name, weight in weights.items():
        layer, axis = _layer(name), _axis(name, BY_HEAD)
        if layer is None or axis is None:
            continue
        first = graph.writers_before_attention(layer)
        heads = image[first : first + graph.n_heads] - first
        shared = "k_proj" in name or "v_proj" in name
        order = heads[:: graph.n_heads // graph.n_kv_heads] // (graph.n_heads // graph.n_kv_heads) if shared else heads
        weights[name] = _reordered(weight, order, axis)
    return _rebuilt(model, weights, "heads permuted")


def neurons_permuted(model: HookedDiffusionTransformer, seed: int = 0) -> HookedDiffusionTransformer:
    """Neurons of every MLP in another order. The function stays the same."""
    generator, weights = seeded(seed), weights_of(model)
    width = model.cfg.d_mlp
    assert width is not None  # the three families have MLPs of one known width
    orders = [torch.randperm(width, generator=generator) for _ in range(model.cfg.n_layers)]
    for name, weight in weights.items():
        layer, axis = _layer(name), _axis(name, BY_NEURON)
        if layer is not None and axis is not None:
            weights[name] = _reordered(weight, orders[layer], axis)
    return _rebuilt(model, weights, "neurons permuted")


def shuffled(model: HookedDiffusionTransformer, seed: int = 0) -> HookedDiffusionTransformer:
    """The entries of every matrix in another order: the same values, no function."""
    generator = seeded(seed)
    weights = {
        name: w.flatten()[torch.randperm(w.numel(), generator=generator)].view_as(w) if w.ndim > 1 else w
        for name, w in weights_of(model).items()
    }
    return _rebuilt(model, weights, "entries shuffled")


def reinitialised(model: HookedDiffusionTransformer, seed: int = 0) -> HookedDiffusionTransformer:
    """Fresh weights, as the family draws them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _hooked(model, _native_class(model)(deepcopy(_native(model).config)), "re-initialised")


def silent_layer(model: HookedDiffusionTransformer, at: Literal["front", "behind"], seed: int = 0) -> HookedDiffusionTransformer:
    """One more layer before all others or after them, of another layer's size, whose heads and MLP write nothing."""
    generator, given = seeded(seed), weights_of(model)
    n, weights = model.cfg.n_layers, {}
    new = 0 if at == "front" else n
    for name, weight in given.items():
        layer = _layer(name)
        weights[name if layer is None else _renamed(name, layer + (at == "front"))] = weight
        if layer == 0:
            random = torch.randn(weight.shape, generator=generator) * weight.std() if weight.ndim > 1 else weight
            writes = "o_proj" in name or "down_proj" in name
            weights[_renamed(name, new)] = torch.zeros_like(weight) if writes else random
    return _rebuilt(model, weights, f"silent layer {at}", n + 1)


def _all_moved(graph: Graph, seed: int) -> Int[Tensor, " n_writers"]:
    """A random relabelling that leaves no head in its place."""
    if graph.n_heads == 1:
        raise ValueError("heads_permuted: the layers of this model have one head each, which has nowhere to go")
    generator, image = seeded(seed), torch.arange(graph.shape[0])
    for layer in range(graph.n_layers):
        first = graph.writers_before_attention(layer)
        heads = slice(first, first + graph.n_heads)
        while (image[heads] == torch.arange(heads.start, heads.stop)).any():
            image[heads] = random_image(graph, generator)[heads]
    return image


def weights_of(model: HookedDiffusionTransformer) -> Weights:
    """Every weight under its native name, detached, each once. Raises ValueError on families that are not known here."""
    found: Weights = {}
    for name, weight in _native(model).state_dict(keep_vars=False).items():
        native = name.replace("._original_component", "")
        if native in _native_names(model):
            found[native] = weight.detach().clone()
    if not any("q_proj" in name for name in found) or not any("gate_proj" in name for name in found):
        raise ValueError(f"{model.cfg.model_name}: truths are made from Llama, Qwen2 and Qwen3 weights; this family has other projections")
    return found


def _native(model: HookedDiffusionTransformer) -> PreTrainedModel:
    return cast(PreTrainedModel, model.original_model)


def _native_class(model: HookedDiffusionTransformer) -> type[PreTrainedModel]:
    return type(_native(model))


def _native_names(model: HookedDiffusionTransformer) -> set[str]:
    """Names of the weights before the bridge renamed them."""
    with torch.device("meta"):
        return set(_native_class(model)(deepcopy(_native(model).config)).state_dict())


def _rebuilt(model: HookedDiffusionTransformer, weights: Weights, change: str, n_layers: int | None = None) -> HookedDiffusionTransformer:
    config = deepcopy(_native(model).config)
    if n_layers is not None:
        config.num_hidden_layers = n_layers
        if getattr(config, "layer_types", None):  # Qwen's configs name each layer's kind of attention
            config.layer_types = [config.layer_types[0]] * n_layers
    native = _native_class(model)(config)
    native.load_state_dict(weights)
    return _hooked(model, native, change)


def _hooked(model: HookedDiffusionTransformer, native: PreTrainedModel, change: str) -> HookedDiffusionTransformer:
    """`native` as `model` is read. Its source says what was changed."""
    name = f"{model.source.get('name', 'model')}: {change}"
    placed = cast(nn.Module, native).to(model.cfg.device, next(model.parameters()).dtype)
    return HookedDiffusionTransformer.from_hf(placed.eval(), model.tokenizer, model.spec, name=name)


def _layer(name: str) -> int | None:
    match = LAYER.match(name)
    return int(match[1]) if match else None


def _renamed(name: str, layer: int) -> str:
    return LAYER.sub(f"model.layers.{layer}.", name)


def _axis(name: str, axes: dict[str, int]) -> int | None:
    return next((axis for part, axis in axes.items() if f".{part}." in name), None)


def _reordered(weight: Tensor, order: Tensor, axis: int) -> Tensor:
    """The blocks of `weight` along `axis`, one per entry of `order`, in that order; a bias has one axis."""
    if weight.ndim == 1 and axis == 1:
        return weight  # the bias of what is written belongs to no head or neuron
    blocks = weight.unflatten(axis, (len(order), -1))
    return blocks.index_select(axis, order).flatten(axis, axis + 1)
