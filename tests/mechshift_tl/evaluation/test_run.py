"""Circuits run: both ends exactly, the reference's own runs, TransformerLens' split inputs, and a graph small enough for arithmetic.

`attribution/test_brute_force.py` holds them against a forward written out by hand in float64.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.tools.analysis import attribution_patching as peer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.circuits import Circuit
from mechshift_tl.evaluation.run import run_circuit, run_circuits
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.outputs import run_writers
from mechshift_tl.interventions.replaced import WriterMeans, replaced, writer_means
from mechshift_tl.readouts import Batch, Readouts

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
FULL = DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2)
INTERVENTIONS: list[Any] = ["counterfactual", "zero", "mean", "mean_positional"]


def rows(seed: int = 0, n: int = 4, length: int = 7) -> Readouts:
    """Random rows, read at two positions each."""
    generator = torch.Generator().manual_seed(seed)
    clean, corrupt = torch.randint(3, 48, (2, n, length), generator=generator)
    answers, foils = torch.randint(3, 48, (2, n, 2), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.tensor([[4, length - 1]] * n), answers, foils)


def circuit_of(edges: Tensor, graph: Graph) -> Circuit:
    return Circuit(graph, edges, torch.zeros(edges.shape), int(edges.sum()))


def random_edges(graph: Graph, share: float, seed: int = 0) -> Tensor:
    return graph.possible & (torch.rand(graph.possible.shape, generator=torch.Generator().manual_seed(seed)) < share)


def means_for(model: Any, intervention: str) -> WriterMeans | None:
    positional = intervention == "mean_positional"
    return writer_means(model, rows(9, 5, 8), positional=positional) if intervention.startswith("mean") else None


def plain(native: Any, architecture: str) -> Any:
    """A plain bridge, its norms and biases made to matter."""
    for name, parameter in native.named_parameters():
        if "norm" in name or "ln_" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=float("bias" not in name), std=0.3)
    return build_bridge_from_module(native.eval(), architecture, hf_config=native.config, tokenizer=None, model_name=architecture)


@pytest.fixture(scope="module")
def models(native) -> dict[str, Any]:
    torch.manual_seed(0)
    small: dict[str, Any] = {"vocab_size": 48, "initializer_range": 0.3, "use_cache": False}
    qwen3 = Qwen3Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, **small
    )
    return {
        "llama": HookedDiffusionTransformer.from_hf(native("llama")),
        "llama, full attention": HookedDiffusionTransformer.from_hf(native("llama"), spec=FULL),
        "llama, no groups": HookedDiffusionTransformer.from_hf(native("llama", num_key_value_heads=4)),
        "qwen2": HookedDiffusionTransformer.from_hf(native("qwen2"), spec=FULL),
        "qwen3": plain(Qwen3ForCausalLM(qwen3), "Qwen3ForCausalLM"),
        "gpt2": plain(GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=4, n_embd=32, n_positions=16, **small)), "GPT2LMHeadModel"),
    }


NAMES = ["llama", "llama, full attention", "llama, no groups", "qwen2", "qwen3", "gpt2"]


@pytest.mark.parametrize(("name", "kv"), [*((name, "grouped") for name in NAMES), ("llama", "ungrouped"), ("qwen3", "ungrouped")])
def test_the_full_graph_is_the_clean_run_and_the_empty_one_the_corrupt_run(models, name, kv) -> None:
    model, readouts = models[name], rows()
    graph = Graph.of(model, kv)
    full, empty = (circuit_of(edges, graph) for edges in (graph.possible, torch.zeros_like(graph.possible)))
    for intervention in INTERVENTIONS:
        runs = run_circuits(
            model, readouts, [full, empty], intervention=intervention, means=means_for(model, intervention), batch_tokens=14
        )
        scale = runs[0].clean.metric.abs().max()
        assert (runs[0].circuit.metric - runs[0].clean.metric).abs().max() < 1e-5 * scale, intervention
        assert (runs[1].circuit.metric - runs[1].base.metric).abs().max() < 1e-5 * scale, intervention
        assert torch.equal(runs[0].circuit.first, runs[0].clean.first) and torch.equal(runs[0].circuit.above_foil, runs[0].clean.above_foil)
        assert (runs[0].share, runs[1].share) == (1.0, 0.0)
    corrupt = run_circuit(model, swapped(readouts), full)
    torch.testing.assert_close(run_circuit(model, readouts, empty).base.metric, corrupt.clean.metric)


def swapped(readouts: Readouts) -> Readouts:
    return Readouts.from_tokens(readouts.corrupt, readouts.clean, readouts.target_pos, readouts.answer_ids, readouts.foil_ids)


class Golden:
    """A random Llama and the reference's runs of circuits on it."""

    def __init__(self, folder: Path) -> None:
        native = LlamaForCausalLM(LlamaConfig(**json.loads((folder / "config.json").read_text())))
        native.load_state_dict(load_file(folder / "model.safetensors"))
        self.tensors = load_file(folder / "reference.safetensors")
        self.model = HookedDiffusionTransformer.from_hf(native)
        clean, corrupt = (torch.cat([self.tensors[name], self.tensors[name][:, :1]], 1) for name in ("clean", "corrupted"))
        answers, foils = self.tensors["labels"].T
        self.readouts = Readouts.from_tokens(clean, corrupt, torch.full_like(answers, clean.shape[1] - 1), answers, foils)


