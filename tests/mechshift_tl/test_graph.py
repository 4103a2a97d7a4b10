"""Ids, which edges can exist, and who owns a reader."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mechshift_tl.graph import Graph


def edges_by_formula(layers: int, heads: int) -> int:
    """Ungrouped edges, counted writer by writer."""
    return (3 * heads + 1) * (layers + (heads + 1) * layers * (layers - 1) // 2) + layers * heads + 1 + layers * (heads + 1)


@pytest.mark.parametrize(("layers", "heads", "kv_heads"), [(1, 1, 1), (2, 4, 2), (6, 4, 4), (12, 12, 12), (24, 14, 2)])
def test_the_edge_count(layers: int, heads: int, kv_heads: int) -> None:
    assert Graph(layers, heads, kv_heads, "ungrouped").n_edges == edges_by_formula(layers, heads)


@pytest.mark.parametrize(("layers", "heads", "kv_heads", "count"), [(28, 28, 4, 935_747), (32, 32, 32, 1_592_881), (6, 4, 4, 1_108)])
def test_the_edge_counts_of_known_models(layers: int, heads: int, kv_heads: int, count: int) -> None:
    """Qwen2.5-7B, LLaMA-2-7B, and a model of six layers of four heads."""
    assert Graph(layers, heads, kv_heads, "ungrouped").n_edges == count


def test_ids_of_a_grouped_graph() -> None:
    graph = Graph(n_layers=2, n_heads=4, n_kv_heads=2)
    assert graph.writers == "input a0.h0 a0.h1 a0.h2 a0.h3 m0 a1.h0 a1.h1 a1.h2 a1.h3 m1".split()
    layer = "a0.h0<q> a0.h1<q> a0.h2<q> a0.h3<q> a0.g0<k> a0.g1<k> a0.g0<v> a0.g1<v> m0".split()
    assert graph.readers == [*layer, *(name.replace("a0", "a1").replace("m0", "m1") for name in layer), "logits"]
    assert graph.components == graph.writers[1:]


def test_ids_without_groups_are_per_head() -> None:
    ungrouped, plain = Graph(1, 4, 2, "ungrouped"), Graph(1, 4, 4)
    assert ungrouped.readers == plain.readers
    assert plain.readers == [*(f"a0.h{h}<{kind}>" for kind in "qkv" for h in range(4)), "m0", "logits"]


def test_an_edge_goes_forward_in_the_residual_stream() -> None:
    graph = Graph(n_layers=3, n_heads=2, n_kv_heads=1)

    def place(name: str, *, writes: bool) -> float:
        """Order in the stream: a layer's heads read before they write, and write before its MLP reads."""
        if name in ("input", "logits"):
            return -1.0 if name == "input" else 99.0
        layer = int(name[1])
        return layer + (0.0 if name[0] == "a" else 0.5) + (0.25 if writes else 0.0)

    for i, writer in enumerate(graph.writers):
        for j, reader in enumerate(graph.readers):
            assert graph.possible[i, j] == (place(writer, writes=True) < place(reader, writes=False)), (writer, reader)


def test_where_a_layer_stands() -> None:
    graph = Graph(n_layers=2, n_heads=4, n_kv_heads=2)
    assert graph.readers[graph.mlp_reader(1)] == "m1"
    assert graph.readers[graph.attention_readers(1)][::7] == ["a1.h0<q>", "a1.g1<v>"]
    assert graph.writers[: graph.writers_before_attention(1)][-1] == "m0"
    assert graph.writer_layers.tolist() == [-1, *[0] * 5, *[1] * 5]
    assert graph.reader_layers.tolist() == [*[0] * 9, *[1] * 9, 2]


def test_components_of_a_reader() -> None:
    graph = Graph(n_layers=2, n_heads=4, n_kv_heads=2)
    assert graph.components_of("a1.h2<q>") == ["a1.h2"]
    assert graph.components_of("a1.g1<k>") == ["a1.h2", "a1.h3"]
    assert graph.components_of("m0") == ["m0"]
    assert graph.components_of("logits") == []
    assert Graph(2, 4, 2, "ungrouped").components_of("a1.h3<v>") == ["a1.h3"]
    for unknown in ("a1.h0<k>", "a2.h0<q>", "a1.g2<k>", "input", "a1.h0", "m2", "a1.h0<q>\n"):
        with pytest.raises(ValueError, match="is not a reader of this graph; its readers look like a0.h0<q>, m1, logits"):
            graph.components_of(unknown)


def test_membership_shares_a_group_equally() -> None:
    graph = Graph(n_layers=1, n_heads=4, n_kv_heads=2)
    share = graph.membership
    assert share.sum(1).tolist() == [1.0] * 9 + [0.0]
    assert share[graph.readers.index("a0.g1<v>")].tolist() == [0, 0, 0, 0.5, 0.5, 0]
    assert share[graph.readers.index("m0")].tolist() == [0, 0, 0, 0, 0, 1]
    assert torch.equal(Graph(1, 4, 2, "ungrouped").membership.sum(0), torch.tensor([0.0, 3, 3, 3, 3, 1]))


def test_a_graph_is_read_off_a_model() -> None:
    def model(n_key_value_heads: int | None = None, parallel_attn_mlp: bool = False) -> Any:
        sizes = {"n_layers": 2, "n_heads": 4, "n_key_value_heads": n_key_value_heads, "attn_only": False}
        sizes |= {"parallel_attn_mlp": parallel_attn_mlp}
        return SimpleNamespace(cfg=SimpleNamespace(model_name="x", **sizes), original_model=None)

    assert Graph.of(model(n_key_value_heads=2), "ungrouped") == Graph(2, 4, 2, "ungrouped")
    assert Graph.of(model(n_key_value_heads=4), "ungrouped") == Graph.of(model(n_key_value_heads=None)) == Graph(2, 4, 4)
    with pytest.raises(ValueError, match="x: attention and MLP run in parallel"):
        Graph.of(model(parallel_attn_mlp=True))


@pytest.mark.parametrize("arguments", [(2, 4, 3), (2, 4, 2, "native")])
def test_graphs_that_cannot_be(arguments) -> None:
    with pytest.raises(ValueError, match="4 heads cannot share 3 KV heads|kv is 'native'; choose 'grouped' or 'ungrouped'"):
        Graph(*arguments)


@pytest.mark.parametrize("count", [0, -3, 2.5, "two", None])
def test_counts_that_cannot_be_are_refused(count: Any) -> None:
    with pytest.raises(ValueError, match="Graph: n_layers is .*; give a whole number of at least 1"):
        Graph(count, 2, 2)
    with pytest.raises(ValueError, match="Graph: n_kv_heads is .*; give a whole number of at least 1"):
        Graph(2, 2, count)


def test_a_graph_says_how_large_it_is_before_it_makes_anything_of_that_size() -> None:
    for graph in (Graph(2, 4, 2), Graph(3, 4, 4), Graph(3, 4, 2, "ungrouped")):
        assert graph.shape == tuple(graph.possible.shape)
    Graph(80, 64, 8, "ungrouped").check_room()
    with pytest.raises(ValueError, match="1000000 layers of 1000000 heads have .* cells, over 100000000"):
        Graph(10**6, 10**6, 10**6).check_room()
