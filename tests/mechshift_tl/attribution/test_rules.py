"""Backward rules and AtP* against a decoder written by hand in float64, with each formula at its place and a term of its own per edge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.attribution.rules import RULE_SETS, rule_hooks
from mechshift_tl.readouts import Readouts

HEADS, EPS = 4, 1e-5
RULES = ["norms", "activations", "products", "patterns", "softmax", "qkv"]
GIVEN: list[tuple[str, ...]] = [*((rule,) for rule in RULES), ("norms", "patterns", "qkv"), *RULE_SETS.values()]


class WarmSoftmax(torch.autograd.Function):
    """softmax(x); backward s∘(g − ⟨g, s⟩) with s = softmax(x/2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward((x / 2).softmax(-1))
        return x.softmax(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (g,), (s,) = gradients, ctx.saved_tensors
        return s * (g - (g * s).sum(-1, keepdim=True))


def scaled(x: Tensor, share: float) -> Tensor:
    return share * x + ((1 - share) * x).detach()


@dataclass
class ByHand:
    """A decoder whose readers sum the writers themselves, under `rules`."""

    w: dict[str, Tensor]
    family: str
    rules: tuple[str, ...]
    causal: bool
    kv_heads: int
    theta: float = 5e5
    #: The layer that nothing goes back through; every head's pattern, by its name, as the last run made it.
    dropped: int | None = None
    patterns: dict[str, Tensor] = field(default_factory=dict)

    def norm(self, x: Tensor, name: str) -> Tensor:
        if self.family == "gpt2":
            x = x - x.mean(-1, keepdim=True)
        scale = (x.square().mean(-1, keepdim=True) + (1e-6 if "q_norm" in name or "k_norm" in name else EPS)).sqrt()
        out = x / (scale.detach() if "norms" in self.rules else scale) * self.w[f"{name}.weight"]
        return out + self.w[f"{name}.bias"] if self.family == "gpt2" else out

    def act(self, x: Tensor) -> Tensor:
        out = F.gelu(x, approximate="tanh") if self.family == "gpt2" else F.silu(x)
        return x * (out / (x + 1e-6 * x.sign())).detach() if "activations" in self.rules else out

    def mlp(self, x: Tensor, at: str) -> Tensor:
        if self.family == "gpt2":
            up, down = (self.w[f"{at}.mlp.{name}.weight"] for name in ("c_fc", "c_proj"))
            return self.act(x @ up + self.w[f"{at}.mlp.c_fc.bias"]) @ down + self.w[f"{at}.mlp.c_proj.bias"]
        gate, up, down = (self.w[f"{at}.mlp.{name}_proj.weight"].T for name in ("gate", "up", "down"))
        product = self.act(x @ gate) * (x @ up)
        return (product / 2 + (product / 2).detach() if "products" in self.rules else product) @ down

    def project(self, x: Tensor, at: str, kind: str, head: int) -> Tensor:
        if self.family == "gpt2":
            place = slice("qkv".index(kind) * 32 + head * 8, "qkv".index(kind) * 32 + head * 8 + 8)
            out = x @ self.w[f"{at}.attn.c_attn.weight"][:, place] + self.w[f"{at}.attn.c_attn.bias"][place]
        else:
            out = x @ self.w[f"{at}.self_attn.{kind}_proj.weight"][head * 8 : head * 8 + 8].T
        out = scaled(out, {"q": 0.25, "k": 0.25, "v": 0.5}[kind]) if "qkv" in self.rules else out
        normed = self.family == "qwen3" and kind != "v"
        return self.norm(out, f"{at}.self_attn.{kind}_norm") if normed else out

    def attend(self, head: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.family != "gpt2":
            q, k = self.rotate(q), self.rotate(k)
        scores = q @ k.mT / 8**0.5
        if self.causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
        pattern = cast(Tensor, WarmSoftmax.apply(scores)) if "softmax" in self.rules else scores.softmax(-1)
        self.patterns[head] = pattern
        return (pattern.detach() if "patterns" in self.rules else pattern) @ v

    def rotate(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * self.theta ** (-torch.arange(0, 8, 2, dtype=x.dtype) / 8)
        angle, (first, second) = torch.cat([angle, angle], -1), x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()

    def run(self, embedding: Tensor, term: Callable[[str, str], Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Every writer's output, and the logits; `term(writer, reader)` is added to what the reader gets from the writer."""
        w, written, biases = self.w, {"input": embedding}, torch.zeros((), dtype=torch.float64)
        names = {"gpt2": ("transformer.h", "ln_1", "ln_2")}.get(
            self.family, ("model.layers", "input_layernorm", "post_attention_layernorm")
        )

        def read(reader: str, norm: str) -> Tensor:
            return self.norm(sum((out + term(writer, reader) for writer, out in written.items()), biases), norm)

        for i in range(2):
            at, group, heads = f"{names[0]}.{i}", HEADS // self.kv_heads, {}
            for h in range(HEADS):
                q = self.project(read(f"a{i}.h{h}<q>", f"{at}.{names[1]}"), at, "q", h)
                named = [f"a{i}.g{h // group}<{kind}>" if group > 1 else f"a{i}.h{h}<{kind}>" for kind in "kv"]
                k, v = (self.project(read(n, f"{at}.{names[1]}"), at, n[-2], h // group) for n in named)
                out = w[f"{at}.attn.c_proj.weight"][h * 8 : h * 8 + 8] if self.family == "gpt2" else None
                out = w[f"{at}.self_attn.o_proj.weight"][:, h * 8 : h * 8 + 8].T if out is None else out
                heads[f"a{i}.h{h}"] = self.attend(f"a{i}.h{h}", q, k, v) @ out
            written |= {name: out.detach() if i == self.dropped else out for name, out in heads.items()}
            biases = biases + (w[f"{at}.attn.c_proj.bias"] if self.family == "gpt2" else 0)
            mlp = self.mlp(read(f"m{i}", f"{at}.{names[2]}"), at)
            written[f"m{i}"] = mlp.detach() if i == self.dropped else mlp
        last, head = ("transformer.ln_f", "transformer.wte") if self.family == "gpt2" else ("model.norm", "lm_head")
        return written, read("logits", last) @ w[f"{head}.weight"].T

    def embed(self, tokens: Tensor) -> Tensor:
        if self.family == "gpt2":
            return self.w["transformer.wte.weight"][tokens] + self.w["transformer.wpe.weight"][: tokens.shape[1]]
        return self.w["model.embed_tokens.weight"][tokens]

    def scores(self, rows: Readouts, shift: int, points: list[float], writers: list[str], readers: list[str]) -> Tensor:
        clean, corrupt = self.embed(rows.clean), self.embed(rows.corrupt)
        ends = [self.run(end, lambda writer, reader: 0.0)[0] for end in (clean, corrupt)]
        found: dict[tuple[str, str], float] = defaultdict(float)
        for alpha in points:
            terms: dict[tuple[str, str], Tensor] = defaultdict(lambda: torch.zeros_like(clean, requires_grad=True))
            _, logits = self.run(corrupt + alpha * (clean - corrupt), lambda *edge, terms=terms: terms[edge])
            metric = logit_diff(logits, rows, shift).sum()
            gradients = torch.autograd.grad(metric, list(terms.values()), allow_unused=True)
            for (writer, reader), gradient in zip(terms, gradients, strict=True):
                carried = 0.0 if gradient is None else ((ends[0][writer] - ends[1][writer]) * gradient).sum().item()
                found[writer, reader] += carried / len(points) / len(clean)
        return torch.tensor([[found.get((writer, reader), 0.0) for reader in readers] for writer in writers], dtype=torch.float64)


def logit_diff(logits: Tensor, rows: Readouts, shift: int) -> Tensor:
    """Per row, the mean logit difference at its targets."""
    at = logits[torch.arange(len(logits))[:, None], rows.target_pos - shift]
    return (at.gather(2, rows.answer_ids[..., None]) - at.gather(2, rows.foil_ids[..., None])).mean((1, 2))


@pytest.fixture(scope="module")
def rows() -> Readouts:
    """Three rows of seven tokens, two of them changed, read at two positions each."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 48, (3, 7), generator=generator)
    corrupt = clean.clone()
    corrupt[:, 1:3] = (corrupt[:, 1:3] + 11) % 48
    answers, foils = torch.randint(0, 48, (2, 3, 2), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.tensor([[5, 6], [4, 6], [3, 5]]), answers, foils)


def opened(native: Any, family: str, causal: bool) -> tuple[Any, dict[str, Tensor]]:
    """A model, and its weights as they were before a bridge wrapped it."""
    # With seed 0, some gate of the Qwen3 is so near 0 that float32 does not know its x/(x ± 10⁻⁶).
    hf_model = native(family, seed=int(family == "qwen3"))
    weights = {name: tensor.double().clone() for name, tensor in hf_model.state_dict().items()}
    if family == "gpt2":
        return build_bridge_from_module(hf_model, "GPT2LMHeadModel", hf_config=hf_model.config, tokenizer=None), weights
    spec = DiffusionSpec(attention="causal" if causal else "full", logit_shift=1 if causal else 0, mask_token_id=2)
    return HookedDiffusionTransformer.from_hf(hf_model, spec=spec), weights


@pytest.mark.parametrize("backward", GIVEN, ids="+".join)
@pytest.mark.parametrize(("family", "causal"), [("llama", False), ("qwen3", True), ("gpt2", True)])
def test_every_rule_is_its_formula(native, rows, family, causal, backward) -> None:
    model, weights = opened(native, family, causal)
    hand = ByHand(weights, family, backward, causal, 4 if family == "gpt2" else 2)
    for points, path in (([1.0], {"method": "eap"}), ([0.25, 0.75], {"method": "eap-ig", "ig_steps": 2})):
        found = attribute(model, rows, backward=backward, **cast(Any, path))
        expected = hand.scores(rows, int(causal), points, found.writers, found.readers)
        # What float32 rounds is magnified by x/(x ± 10⁻⁶) at an x near 0, and by Qwen3's norms of queries and keys of 8 numbers.
        allowed = 1e-4 if "activations" in backward or family == "qwen3" else 1e-5
        assert (found.matrix - expected).abs().max() < allowed * expected.abs().max()


@pytest.mark.parametrize("backward", ["relp", "gim", "patterns"])
def test_ungrouped_readers_sum_to_grouped_ones_and_nodes_are_sums_of_edges(bridged, rows, backward) -> None:
    model = bridged("mdm")
    grouped, ungrouped = (attribute(model, rows, method="eap", backward=backward, kv=kv) for kv in ("grouped", "ungrouped"))
    per_head = ungrouped.matrix[:, [ungrouped.readers.index(f"a1.h{h}<k>") for h in (0, 1)]].sum(1)
    torch.testing.assert_close(per_head, grouped.matrix[:, grouped.readers.index("a1.g0<k>")], rtol=1e-4, atol=1e-6)
    nodes = attribute(model, rows, method="eap", backward=backward, level="nodes")
    torch.testing.assert_close(nodes.matrix, grouped.matrix.sum(1), rtol=1e-4, atol=1e-5)
    neurons = attribute(model, rows, method="eap", backward=backward, level="neurons")
    assert neurons.matrix.isfinite().all() and neurons.matrix.abs().max() > 0
    torch.testing.assert_close(
        neurons.matrix.view(2, -1).sum(1), nodes.matrix[[nodes.ids.index(m) for m in ("m0", "m1")]], rtol=1e-4, atol=1e-5
    )


def test_the_forward_is_the_same_to_the_last_bit_and_hooks_are_gone_afterwards(bridged, rows) -> None:
    for kind in ("mdm", "gpt2"):
        model = bridged(kind)
        plain = model(rows.clean)
        for rules in (("norms", "activations", "products", "softmax", "qkv"), ("patterns",)):
            hooks = rule_hooks(model, cast(Any, rules))
            with model.hooks(fwd_hooks=[*hooks.front, *hooks.behind]):
                assert torch.equal(model(rows.clean), plain)
        attribute(model, rows, method="gim")
        assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_rules_do_not_switch_off_the_narrowing(bridged, rows, counting) -> None:
    """The last layer's MLP runs at the read positions alone, with rules inside it too."""
    model = bridged("mdm")
    seen: dict[str, list[int]] = {"eap": [], "relp": [], "gim": []}
    for method, tokens in seen.items():
        with counting(model.blocks[-1].mlp.original_component, tokens):
            attribute(model, rows, method=cast(Any, method))
    assert seen["eap"][-1] == seen["relp"][-1] == seen["gim"][-1] == 6 < rows.clean.numel()


def test_presets_are_settings_and_contradictions_are_refused(bridged, rows) -> None:
    model = bridged("mdm")
    by_name, by_rules = attribute(model, rows, method="gim"), attribute(model, rows, method="EAP", backward=RULE_SETS["gim"])
    assert by_name.settings == by_rules.settings and torch.equal(by_name.matrix, by_rules.matrix)
    assert by_name.settings is not None and by_name.settings.label == "gim"
    assert by_name.settings.to_dict()["backward"] == ["norms", "products", "softmax", "qkv"]
    refused = {
        "method 'gim' takes one gradient and no ig_steps; give method='eap-ig' and backward='gim'": {"method": "gim", "ig_steps": 5},
        "method 'relp' has backward rules of its own": {"method": "relp", "backward": "gim"},
        "exact patching takes no gradients": {"method": "exact", "backward": "gim"},
        "backward names 'lrp'; choose among norms": {"backward": "lrp"},
        "name each rule once": {"backward": ("norms", "norms")},
        "'softmax' and 'patterns' both replace": {"backward": ("softmax", "patterns")},
    }
    for message, settings in refused.items():
        with pytest.raises(ValueError, match=message.replace("(", "\\(")):
            attribute(model, rows, **cast(Any, settings))


def atp_star(hand: ByHand, rows: Readouts, shift: int, writers: list[str], readers: list[str]) -> Tensor:
    """`(rows, writers, readers)`: per row the sign of the sum, and the mean size, of the scores without each of the two layers."""
    ends = [hand.run(hand.embed(tokens), lambda writer, reader: 0.0)[0] for tokens in (rows.clean, rows.corrupt)]
    delta = {writer: ends[0][writer] - ends[1][writer] for writer in writers}
    hand.run(hand.embed(rows.clean), lambda writer, reader: 0.0)
    clean = dict(hand.patterns)
    found = torch.zeros(2, len(rows), len(writers), len(readers), dtype=torch.float64)
    for dropped in range(2):
        without = replace(hand, dropped=dropped, patterns={})
        terms: dict[tuple[str, str], Tensor] = defaultdict(lambda: torch.zeros_like(ends[0]["input"], requires_grad=True))
        _, logits = without.run(hand.embed(rows.clean), lambda *edge, terms=terms: terms[edge])
        at = [*terms.values(), *without.patterns.values()]
        slopes = torch.autograd.grad(logit_diff(logits, rows, shift).sum(), at, allow_unused=True)
        slopes = [torch.zeros_like(x) if g is None else g for x, g in zip(at, slopes, strict=True)]
        by_pattern = dict(zip(without.patterns, slopes[len(terms) :], strict=True))
        for (writer, reader), slope in zip(terms, slopes, strict=False):
            place = dropped, slice(None), writers.index(writer), readers.index(reader)
            if reader[-2:] in ("q>", "k>"):
                hand.run(hand.embed(rows.clean), lambda *edge, on=(writer, reader): -delta[edge[0]] if edge == on else 0.0)
                layer = reader.split(".")[0]
                moved = [(clean[head] - hand.patterns[head]) * by_pattern[head] for head in clean if head.startswith(f"{layer}.")]
                found[place] = sum(one.sum((1, 2)) for one in moved)
            else:
                found[place] = (delta[writer] * slope).sum((1, 2))
    layers = torch.tensor([2.0 if reader == "logits" else 1.0 for reader in readers])
    return found.sum(0).sign() * found.abs().sum(0) / layers


@pytest.mark.parametrize(("family", "causal"), [("llama", False), ("llama", True), ("gpt2", True)])
def test_atp_star_moves_patterns_and_drops_layers(native, rows, family, causal) -> None:
    model, weights = opened(native, family, causal)
    found = attribute(model, rows, method="atp*", keep_per_example=True)
    hand = ByHand(weights, family, (), causal, 4 if family == "gpt2" else 2)
    expected = atp_star(hand, rows, int(causal), found.writers, found.readers)
    assert found.per_example is not None
    # Sums over the two positions that each row reads.
    assert (found.per_example / 2 - expected).abs().max() < 1e-5 * expected.abs().max()
    together = attribute(model, rows, method="atp*", batch_tokens=1)
    torch.testing.assert_close(together.matrix, found.per_example.sum(0) / 6, rtol=1e-4, atol=1e-5)
    if family == "llama":
        heads = [found.readers.index(f"a1.h{h}<q>") for h in range(4)]
        ungrouped = attribute(model, rows, method="atp*", kv="ungrouped")
        torch.testing.assert_close(
            ungrouped.matrix[:, [ungrouped.readers.index(f"a1.h{h}<q>") for h in range(4)]], found.matrix[:, heads], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("level", ["nodes", "neurons"])
def test_atp_star_of_nodes_drops_layers(bridged, rows, level) -> None:
    model = bridged("mdm")
    found = attribute(model, rows, method="atp*", level=level, keep_per_example=True)
    assert found.per_example is not None and found.matrix.isfinite().all()
    last = found.ids.index("m1" if level == "nodes" else "m1.n5")
    plain = attribute(model, rows, method="eap", level=level, keep_per_example=True)
    assert plain.per_example is not None
    # Nothing stands between the last MLP and the logits: without layer 0 it has the gradient that it always has.
    torch.testing.assert_close(found.per_example[:, last], plain.per_example[:, last], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="AtP\\* moves whole attention patterns"):
        attribute(model, rows, method="atp*", per_position=True)