@pytest.fixture(scope="module", params=["eap_mha", "eap_gqa"])
def golden(request) -> Golden:
    return Golden(GOLDENS / request.param)


@pytest.mark.parametrize(("intervention", "name"), [("counterfactual", "patching"), ("zero", "zero")])
def test_circuits_give_what_they_give_in_the_reference(golden: Golden, intervention, name) -> None:
    sizes = [0, 5, 20, 60, 100, 110]
    graph = Graph.of(golden.model, "ungrouped")
    circuits = [circuit_of(golden.tensors[f"circuit.{n}.in_graph"], graph) for n in sizes]
    runs = run_circuits(golden.model, golden.readouts, circuits, intervention=intervention, batch_tokens=27)
    for n, run in zip(sizes, runs, strict=True):
        torch.testing.assert_close(run.circuit.metric.double(), golden.tensors[f"circuit.{n}.eval_{name}"], rtol=0, atol=1e-4)


def test_a_group_s_reader_is_all_of_its_query_heads_readers(golden: Golden) -> None:
    grouped, ungrouped = (Graph.of(golden.model, kv) for kv in ("grouped", "ungrouped"))
    edges = random_edges(grouped, 0.3)
    spread = torch.zeros_like(ungrouped.possible)
    for column, reader in enumerate(grouped.readers):
        kind = reader[-3:] if reader.endswith(">") else ""
        for name in [c + kind for c in grouped.components_of(reader)] or [reader]:
            spread[:, ungrouped.readers.index(name)] = edges[:, column]
    one = run_circuit(golden.model, golden.readouts, circuit_of(edges, grouped))
    other = run_circuit(golden.model, golden.readouts, circuit_of(spread, ungrouped))
    torch.testing.assert_close(one.circuit.metric, other.circuit.metric)


def split_inputs(model: Any, batch: Batch, graph: Graph, edges: Tensor, replacement: dict[str, Tensor]) -> Tensor:
    """The published method: a copy of the residual per head and q, k, v, from which every writer outside the circuit is taken."""
    live: dict[str, Tensor] = {}

    def patch(tensor: Tensor, column: int) -> Tensor:
        outside = [w for w, writer in enumerate(graph.writers) if graph.possible[w, column] and not edges[w, column]]
        return tensor + sum(replacement[graph.writers[w]] - live[graph.writers[w]] for w in outside)

    def reader(columns: list[int]) -> Callable:
        def hook_fn(tensor: Tensor, hook: Any) -> Tensor:
            if tensor.ndim == 3:
                return patch(tensor, columns[0])
            return torch.stack([patch(tensor[:, :, i], column) for i, column in enumerate(columns)], 2)

        return hook_fn

    def writer(names: list[str]) -> Callable:
        def hook_fn(tensor: Tensor, hook: Any) -> None:
            live.update({name: tensor[:, :, i] if tensor.ndim == 4 else tensor for i, name in enumerate(names)})

        return hook_fn

    hooks: list[tuple[str, Callable]] = [("blocks.0.hook_resid_pre", writer(["input"]))]
    for i in range(graph.n_layers):
        start, heads, kv = i * graph.readers_per_layer, graph.n_heads, graph.n_kv_readers
        bounds = {"q": (start, heads), "k": (start + heads, kv), "v": (start + heads + kv, kv)}
        hooks += [(f"blocks.{i}.attn.hook_{kind}_input", reader(list(range(a, a + n)))) for kind, (a, n) in bounds.items()]
        hooks.append((f"blocks.{i}.attn.hook_result", writer([f"a{i}.h{h}" for h in range(heads)])))
        hooks += [(f"blocks.{i}.ln2.hook_in", reader([graph.mlp_reader(i)])), (f"blocks.{i}.hook_mlp_out", writer([f"m{i}"]))]
    hooks.append(("ln_final.hook_in", reader([len(graph.readers) - 1])))
    model.set_use_split_qkv_input(True)
    model.set_use_attn_result(True)
    try:
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            return model.token_logits(batch.clean) if hasattr(model, "token_logits") else model(batch.clean).roll(1, 1)
    finally:
        model.set_use_split_qkv_input(False)
        model.set_use_attn_result(False)


