"""How alike the writers of two models are, two by two, whatever their ids say.

Two measures, both in [−1, 1] and 1 for a writer and its exact copy:

- **weights**: of two heads, the mean of two cosines: between their products W_V·W_O (what a head moves) and between their products
  W_Q·W_Kᵀ (where it looks). The cosine of two matrices is ⟨A, B⟩ / (|A|·|B|). A head has these products whatever basis its own space has.
  Only heads of one layer are compared. It supposes that both models share the basis of their residual streams.
- **activations**: linear CKA (Kornblith et al. 2019) of two writers' outputs on the same reads: the cosine of their two centred matrices
  of inner products between reads. It does not change when an output is rotated or scaled, so models need not share a basis. Heads are
  compared with heads and MLPs with MLPs, of all layers.

A matrix of similarities is `(n_writers, n_writers)`: rows are writers of the first model, columns writers of the second. NaN stands where
two writers are not compared, and 0 where one of them is silent: its output is the same on every read.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.hooks import Kept
from mechshift_tl.bridge.protocol import HookedModel, components_of
from mechshift_tl.bridge.weights import weight_of
from mechshift_tl.graph import Graph, check_same_graph
from mechshift_tl.intervals import seeded
from mechshift_tl.readouts import Readouts
from mechshift_tl.views.lens import terms, written_at
from mechshift_tl.views.positions import read_numbers, run_at

#: Reads on which outputs are compared, at most: a matrix of inner products has its square.
MAX_READS = 256
#: An output that varies less than this share of the model's most variable one is silent.
SILENT = 1e-7
#: Random vectors by which the products of whole layers are compared.
SKETCHED = 64


@torch.no_grad()
def similarity_of_weights(a: HookedModel, b: HookedModel) -> Float[Tensor, "n_writers n_writers"]:
    """Similarity by weights, on the CPU; heads of different layers are NaN, and every MLP and the input is 1 with itself.

    Raises ValueError where the graphs differ.
    """
    graph = _graph_of_both(a, b)
    found = torch.full((len(graph.writers), len(graph.writers)), torch.nan)
    found[0, 0] = 1
    for layer in range(graph.n_layers):
        first = graph.writers_before_attention(layer)
        heads = slice(first, first + graph.n_heads)
        of_a, of_b = (_products(model, graph, layer) for model in (a, b))
        found[heads, heads] = torch.stack([_cosines(x, y) for x, y in zip(of_a, of_b, strict=True)]).mean(0).cpu()
        found[heads.stop, heads.stop] = 1
    return found


@torch.no_grad()
def similarity_of_activations(
    a: HookedModel, b: HookedModel, of_a: Readouts, of_b: Readouts, *, max_reads: int = MAX_READS
) -> Float[Tensor, "n_writers n_writers"]:
    """Similarity by activations, on the reads that both readouts have: one example and one position of the predicted token.

    Where there are more than `max_reads` of them, they are taken at equal distances. Raises ValueError where the graphs differ, and where
    fewer than three reads are common to both.
    """
    graph = _graph_of_both(a, b)
    in_a, in_b = _common_reads(of_a, of_b, max_reads)
    x, y = _inner_products(a, graph, of_a, in_a), _inner_products(b, graph, of_b, in_b)
    found = torch.full((len(graph.writers), len(graph.writers)), torch.nan)
    found[0, 0] = 1
    heads = torch.tensor([0, *([1] * graph.n_heads + [2]) * graph.n_layers])
    for kind in (1, 2):
        alike = (heads == kind).nonzero()[:, 0]
        found[alike[:, None], alike] = x[alike] @ y[alike].T
    return found


@torch.no_grad()
def best_layers(a: HookedModel, b: HookedModel) -> list[int | None]:
    """For every layer of b, the layer of a whose weights are most similar to its own; None where it writes nothing, or is like no layer.

    Two layers are as similar as the mean of two cosines: between their products W_V·W_O, summed over heads, and between their products
    W_in·W_out, summed over neurons. Neither depends on the order of heads or neurons. Products are compared by what they make of
    `SKETCHED` random vectors, which needs no d × d matrix. Raises ValueError where the graphs differ.
    """
    graph = _graph_of_both(a, b)
    vectors = torch.randn(a.cfg.d_model, SKETCHED, generator=seeded(0))
    parts = [_sketches(model, graph, vectors) for model in (a, b)]
    alike = torch.stack([x @ y.T for x, y in zip(*parts, strict=True)]).mean(0)
    best = alike.amax(0)
    own = alike.diagonal() >= best
    return [None if best[i] <= 0 else i if own[i] else int(alike[:, i].argmax()) for i in range(graph.n_layers)]


def _sketches(
    model: HookedModel, graph: Graph, vectors: Float[Tensor, "d k"]
) -> tuple[Float[Tensor, "layer d_k"], Float[Tensor, "layer d_k"]]:
    """What each layer's two products make of the vectors, of length 1; zero where the layer writes nothing."""
    heads, mlps = [], []
    for layer in range(graph.n_layers):
        block = components_of(model).blocks[layer]
        (values, out), _ = _products(model, graph, layer)
        given = vectors.to(out.device)
        heads.append((values @ (out.mT @ given)).sum(0).flatten().cpu())
        mlps.append((weight_of(block.mlp, "W_in").float() @ (weight_of(block.mlp, "W_out").float() @ given)).flatten().cpu())
    return F.normalize(torch.stack(heads), dim=1), F.normalize(torch.stack(mlps), dim=1)


