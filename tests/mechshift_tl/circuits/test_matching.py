"""Heads that were relabelled are found again, by weights and by activations, and a circuit is carried to where they are now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.matching import Matching, across_depth, within_layers
from mechshift_tl.circuits.neurons import match_neurons
from mechshift_tl.circuits.permuted import n_permutations, overlap_null, permuted_heads
from mechshift_tl.circuits.similarity import best_layers, similarity_of_activations, similarity_of_weights
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts
from mechshift_tl.study import truths

GROUPED = Graph(2, 4, 2)


@pytest.fixture(scope="module")
def model(native: Callable[..., Any]) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native("llama"), spec=DiffusionSpec())


@pytest.fixture(scope="module")
def many() -> Readouts:
    tokens = torch.randint(3, 48, (2, 12, 7), generator=torch.Generator().manual_seed(1))
    answers = torch.full((12,), 5)
    return Readouts.from_tokens(tokens[0], tokens[1], torch.full((12,), 6), answers, answers + 1)


def relabelling(a: HookedDiffusionTransformer, b: HookedDiffusionTransformer) -> torch.Tensor:
    """By brute force: for every head of b, the head of a in its layer that has the same product W_V·W_O."""
    graph, image = Graph.of(a), []
    for layer in range(graph.n_layers):
        products = []
        for one in (a, b):
            attn = one.blocks[layer].attn
            values = attn.W_V.repeat_interleave(graph.n_heads // len(attn.W_V), 0)
            products.append(values @ attn.W_O)
        image += [[torch.equal(x, y) for x in products[0]].index(True) for y in products[1]]
    return torch.tensor(image)


def heads_of(matching: Matching) -> torch.Tensor:
    graph = matching.graph
    firsts = [graph.writers_before_attention(layer) for layer in range(graph.n_layers)]
    return torch.cat([matching.image[first : first + graph.n_heads] - first for first in firsts])


@pytest.mark.parametrize("seed", range(3))
def test_relabelled_heads_are_found_again(model: HookedDiffusionTransformer, many: Readouts, seed: int) -> None:
    other = truths.heads_permuted(model, seed)
    graph, truth = Graph.of(model), relabelling(model, other)
    assert not (truth == torch.arange(4).repeat(2)).any()
    activations = similarity_of_activations(model, other, many, many)
    found = [
        within_layers(similarity_of_weights(model, other), graph, "weights"),
        within_layers(activations, graph, "activations"),
        across_depth(activations, graph, "activations"),
    ]
    for matching in found:
        assert torch.equal(heads_of(matching), truth), matching.by
        assert matching.own_share == 0 and not matching.is_by_id
        assert torch.allclose(matching.similarity, torch.ones_like(matching.similarity), atol=1e-4)


def test_a_model_stands_for_itself(model: HookedDiffusionTransformer, many: Readouts) -> None:
    graph = Graph.of(model)
    for similarity in (similarity_of_weights(model, model), similarity_of_activations(model, model, many, many)):
        assert within_layers(similarity, graph, "").is_by_id and across_depth(similarity, graph, "").own_share == 1
    assert best_layers(model, model) == [0, 1]


def test_cosines_are_those_of_the_products(model: HookedDiffusionTransformer, native: Callable[..., Any]) -> None:
    other = HookedDiffusionTransformer.from_hf(native("llama", seed=5), spec=DiffusionSpec())
    found = similarity_of_weights(model, other)
    for i, j in ((0, 0), (1, 3), (2, 1)):
        cosines = []
        for left, right in (("W_V", "W_O"), ("W_Q", "W_K")):
            x, y = (
                getattr(one.blocks[0].attn, left)[h // 2 if left == "W_V" else h]
                @ (one.blocks[0].attn.W_O[h] if right == "W_O" else one.blocks[0].attn.W_K[h // 2].T)
                for one, h in ((model, i), (other, j))
            )
            cosines.append(torch.cosine_similarity(x.flatten(), y.flatten(), 0))
        assert found[1 + i, 1 + j].item() == pytest.approx(torch.stack(cosines).mean().item(), abs=1e-5)
    assert found[1, 6].isnan() and found[5, 5] == 1


def test_activations_do_not_depend_on_the_basis(model: HookedDiffusionTransformer, many: Readouts) -> None:
    """Linear CKA, written out in full for one pair of heads."""
    found = similarity_of_activations(model, model, many, many)
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        _, cache = model.run_with_cache(many.clean)
        for layer in range(2):
            z = cache[f"blocks.{layer}.attn.hook_z"].reshape(12, 7, 4, -1)[:, 5]
            seen |= {f"a{layer}.h{h}": z[:, h] @ model.blocks[layer].attn.W_O[h] for h in range(4)}
    names = Graph.of(model).writers
    for x, y in (("a0.h0", "a0.h1"), ("a0.h2", "a1.h3")):
        a, b = (seen[name].double() - seen[name].double().mean(0) for name in (x, y))
        cka = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
        assert found[names.index(x), names.index(y)].item() == pytest.approx(cka.item(), abs=1e-4)
    assert found[names.index("a0.h0"), names.index("m0")].isnan()


def test_a_silent_layer_moves_layers(model: HookedDiffusionTransformer, many: Readouts) -> None:
    front, behind = truths.silent_layer(model, "front"), truths.silent_layer(model, "behind")
    assert best_layers(front, behind) == [1, 2, None]
    graph = Graph.of(front)
    matching = across_depth(similarity_of_activations(front, behind, many, many), graph, "depth")
    stands_for = matching.to_dataframe().set_index("writer")["stands_for"]
    assert stands_for["a0.h1"] == "a1.h1" and stands_for["m1"] == "m2" and stands_for["a2.h0"] == "" and stands_for["m2"] == ""


def test_an_edge_is_live_where_its_image_is(scored: Callable[..., EdgeScores]) -> None:
    """Heads of one group swap with those of the other, and heads inside them too: 0 1 | 2 3 → 3 2 | 0 1 in layer 1."""
    image = torch.arange(11)
    image[6:10] = torch.tensor([9, 8, 6, 7])
    matching = Matching(GROUPED, image, torch.ones(11), "hand")
    of_a = {("a0.h1", "a1.h3<q>"): 1.0, ("m0", "a1.g1<k>"): 2.0, ("a1.h2", "logits"): 3.0, ("input", "a0.h0<q>"): 4.0}
    in_b = {("a0.h1", "a1.h0<q>"): 1.0, ("m0", "a1.g0<k>"): 2.0, ("a1.h1", "logits"): 3.0, ("input", "a0.h0<q>"): 4.0}
    circuit = Circuit.from_scores(scored(GROUPED, of_a), 4, prune=False)
    carried = matching.circuit(circuit)
    assert carried.edge_set() == frozenset(in_b)
    assert torch.equal(carried.scores, scored(GROUPED, in_b).matrix)


def test_what_stands_for_nothing_or_comes_too_late_is_left_out(scored: Callable[..., EdgeScores]) -> None:
    image = torch.arange(11)
    image[1], image[2] = -1, 7  # a0.h0 stands for nothing, a0.h1 for a1.h1
    matching = Matching(GROUPED, image, torch.ones(11), "hand")
    circuit = Circuit.from_scores(
        scored(GROUPED, {("a0.h0", "m0"): 1.0, ("m0", "a1.h1<q>"): 2.0, ("a1.h1", "logits"): 3.0}), 3, prune=False
    )
    assert matching.circuit(circuit).edge_set() == {("a0.h1", "logits"), ("m0", "a1.h1<q>"), ("a1.h1", "logits")}


def test_matchings_are_kept(tmp_path: Any) -> None:
    matching = Matching(GROUPED, torch.arange(11).flip(0), torch.linspace(0, 1, 11), "<b>hand</b>")
    matching.save(tmp_path / "m.safetensors")
    loaded = Matching.load(tmp_path / "m.safetensors")
    assert torch.equal(loaded.image, matching.image) and loaded.by == matching.by and loaded.graph == GROUPED
    assert "<b>hand" not in matching._repr_html_()
    assert list(matching.figure().to_dict()["data"][0]["x"])[0] == "m1"
    with pytest.raises(ValueError, match="outside"):
        Matching(GROUPED, torch.full((11,), 11), torch.ones(11), "hand")


def test_every_relabelling_once() -> None:
    graph = Graph(2, 2, 2)
    assert n_permutations(graph) == 4
    images = {tuple(one.image.tolist()) for one in permuted_heads(graph, 100)}
    assert images == {(0, 2, 1, 3, 4, 5, 6), (0, 1, 2, 3, 5, 4, 6), (0, 2, 1, 3, 5, 4, 6)}
    assert n_permutations(GROUPED) == 8**2
    assert len({tuple(one.image.tolist()) for one in permuted_heads(GROUPED, 100)}) == 63
    with pytest.raises(ValueError, match="0 other"):
        next(permuted_heads(Graph(2, 1, 1), 1))


@pytest.mark.parametrize("n", (20, 1000))
def test_heads_that_share_keys_stay_together(n: int) -> None:
    graph = Graph(3, 6, 2)
    drawn = list(permuted_heads(graph, n, seed=3))
    assert len(drawn) == n
    for one in drawn:
        heads = heads_of(one).view(3, 2, 3)
        assert ((heads // 3) == (heads // 3)[..., :1]).all() and (heads.flatten(1).sort().values == torch.arange(6)).all()
    assert [one.image.tolist() for one in permuted_heads(graph, n, seed=3)] == [one.image.tolist() for one in drawn]


def test_p_adds_one(scored: Callable[..., EdgeScores]) -> None:
    """Of the three other labellings of two heads in two layers, by hand: one leaves the edge in place, since its layer is left alone."""
    graph = Graph(2, 2, 2)
    circuit = Circuit.from_scores(scored(graph, {("input", "a0.h0<v>"): 1.0, ("a0.h0", "logits"): 1.0}), 2)
    null = overlap_null(circuit, circuit)
    assert (null.value, null.n, null.exhaustive, null.shared, null.union) == (1.0, 3, True, 2, 2)
    assert null.p == 2 / 4 and null.null.mean == pytest.approx(1 / 3)


def test_neurons_in_another_order_are_found_again(model: HookedDiffusionTransformer) -> None:
    same, other = match_neurons(model, model), match_neurons(model, truths.neurons_permuted(model, 2))
    assert same.own_share == 1 and torch.allclose(same.similarity, torch.ones(()), atol=1e-5)
    assert other.own_share < 0.1 and torch.allclose(other.similarity, torch.ones(()), atol=1e-5)
    for layer, image in enumerate(other.image):
        assert torch.equal(model.blocks[layer].mlp.W_in[:, image], truths.neurons_permuted(model, 2).blocks[layer].mlp.W_in)
    assert match_neurons(model, truths.reinitialised(model, 1)).mean_similarity < 0.5


def test_a_carried_circuit_is_no_larger(scored: Callable[..., EdgeScores]) -> None:
    """All heads of layer 0 stand for a0.h0: its two edges become eight, of which the two strongest stay."""
    graph = Graph(2, 4, 4)
    image = torch.arange(11)
    image[1:5] = 1
    circuit = Circuit.from_scores(scored(graph, {("a0.h0", "m1"): -3.0, ("a0.h0", "logits"): 1.0}), 2, prune=False)
    carried = Matching(graph, image, torch.ones(11), "hand").circuit(circuit)
    assert carried.edge_set() == {("a0.h0", "m1"), ("a0.h1", "m1")} and carried.scores.sum() == -6