def assert_as_with_split_inputs(model: Any, edges: Tensor, intervention: Any) -> None:
    readouts, graph, means = rows(), Graph.of(model), means_for(model, intervention)
    batch = next(readouts.batches(10**6))
    outputs = replaced(model, batch, intervention, means)
    replacement = {"input": outputs.input}
    for i, block in enumerate(model.blocks):
        heads = torch.einsum("bphe,hed->hbpd", outputs.z[i], block.attn.W_O.detach())
        replacement |= {f"a{i}.h{h}": head for h, head in enumerate(heads)} | {f"m{i}": outputs.mlp[i]}
    logits = batch.at_targets(split_inputs(model, batch, graph, edges, replacement))
    expected = (logits.gather(2, batch.answer_ids[..., None]) - logits.gather(2, batch.foil_ids[..., None]))[..., 0].mean(1)
    run = run_circuit(model, readouts, circuit_of(edges, graph), intervention=intervention, means=means)
    error = (run.circuit.metric - expected).abs().max() / expected.abs().max()
    assert error < 1e-5, f"{int(edges.sum())} edges, {intervention}: {error:.1e}"


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_a_copy_of_the_residual_per_reader(models, name) -> None:
    graph = Graph.of(models[name])
    for share, intervention in ((0.02, "counterfactual"), (0.3, "counterfactual"), (0.6, "zero"), (0.3, "mean"), (0.3, "mean_positional")):
        assert_as_with_split_inputs(models[name], random_edges(graph, share), intervention)


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_writers_that_nothing_moves_put_out_what_the_base_makes_of_them(models, name, intervention) -> None:
    """Edges out of MLPs and heads that have none into them: under zero and means their live output is not the one it is replaced by."""
    graph = Graph.of(models[name])
    out_of = torch.tensor([writer in ("m0", "m1", "a0.h1", "a1.h2") for writer in graph.writers])
    edges = graph.possible & out_of[:, None]
    edges[:, :-1] = False
    assert_as_with_split_inputs(models[name], edges, intervention)
    edges[graph.writers.index("m0"), graph.attention_readers(1)] = True
    assert_as_with_split_inputs(models[name], edges, intervention)


@pytest.mark.parametrize(("ablation", "intervention"), [("corrupt", "counterfactual"), ("mean", "mean_positional")])
def test_agrees_with_transformer_lens_where_it_can_run(models, ablation, intervention) -> None:
    model, readouts, others = models["llama, no groups"], rows(n=1), rows(9, 5, 7)
    graph = Graph.of(model)
    edges = random_edges(graph, 0.4)
    means = writer_means(model, others, positional=True) if ablation == "mean" else None
    run = run_circuit(model, readouts, circuit_of(edges, graph), intervention=intervention, means=means)

    def metric(logits: Tensor) -> Tensor:
        at = logits[0, readouts.target_pos[0] - 1]
        return (at.gather(1, readouts.answer_ids.T) - at.gather(1, readouts.foil_ids.T)).mean()

    kept = [edge for edge in peer_edges(model, readouts.clean, metric) if edges[writer_row(graph, edge[0]), reader_column(graph, edge[1])]]
    theirs = peer.faithfulness(
        model, readouts.clean, readouts.corrupt, metric, kept, peer.FaithfulnessConfig(ablation=ablation),
        mean_tokens=others.clean if ablation == "mean" else None,
    )  # fmt: skip
    assert theirs.full_metric == pytest.approx(run.clean.metric.item(), rel=1e-4)
    corrupt = run_circuit(model, readouts, circuit_of(edges, graph)).base.metric.item()
    assert theirs.recovered == pytest.approx((run.circuit.metric.item() - corrupt) / (run.clean.metric.item() - corrupt), rel=1e-4)


def peer_edges(model: Any, tokens: Tensor, metric: Callable) -> list[tuple[peer.Node, peer.Node]]:
    return list(peer.attribution_patch(model, tokens, tokens, metric, peer.EdgeAttributionConfig(granularity="edge")).edge_scores or {})