def _graph_of_both(a: HookedModel, b: HookedModel) -> Graph:
    graph = Graph.of(a)
    check_same_graph(graph, Graph.of(b))
    return graph


def _products(model: HookedModel, graph: Graph, layer: int) -> list[tuple[Tensor, Tensor]]:
    """W_V and W_Oᵀ, then W_Q and W_K, of a layer's heads, each `(head, d, d_head)`; heads of one group share W_K and W_V."""
    attn = components_of(model).blocks[layer].attn
    w = {name: weight_of(attn, name).float() for name in ("W_Q", "W_K", "W_V", "W_O")}
    w = {name: one.repeat_interleave(graph.n_heads // len(one), 0) for name, one in w.items()}
    return [(w["W_V"], w["W_O"].mT), (w["W_Q"], w["W_K"])]


def _cosines(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Float[Tensor, "head head"]:
    """The cosine of each product L·Rᵀ of `a` with each of `b`; ⟨L·Rᵀ, M·Sᵀ⟩ = Σ (Lᵀ·M) ∘ (Rᵀ·S), so no d × d matrix is made."""
    sizes = [(((left.mT @ left) * (right.mT @ right)).sum((1, 2))).clamp(min=1e-30).sqrt() for left, right in (a, b)]
    found = [((left.mT @ b[0]) * (right.mT @ b[1])).sum((1, 2)) for left, right in zip(*a, strict=True)]
    return torch.stack(found) / (sizes[0][:, None] * sizes[1])


def _common_reads(of_a: Readouts, of_b: Readouts, most: int) -> tuple[Int[Tensor, " reads"], Int[Tensor, " reads"]]:
    """The numbers, in each of the two readouts, of the reads that both have."""
    keys = [of.to_dataframe()[["example", "position"]].reset_index() for of in (of_a, of_b)]
    both = keys[0].merge(keys[1], on=["example", "position"]).sort_values(["example", "position"], kind="stable")
    if len(both) < 3:
        raise ValueError(f"the two readouts have {len(both)} reads in common; outputs are compared on three or more of the same examples")
    chosen = both.iloc[torch.linspace(0, len(both) - 1, min(most, len(both))).round().long().tolist()]
    return torch.tensor(chosen["index_x"].tolist()), torch.tensor(chosen["index_y"].tolist())


def _inner_products(
    model: HookedModel, graph: Graph, readouts: Readouts, reads: Int[Tensor, " reads"]
) -> Float[Tensor, "n_writers reads_by_reads"]:
    """Per writer, the centred inner products between its outputs on `reads`, scaled to length 1; zero where it is silent."""
    seen = _at_reads(model, graph, readouts)
    chosen: Kept = {name: activation[reads] for name, activation in seen.items()}
    found = []
    for ids, outputs in terms(model, graph, chosen):
        if ids[0] in graph.writers:
            centred = outputs - outputs.mean(1, keepdim=True)
            found.append((centred @ centred.mT).flatten(1).cpu())
    products = torch.cat(found)
    sizes = products.norm(dim=1, keepdim=True)
    return torch.where(sizes > SILENT * sizes.max(), products / sizes.clamp(min=1e-30), 0.0)


def _at_reads(model: HookedModel, graph: Graph, readouts: Readouts) -> Kept:
    """What the writers' outputs are made of, `(reads, …)`, in the order of the reads."""
    readouts.check(model)
    names = written_at(model)
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    numbers = []
    for batch in readouts.batches(batch_tokens_for(model, "logits")):
        numbers.append(read_numbers(readouts, batch))
        batch = batch.to(model.cfg.device)
        seen, _ = run_at(model, batch, batch.predicting(model), names)
        for name in names:
            parts[name].append(seen[name])
    order = torch.cat(numbers).argsort()
    return {name: torch.cat(part)[order.to(part[0].device)] for name, part in parts.items()}
