"""Scores against the definition: a zero tensor added on every edge, and the metric differentiated by it; or the edge's Δ taken away.

The models are written out by hand in float64, one residual input per reader, so nothing of the code under test is used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import GPT2Config, GPT2LMHeadModel

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.gradients import frozen
from mechshift_tl import attribute
from mechshift_tl.attribution.metrics import METRICS
from mechshift_tl.circuits import Circuit
from mechshift_tl.evaluation.run import run_circuit
from mechshift_tl.graph import Graph
from mechshift_tl.interventions.mixing import mixed_logits
from mechshift_tl.interventions.patching import ends
from mechshift_tl.readouts import Readouts

HEADS, D_MODEL, EPS = 4, 32, 1e-5
Weights = dict[str, Tensor]


@dataclass
class Layer:
    """Per query head: `q`, `k`, `v` map a normalised residual to `(…, d_head)`, `o` maps z back to `(…, d)`."""

    norm1: Callable[[Tensor], Tensor]
    norm2: Callable[[Tensor], Tensor]
    q: list[Callable[[Tensor], Tensor]]
    k: list[Callable[[Tensor], Tensor]]
    v: list[Callable[[Tensor], Tensor]]
    o: list[Callable[[Tensor], Tensor]]
    o_bias: Tensor | float
    mlp: Callable[[Tensor], Tensor]


@dataclass
class ByHand:
    """A decoder whose every reader sums the writers itself, so that each edge can be given a term of its own."""

    layers: list[Layer]
    embed: Callable[[Tensor], Tensor]
    unembed: Callable[[Tensor], Tensor]
    causal: bool
    theta: float | None
    #: Query heads that share a K/V reader.
    group: int

    def kv(self, layer: int, head: int, kind: str) -> str:
        return f"a{layer}.g{head // self.group}<{kind}>" if self.group > 1 else f"a{layer}.h{head}<{kind}>"

    def run(self, embedding: Tensor, on_edge: Callable[[str, str], Any] = lambda writer, reader: 0.0) -> tuple[Weights, Tensor]:
        """Every writer's output, and the logits; `on_edge(writer, reader)` is added to what the reader gets from the writer."""
        written, biases = {"input": embedding}, torch.zeros((), dtype=torch.float64)

        def read(reader: str) -> Tensor:
            return sum((out + on_edge(writer, reader) for writer, out in written.items()), biases)

        for i, layer in enumerate(self.layers):
            heads = {}
            for h in range(HEADS):
                q = layer.q[h](layer.norm1(read(f"a{i}.h{h}<q>")))
                k, v = (getattr(layer, kind)[h](layer.norm1(read(self.kv(i, h, kind)))) for kind in "kv")
                heads[f"a{i}.h{h}"] = layer.o[h](self.attend(q, k, v))
            written |= heads
            biases = biases + layer.o_bias
            written[f"m{i}"] = layer.mlp(layer.norm2(read(f"m{i}")))
        return written, self.unembed(read("logits"))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.theta is not None:
            q, k = rotate(q, self.theta), rotate(k, self.theta)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if self.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        return scores.softmax(-1) @ v


def rotate(x: Tensor, theta: float) -> Tensor:
    pos, d = x.shape[-2:]
    angle = torch.arange(pos, dtype=x.dtype)[:, None] * theta ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    angle = torch.cat([angle, angle], -1)
    first, second = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()