def writer_row(graph: Graph, node: peer.Node) -> int:
    return graph.writers.index({"embed": "input", "mlp_out": f"m{node.layer}"}.get(node.kind, f"a{node.layer}.h{node.head}"))


def reader_column(graph: Graph, node: peer.Node) -> int:
    names = {"mlp_in": f"m{node.layer}", "logits": "logits"}
    return graph.readers.index(names.get(node.kind, f"a{node.layer}.h{node.head}<{node.kind[0]}>"))


class Scalars:
    """Twelve nodes that all read and write one number: a head adds `gain · x`, an MLP `gain · x · silu(x)`, logits are x and 0.

    The rest of the residual stays zero and the norms' eps is so large that they are the identity.
    """

    first = {"a0.h0": 0.5, "a0.h1": -1.0, "a0.h2": 2.0, "a0.h3": 0.25, "m0": 0.5}
    gains = first | {"a1.h0": 1.0, "a1.h1": -0.5, "a1.h2": 3.0, "a1.h3": 0.1, "m1": -0.25}
    clean, corrupt = 0.8, -0.3

    def __init__(self) -> None:
        config = LlamaConfig(
            vocab_size=4, hidden_size=8, intermediate_size=2, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
            rms_norm_eps=1e12, tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        )  # fmt: skip
        native: Any = LlamaForCausalLM(config).eval()  # its layers are reached by names that no class declares
        with torch.no_grad():
            for name, parameter in native.named_parameters():
                parameter.fill_(1e6 if "norm" in name else 0.0)
            native.model.embed_tokens.weight[:2, 0] = torch.tensor([self.clean, self.corrupt])
            native.lm_head.weight[2, 0] = 1.0
            for i, layer in enumerate(native.model.layers):
                for h in range(4):
                    layer.self_attn.v_proj.weight[2 * h, 0] = 1.0
                    layer.self_attn.o_proj.weight[0, 2 * h] = self.gains[f"a{i}.h{h}"]
                layer.mlp.gate_proj.weight[0, 0] = layer.mlp.up_proj.weight[0, 0] = 1.0
                layer.mlp.down_proj.weight[0, 0] = self.gains[f"m{i}"]
        self.model = HookedDiffusionTransformer.from_hf(native)
        # One token, read at its own position: the slot after it is what the shift of an ARM asks for.
        self.readouts = Readouts.from_tokens(*(torch.tensor([[token, 0]]) for token in (0, 1)), *torch.tensor([[1], [2], [3]]))

    def run(self, edges: list[tuple[str, str]], **settings: Any) -> float:
        graph = Graph.of(self.model)
        mask = torch.zeros_like(graph.possible)
        for writer, reader in edges:
            mask[graph.writers.index(writer), graph.readers.index(reader)] = True
        return run_circuit(self.model, self.readouts, circuit_of(mask, graph), **settings).circuit.metric.item()

    def head(self, name: str, x: float) -> float:
        return self.gains[name] * x

    def mlp(self, name: str, x: float) -> float:
        return self.gains[name] * x * x / (1 + math.exp(-x))

    def whole(self, x: float) -> dict[str, float]:
        """Every writer's output on input x."""
        out = {"input": x}
        for i in range(2):
            residual = sum(out.values())
            out |= {f"a{i}.h{h}": self.head(f"a{i}.h{h}", residual) for h in range(4)}
            out[f"m{i}"] = self.mlp(f"m{i}", sum(out.values()))
        return out


def test_a_model_of_twelve_nodes_agrees_with_arithmetic() -> None:
    toy = Scalars()
    graph = Graph.of(toy.model)
    assert len(graph.writers) + 1 == 12
    clean, corrupt = toy.whole(toy.clean), toy.whole(toy.corrupt)
    everything = [(graph.writers[w], graph.readers[r]) for w, r in graph.possible.nonzero().tolist()]
    assert toy.run(everything) == pytest.approx(sum(clean.values()), rel=1e-5)
    assert toy.run([]) == pytest.approx(sum(corrupt.values()), rel=1e-5)

    chain = [("input", "a0.h2<v>"), ("a0.h2", "a1.h2<v>"), ("a1.h2", "logits")]
    assert toy.run(chain, intervention="zero") == pytest.approx(2.0 * 3.0 * toy.clean, rel=1e-5)

    a0h2 = toy.head("a0.h2", toy.clean)
    a1h2 = toy.head("a1.h2", sum(corrupt[name] for name in graph.writers[:6]) - corrupt["a0.h2"] + a0h2)
    assert toy.run(chain) == pytest.approx(sum(corrupt.values()) - corrupt["a1.h2"] + a1h2, rel=1e-5)

    through_mlp = [("input", "a0.h2<v>"), ("a0.h2", "m0"), ("input", "m0"), ("m0", "logits"), ("input", "logits")]
    assert toy.run(through_mlp, intervention="zero") == pytest.approx(toy.clean + toy.mlp("m0", toy.clean + a0h2), rel=1e-5)
    # Queries and keys of a single token do not matter: an edge into them changes nothing.
    assert toy.run([*chain, ("input", "a1.h2<q>"), ("m0", "a1.h2<k>")]) == toy.run(chain)