def rms_norm(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def layer_norm(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: F.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def per_head(weight: Tensor, bias: Tensor | None = None, repeats: int = 1) -> list[Callable[[Tensor], Tensor]]:
    """Projections `(heads · d_head, d)` split by head, each repeated for the query heads that share it."""
    weights = weight.chunk(HEADS // repeats)
    biases = bias.chunk(HEADS // repeats) if bias is not None else [None] * len(weights)
    return [lambda x, w=w, b=b: F.linear(x, w, b) for w, b in zip(weights, biases, strict=True) for _ in range(repeats)]


def out_heads(weight: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """The output projection `(d, heads · d_head)` split by head."""
    return [lambda z, w=w: z @ w.T for w in weight.chunk(HEADS, 1)]


def llama_by_hand(native: Any, causal: bool, grouped: bool) -> ByHand:
    """Llama, or Qwen2 with its biases; weights are taken before a bridge wraps the model."""
    w = {name: tensor.double().clone() for name, tensor in native.state_dict().items()}
    config = native.config
    repeats = config.num_attention_heads // config.num_key_value_heads

    def layer(at: str) -> Layer:
        def project(kind: str, repeats: int) -> list[Callable[[Tensor], Tensor]]:
            return per_head(w[f"{at}.self_attn.{kind}_proj.weight"], w.get(f"{at}.self_attn.{kind}_proj.bias"), repeats)

        gate, up, down = (w[f"{at}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        return Layer(
            norm1=rms_norm(w[f"{at}.input_layernorm.weight"]),
            norm2=rms_norm(w[f"{at}.post_attention_layernorm.weight"]),
            q=project("q", 1),
            k=project("k", repeats),
            v=project("v", repeats),
            o=out_heads(w[f"{at}.self_attn.o_proj.weight"]),
            o_bias=0.0,
            mlp=lambda x: (F.silu(x @ gate.T) * (x @ up.T)) @ down.T,
        )

    final = rms_norm(w["model.norm.weight"])
    return ByHand(
        layers=[layer(f"model.layers.{i}") for i in range(config.num_hidden_layers)],
        embed=lambda tokens: w["model.embed_tokens.weight"][tokens],
        unembed=lambda x: final(x) @ w["lm_head.weight"].T,
        causal=causal,
        theta=config.rope_parameters["rope_theta"],
        group=repeats if grouped else 1,
    )


def gpt2_by_hand(native: Any) -> ByHand:
    """GPT-2: LayerNorm, biases everywhere, learned positions, projections stored transposed."""
    w = {name: tensor.double().clone() for name, tensor in native.state_dict().items()}

    def norm(name: str) -> Callable[[Tensor], Tensor]:
        return layer_norm(w[f"{name}.weight"], w[f"{name}.bias"])

    def layer(at: str) -> Layer:
        q, k, v = (
            per_head(weight.T, bias)
            for weight, bias in zip(w[f"{at}.attn.c_attn.weight"].chunk(3, 1), w[f"{at}.attn.c_attn.bias"].chunk(3), strict=True)
        )
        (up, up_bias), (down, down_bias) = ((w[f"{at}.mlp.{name}.weight"], w[f"{at}.mlp.{name}.bias"]) for name in ("c_fc", "c_proj"))
        return Layer(
            norm1=norm(f"{at}.ln_1"),
            norm2=norm(f"{at}.ln_2"),
            q=q,
            k=k,
            v=v,
            o=out_heads(w[f"{at}.attn.c_proj.weight"].T),
            o_bias=w[f"{at}.attn.c_proj.bias"],
            mlp=lambda x: F.gelu(x @ up + up_bias, approximate="tanh") @ down + down_bias,
        )

    final = norm("transformer.ln_f")
    return ByHand(
        layers=[layer(f"transformer.h.{i}") for i in range(native.config.n_layer)],
        embed=lambda tokens: w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][: tokens.shape[1]],
        unembed=lambda x: final(x) @ w["transformer.wte.weight"].T,
        causal=True,
        theta=None,
        group=1,
    )


def logit_diff(logits: Tensor, rows: Readouts, shift: int) -> Tensor:
    """Per row, the mean logit difference at its targets."""
    at = logits[torch.arange(len(logits))[:, None], rows.target_pos - shift]
    return (at.gather(2, rows.answer_ids[..., None]) - at.gather(2, rows.foil_ids[..., None])).mean((1, 2))


def run_by_hand(hand: ByHand, rows: Readouts, shift: int, live_share: Callable[[str, str], Any], intervention: str) -> Tensor:
    """The metric per row when of each edge a share is live, the rest patched: run again until all that is live has settled."""
    clean, corrupt = hand.embed(rows.clean), hand.embed(rows.corrupt)
    patched = hand.run(corrupt)[0] if intervention == "counterfactual" else defaultdict(float)
    live: Weights = {}
    for _ in range(2 * len(hand.layers) + 2):
        before = live

        def outside(writer: str, reader: str, before: Weights = before) -> Any:
            return 0.0 if writer not in before else (1.0 - live_share(writer, reader)) * (patched[writer] - before[writer])

        live, logits = hand.run(clean, outside)
    return logit_diff(logits, rows, shift)


def assert_circuits_agree(model: Any, hand: ByHand, rows: Readouts, kv: Any, shift: int) -> None:
    graph = Graph.of(model, kv)
    for share in (0.05, 0.5):
        mask = graph.possible & (torch.rand(graph.possible.shape, generator=torch.Generator().manual_seed(1)) < share)
        circuit = Circuit(graph, mask, torch.zeros(mask.shape), int(mask.sum()))
        kept = circuit.edge_set()
        for intervention in ("counterfactual", "zero"):
            expected = run_by_hand(hand, rows, shift, lambda *edge, kept=kept: float(edge in kept), intervention)
            run = run_circuit(model, rows, circuit, intervention=intervention)
            error = (run.circuit.metric - expected).abs().max() / run.clean.metric.abs().max()
            assert error < 1e-5, f"{intervention}, {circuit.kept} edges: {error:.1e}"


def assert_mixtures_agree(model: Any, hand: ByHand, rows: Readouts, kv: Any, shift: int, intervention: Any) -> None:
    """Masks in [0, 1]: the metric of each row, and its slope along a random direction, against differences in float64."""
    graph, generator, step = Graph.of(model, kv), torch.Generator().manual_seed(2), 1e-6
    masks = torch.rand(3, *graph.shape, generator=generator, dtype=torch.float64)
    way = torch.randn(3, *graph.shape, generator=generator, dtype=torch.float64) * graph.possible
    places = {(graph.writers[u], graph.readers[v]): (u, v) for u, v in graph.possible.nonzero().tolist()}

    def by_hand(masks: Tensor) -> Tensor:
        return run_by_hand(hand, rows, shift, lambda *edge: masks[(slice(None), *places[edge])][:, None, None], intervention)

    batch, given = next(iter(rows.batches(100))).narrowed(model), masks.float().requires_grad_()
    with frozen(model):
        logits = mixed_logits(model, batch, graph, given, ends(model, batch, graph, intervention)[1])
        found = METRICS["logit_diff"].values(logits, batch)
        (gradient,) = torch.autograd.grad(found.sum(), given)
    expected, slopes = by_hand(masks), (by_hand(masks + step * way) - by_hand(masks - step * way)) / (2 * step)
    torch.testing.assert_close(found.detach().double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close((gradient * way).sum((1, 2)), slopes, rtol=0, atol=1e-4 * float(slopes.abs().max()))


def brute_force(hand: ByHand, rows: Readouts, shift: int, writers: list[str], readers: list[str], points: list[float]) -> Tensor:
    """Σ over rows and positions of ⟨Δu, gradient at the edge's own term⟩ / n, averaged over `points` on the path; NaN where no edge is."""
    clean, corrupt = hand.embed(rows.clean), hand.embed(rows.corrupt)
    on_clean, on_corrupt = hand.run(clean)[0], hand.run(corrupt)[0]
    found: dict[tuple[str, str], float] = defaultdict(float)
    for alpha in points:
        terms: dict[tuple[str, str], Tensor] = defaultdict(lambda: torch.zeros_like(clean, requires_grad=True))
        _, logits = hand.run(corrupt + alpha * (clean - corrupt), lambda writer, reader, terms=terms: terms[writer, reader])
        gradients = torch.autograd.grad(logit_diff(logits, rows, shift).sum(), list(terms.values()))
        for (writer, reader), gradient in zip(terms, gradients, strict=True):
            delta = on_clean[writer] - on_corrupt[writer]
            found[writer, reader] += (delta * gradient).sum().item() / len(points) / len(clean)
    return torch.tensor([[found.get((writer, reader), torch.nan) for reader in readers] for writer in writers], dtype=torch.float64)


def patched_one_by_one(hand: ByHand, rows: Readouts, shift: int, writers: list[str], readers: list[str], zero: bool) -> Tensor:
    """What the metric loses, on average over rows, when one edge carries its writer's corrupt output, or nothing; NaN where no edge is."""
    on_clean, logits = hand.run(hand.embed(rows.clean))
    on_corrupt, _ = hand.run(hand.embed(rows.corrupt))
    edges: set[tuple[str, str]] = set()
    hand.run(hand.embed(rows.clean), lambda writer, reader: edges.add((writer, reader)) or 0.0)
    found = {}
    for writer, reader in edges:
        delta = (0 if zero else on_corrupt[writer]) - on_clean[writer]
        patched = hand.run(hand.embed(rows.clean), lambda *edge, on=(writer, reader), delta=delta: delta if edge == on else 0.0)[1]
        found[writer, reader] = (logit_diff(logits, rows, shift) - logit_diff(patched, rows, shift)).mean().item()
    return torch.tensor([[found.get((writer, reader), torch.nan) for reader in readers] for writer in writers], dtype=torch.float64)


@pytest.fixture(scope="module")
def rows() -> Readouts:
    """Three rows of seven tokens, two of them changed, read at two positions each."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 48, (3, 7), generator=generator)
    corrupt = clean.clone()
    corrupt[:, 1:3] = (corrupt[:, 1:3] + 11) % 48
    answers, foils = torch.randint(0, 48, (2, 3, 2), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.tensor([[5, 6], [4, 6], [3, 5]]), answers, foils)


def assert_agree(model: Any, hand: ByHand, rows: Readouts, kv: Any, shift: int) -> None:
    logits = hand.run(hand.embed(rows.clean))[1]
    assert (model(rows.clean) - logits).abs().max() < 1e-4 * logits.abs().max(), "the hand-written forward is another model"
    rules: dict[Any, list[float]] = {"midpoint": [1 / 6, 3 / 6, 5 / 6], "left": [0.0, 0.5], "right": [1.0]}
    for rule, points in rules.items():
        scores = attribute(model, rows, ig_steps=len(points), rule=rule, kv=kv)
        expected = brute_force(hand, rows, shift, scores.writers, scores.readers, points)
        assert torch.equal(~expected.isnan(), scores.graph.possible), "the graph has other edges than the model"
        error = (scores.matrix - expected.nan_to_num(0)).abs().max() / expected.nan_to_num(0).abs().max()
        assert error < 1e-5, f"{rule}: {error:.1e}"


def assert_patching_agrees(model: Any, hand: ByHand, rows: Readouts, kv: Any, shift: int, intervention: Any = "counterfactual") -> None:
    scores = attribute(model, rows, method="exact", kv=kv, intervention=intervention)
    expected = patched_one_by_one(hand, rows, shift, scores.writers, scores.readers, intervention == "zero")
    assert torch.equal(~expected.isnan(), scores.graph.possible)
    error = (scores.matrix - expected.nan_to_num(0)).abs().max() / expected.nan_to_num(0).abs().max()
    assert error < 1e-5, f"{error:.1e}"


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(("attention", "shift"), [("causal", 1), ("full", 1), ("full", 0)])
@pytest.mark.parametrize(("kv_heads", "kv"), [(2, "grouped"), (2, "ungrouped"), (4, "grouped"), (1, "ungrouped")])
def test_hooked_models_agree_with_a_term_per_edge(native, rows, family, attention, shift, kv_heads, kv) -> None:
    hf_model = native(family, num_key_value_heads=kv_heads)
    hand = llama_by_hand(hf_model, attention == "causal", kv == "grouped")
    model = HookedDiffusionTransformer.from_hf(hf_model, spec=DiffusionSpec(attention=attention, logit_shift=shift, mask_token_id=2))
    assert_agree(model, hand, rows, kv, shift)
    assert_circuits_agree(model, hand, rows, kv, shift)


@pytest.mark.parametrize(
    ("family", "attention", "shift", "kv_heads", "kv", "intervention"),
    [
        ("llama", "full", 0, 2, "ungrouped", "counterfactual"), ("llama", "causal", 1, 4, "grouped", "zero"),
        ("qwen2", "full", 1, 2, "grouped", "counterfactual"), ("qwen2", "causal", 1, 1, "ungrouped", "counterfactual"),
    ],
)  # fmt: skip
def test_hooked_models_agree_with_edges_patched_one_by_one(native, rows, family, attention, shift, kv_heads, kv, intervention) -> None:
    hf_model = native(family, num_key_value_heads=kv_heads)
    hand = llama_by_hand(hf_model, attention == "causal", kv == "grouped")
    model = HookedDiffusionTransformer.from_hf(hf_model, spec=DiffusionSpec(attention=attention, logit_shift=shift, mask_token_id=2))
    assert_patching_agrees(model, hand, rows, kv, shift, intervention)


@pytest.mark.parametrize(
    ("family", "attention", "shift", "kv_heads", "kv", "intervention"),
    [
        ("llama", "full", 0, 2, "grouped", "counterfactual"), ("llama", "causal", 1, 2, "ungrouped", "counterfactual"),
        ("qwen2", "full", 1, 4, "grouped", "zero"), ("qwen2", "causal", 1, 1, "grouped", "counterfactual"),
    ],
)  # fmt: skip
def test_mixtures_and_their_slopes_agree_with_differences(native, rows, family, attention, shift, kv_heads, kv, intervention) -> None:
    hf_model = native(family, num_key_value_heads=kv_heads)
    hand = llama_by_hand(hf_model, attention == "causal", kv == "grouped")
    model = HookedDiffusionTransformer.from_hf(hf_model, spec=DiffusionSpec(attention=attention, logit_shift=shift, mask_token_id=2))
    assert_mixtures_agree(model, hand, rows, kv, shift, intervention)


def test_a_plain_bridge_with_layer_norm_and_biases_agrees_with_a_term_per_edge(rows) -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=HEADS, n_embd=D_MODEL, vocab_size=48, n_positions=16, initializer_range=0.3, use_cache=False)
    hf_model = GPT2LMHeadModel(config).eval()
    for name, parameter in hf_model.named_parameters():
        if "ln_" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=float(".ln_" in name), std=0.3)
    hand = gpt2_by_hand(hf_model)
    model = build_bridge_from_module(hf_model, "GPT2LMHeadModel", hf_config=config, tokenizer=None, model_name="gpt2-tiny")
    assert_agree(model, hand, rows, "grouped", shift=1)
    assert_patching_agrees(model, hand, rows, "grouped", shift=1)
    assert_circuits_agree(model, hand, rows, "grouped", shift=1)
    for intervention in ("counterfactual", "zero"):
        assert_mixtures_agree(model, hand, rows, "grouped", 1, intervention)