def test_examples_weigh_as_many_positions_as_they_are_read_at(models, many_shapes) -> None:
    model = models["llama"]
    graph = Graph.of(model)
    circuits = [circuit_of(random_edges(graph, share), graph) for share in (0.1, 0.6)]
    together = run_circuits(model, many_shapes, circuits, batch_tokens=16)
    for circuit, run in zip(circuits, together, strict=True):
        alone = run_circuit(model, many_shapes, circuit, batch_tokens=8)
        torch.testing.assert_close(alone.circuit.metric, run.circuit.metric, rtol=1e-4, atol=1e-5)
        assert run.read.tolist() == [3, 2, 3, 4]
        assert run.mean(run.circuit) == pytest.approx((run.circuit.metric @ run.read.float() / run.read.sum()).item(), rel=1e-5)
        for example in range(4):
            only = run_circuit(model, many_shapes.select([example]), circuit)
            assert only.circuit.metric[0].item() == pytest.approx(run.circuit.metric[example].item(), abs=1e-4)
            assert bool(only.circuit.first[0]) == bool(run.circuit.first[example])


def test_accuracy_is_the_answer_s_rank_at_every_position(models) -> None:
    model, readouts = models["llama"], rows(n=8)
    graph = Graph.of(model)
    batch = next(readouts.batches(10**6))
    logits = run_writers(model, batch)[1]
    best = Readouts.from_tokens(readouts.clean, readouts.corrupt, readouts.target_pos, logits.argmax(-1), logits.argmin(-1))
    run = run_circuit(model, best, circuit_of(graph.possible, graph))
    assert run.clean.first.all() and run.clean.above_foil.all() and run.circuit.first.all()
    answers = best.answer_ids.clone()
    answers[0, 1] = logits[0, 1].argsort(descending=True)[1]
    second = Readouts.from_tokens(best.clean, best.corrupt, best.target_pos, answers, best.foil_ids)
    run = run_circuit(model, second, circuit_of(graph.possible, graph))
    assert run.circuit.first.tolist() == [False] + [True] * 7 and run.circuit.above_foil.all()


def test_a_circuit_of_one_model_runs_in_another_of_the_same_graph(models) -> None:
    arm, mdm = models["llama"], models["llama, full attention"]
    circuit = circuit_of(random_edges(Graph.of(arm), 0.3), Graph.of(arm))
    assert run_circuit(mdm, rows(), circuit).circuit.metric.isfinite().all()


def test_what_cannot_be_run_is_refused(models) -> None:
    model, readouts = models["llama"], rows()
    graph = Graph.of(models["llama, no groups"])
    with pytest.raises(ValueError, match="different graphs.*n_kv_heads"):
        run_circuit(model, readouts, circuit_of(graph.possible, graph))
    for tokens in (0, -5):
        with pytest.raises(ValueError, match=f"batch_tokens must be a whole number of at least 1, got {tokens}"):
            run_circuit(model, readouts, circuit_of(Graph.of(model).possible, Graph.of(model)), batch_tokens=tokens)
    with pytest.raises(ValueError, match="no circuit"):
        run_circuits(model, readouts, [])
    own = Graph.of(model)
    with pytest.raises(ValueError, match="needs means"):
        run_circuit(model, readouts, circuit_of(own.possible, own), intervention="mean")


def test_attention_is_left_as_it_was(models) -> None:
    model, readouts = models["llama"], rows()
    graph = Graph.of(model, "ungrouped")
    before = model(readouts.clean)

    def broken(*_: Any) -> Tensor:
        raise RuntimeError("no metric")

    with pytest.raises(RuntimeError):
        run_circuit(model, readouts, circuit_of(graph.possible, graph), metric=broken)
    run_circuit(model, readouts, circuit_of(graph.possible, graph))
    assert torch.equal(model(readouts.clean), before)


def padded(readouts: Readouts, left: int, right: int, fill: int) -> Readouts:
    """The same rows between `left` and `right` hidden tokens."""

    def pad(tokens: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(tokens, (left, right), value=value)

    mask = pad(torch.ones_like(readouts.clean), 0)
    clean, corrupt = (pad(tokens, fill) for tokens in (readouts.clean, readouts.corrupt))
    return Readouts.from_tokens(clean, corrupt, readouts.target_pos + left, readouts.answer_ids, readouts.foil_ids, attention_mask=mask)


@pytest.mark.parametrize(("left", "right"), [(2, 0), (0, 3), (1, 2)])
@pytest.mark.parametrize("name", ["llama", "llama, full attention", "gpt2"])
def test_padding_changes_nothing(models, name, left, right) -> None:
    model, readouts = models[name], rows()
    graph = Graph.of(model)
    circuit = circuit_of(random_edges(graph, 0.4), graph)
    for intervention in ("counterfactual", "zero", "mean"):
        means = means_for(model, intervention)
        bare = run_circuit(model, readouts, circuit, intervention=intervention, means=means)
        for fill in (0, 7):
            run = run_circuit(model, padded(readouts, left, right, fill), circuit, intervention=intervention, means=means)
            for end in ("circuit", "clean", "base"):
                found, expected = getattr(run, end).metric, getattr(bare, end).metric
                assert (found - expected).abs().max() < 1e-5 * bare.clean.metric.abs().max(), f"{end}, {intervention}"


def test_where_the_sides_show_different_tokens_no_edge_live_is_the_base(models) -> None:
    model, readouts = models["llama, full attention"], rows()
    masks = torch.ones(2, *readouts.clean.shape, dtype=torch.bool)
    masks[0, :, 0] = masks[1, :, 1] = False
    both = Readouts.from_tokens(
        readouts.clean, readouts.corrupt, readouts.target_pos, readouts.answer_ids, readouts.foil_ids, attention_mask=(masks[0], masks[1])
    )
    graph = Graph.of(model)
    full, empty = run_circuits(model, both, [circuit_of(graph.possible, graph), circuit_of(torch.zeros_like(graph.possible), graph)])
    scale = full.clean.metric.abs().max()
    assert (full.circuit.metric - full.clean.metric).abs().max() < 1e-5 * scale
    assert (empty.circuit.metric - empty.base.metric).abs().max() < 1e-5 * scale


def test_every_metric_measures_a_circuit(models) -> None:
    model, readouts = models["llama, full attention"], rows()
    graph = Graph.of(model)
    circuit = circuit_of(graph.possible, graph)
    for metric in ("logit_diff", "prob_diff", "log_prob", "kl"):
        run = run_circuit(model, readouts, circuit, metric=metric)
        assert run.metric == metric and run.base.metric.isfinite().all()
        torch.testing.assert_close(run.circuit.metric, run.clean.metric, rtol=1e-4, atol=1e-4)
    closeness = run_circuit(model, readouts, circuit_of(random_edges(graph, 0.3), graph), metric="kl")
    assert (closeness.clean.metric == 0).all() and (closeness.circuit.metric < 0).all()


def test_a_run_that_is_not_finite_names_where(native) -> None:
    broken = native("llama")
    weight = broken.model.layers[1].mlp.down_proj.weight
    model = HookedDiffusionTransformer.from_hf(broken)
    weight.data[0, 0] = float("nan")
    graph = Graph.of(model)
    with pytest.raises(FloatingPointError, match="in the clean run the first such values are at layer 1, hook blocks.1"):
        run_circuit(model, rows(), circuit_of(graph.possible, graph))


def test_weights_of_half_precision_run_within_their_rounding(native, models) -> None:
    rounded = HookedDiffusionTransformer.from_hf(native("qwen2").bfloat16(), spec=FULL)
    for kv in ("grouped", "ungrouped"):
        graph = Graph.of(rounded, kv)
        circuits = [circuit_of(random_edges(graph, share), graph) for share in (0.0, 0.4, 1.0)]
        for half, single in zip(*(run_circuits(model, rows(), circuits) for model in (rounded, models["qwen2"])), strict=True):
            assert half.circuit.metric.dtype == torch.float32
            assert (half.circuit.metric - single.circuit.metric).abs().max() < 0.05 * single.base.metric.abs().max()
