"""TransformerLens' own analyses on ARMs and MDMs, each against the native model run with nothing but torch's hooks.

`docs/transformer_lens_tools.md` has one row for each `covers` here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformer_lens import ActivationCache, patching
from transformer_lens.benchmarks import main_benchmark
from transformer_lens.benchmarks.utils import BenchmarkResult, PhaseReferenceData
from transformer_lens.tools.analysis import (
    EdgeAttributionConfig,
    FaithfulnessConfig,
    Node,
    attribution_patch,
    direct_logit_attribution,
    faithfulness,
    logit_lens,
    logit_readout,
)
from transformers import PreTrainedTokenizerFast

import hooked_diffusion.plugin  # noqa: F401  (where the package is installed, TransformerLens loads it itself)
from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.checkpoints import save_checkpoint

Native = Callable[..., Any]
#: TransformerLens' benchmarks by name; the module does not export them.
suite: Any = main_benchmark
Site = tuple[Any, ...]
FAMILIES = ("llama", "qwen2", "qwen3", "gpt2")
#: Two layers of two query heads that share one key/value head; GPT-2 shares none.
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
SMALL_GPT2 = {"n_embd": 16, "n_head": 2, "n_inner": 24}
#: They differ at position 0 and are read at 1: an MDM's position 2 takes part, an ARM's does not.
CLEAN = torch.tensor([[3, 1, 4], [2, 6, 5]])
CORRUPT = torch.tensor([[7, 1, 4], [11, 6, 5]])
READ, ANSWER, FOIL = 1, 7, 9
DOCUMENT = Path(__file__).parents[2] / "docs" / "transformer_lens_tools.md"
#: Tool → its outcome on an ARM and on an MDM.
COVERED: dict[str, tuple[str, str]] = {}
close = partial(torch.testing.assert_close, atol=2e-5, rtol=1e-4)


def covers(*tools: str, arm: str = "passes", mdm: str = "passes") -> Callable[[Any], Any]:
    """Write down that a test covers these tools, with what outcome."""

    def note(test: Any) -> Any:
        COVERED.update({tool: (arm, mdm) for tool in tools})
        return test

    return note


def metric(logits: Tensor) -> Tensor:
    return (logits[:, READ, ANSWER] - logits[:, READ, FOIL]).mean()


class ByHand:
    """A native model whose values are read and edited by torch's own hooks."""

    def __init__(self, family: str, hf: Any):
        self.hf, self.gpt2 = hf, family == "gpt2"
        body = hf.transformer if self.gpt2 else hf.model
        self.embed, self.layers, self.norm = (body.wte, body.h, body.ln_f) if self.gpt2 else (body.embed_tokens, body.layers, body.norm)
        self.kept: dict[Any, Any] = {}
        self.n_heads, self.n_kv = hf.config.num_attention_heads, getattr(hf.config, "num_key_value_heads", hf.config.num_attention_heads)

    def at(self, kind: str, layer: int = 0, head: int | None = None) -> tuple[nn.Module, str, slice]:
        """The module, which side of it, and the columns where a value stands."""
        block = self.layers[layer]
        attn, d = block.attn if self.gpt2 else block.self_attn, 8
        columns = slice(None) if head is None else slice(head * d, head * d + d)
        if self.gpt2 and kind in ("q", "k", "v"):
            start = "qkv".index(kind) * self.n_heads * d
            columns = slice(start + columns.start, start + columns.stop) if head is not None else slice(start, start + self.n_heads * d)
        ours, gpt2 = {
            "embed": (lambda: self.embed, lambda: self.embed),
            "resid_pre": (lambda: block, lambda: block),
            "resid_mid": (lambda: block.post_attention_layernorm, lambda: block.ln_2),
            "attn_out": (lambda: attn, lambda: attn),
            "mlp_out": (lambda: block.mlp, lambda: block.mlp),
            "neurons": (lambda: block.mlp.down_proj, lambda: block.mlp.c_proj),
            "z": (lambda: attn.o_proj, lambda: attn.c_proj),
            "final": (lambda: self.norm, lambda: self.norm),
            **{one: (partial(getattr, attn, f"{one}_proj"), lambda: attn.c_attn) for one in "qkv"},
        }[kind]
        inputs = ("resid_pre", "resid_mid", "neurons", "z", "final")
        return (gpt2 if self.gpt2 else ours)(), "in" if kind in inputs else "out", columns

    @torch.no_grad()
    def __call__(self, tokens: Tensor, *edits: tuple[Site, Callable[[Tensor], Any]]) -> Tensor:
        """Logits when each edit changes the value at its site in place."""
        with ExitStack() as stack:
            for site, edit in edits:
                stack.callback(self._hook(site, edit).remove)
            return self.hf(input_ids=tokens, use_cache=False).logits

    def _hook(self, site: Site, edit: Callable[[Tensor], Any]) -> Any:
        module, side, columns = self.at(*site)

        def before(_: nn.Module, args: Any) -> None:
            edit(args[0][..., columns])

        def after(_: nn.Module, args: Any, out: Any) -> None:
            edit((out if isinstance(out, Tensor) else out[0])[..., columns])

        return module.register_forward_pre_hook(before) if side == "in" else module.register_forward_hook(after)

    def read(self, tokens: Tensor, *site: Any) -> Tensor:
        """The value at a site; kept, as the model stays the same."""
        if (id(tokens), site) not in self.kept:
            self(tokens, (site, lambda value: self.kept.__setitem__((id(tokens), site), value.clone())))
        return self.kept[id(tokens), site]

    def weight(self, kind: str, layer: int, head: int | None = None) -> Tensor:
        """What multiplies the value at a site from the right."""
        module, _, columns = self.at(kind, layer, head)
        weight = module.get_parameter("weight")
        return (weight if self.gpt2 else weight.T)[columns]

    @torch.no_grad()
    def patterns(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Attention patterns, layer by layer."""
        if (id(tokens), ()) not in self.kept:
            self.kept[id(tokens), ()] = self.hf(input_ids=tokens, use_cache=False, output_attentions=True).attentions
        return self.kept[id(tokens), ()]

    @torch.no_grad()
    def heard(self, kind: str, layer: int, head: int | None, residual: Tensor) -> tuple[Site, Tensor]:
        """Where a reader's value stands, and the value it would have on another residual."""
        block = self.layers[layer]
        if kind == "mlp_in":
            return ("mlp_out", layer), block.mlp((block.ln_2 if self.gpt2 else block.post_attention_layernorm)(residual))
        module, _, columns = self.at(kind, layer, head)
        return (kind, layer, head), module((block.ln_1 if self.gpt2 else block.input_layernorm)(residual))[..., columns]


@dataclass
class Opened:
    """One model under test, and its native twin."""

    family: str
    attention: str
    native: Native

    def hf(self, *, ungrouped: bool = False) -> Any:
        shape = SMALL_GPT2 if self.family == "gpt2" else SMALL | ({"num_key_value_heads": 2} if ungrouped else {})
        hf = self.native(self.family, attn_implementation="eager", **shape)
        hf.config.is_causal = self.attention == "causal"
        return hf

    @property
    def spec(self) -> DiffusionSpec:
        return DiffusionSpec("causal") if self.attention == "causal" else DiffusionSpec("full", 1, mask_token_id=47)

    def open(self, *, ungrouped: bool = False, double: bool = False) -> HookedDiffusionTransformer:
        hf = self.hf(ungrouped=ungrouped)
        return HookedDiffusionTransformer.from_hf(hf.double() if double else hf, spec=self.spec)

    @cached_property
    def model(self) -> HookedDiffusionTransformer:
        return self.open()

    @cached_property
    def folded(self) -> HookedDiffusionTransformer:
        model = self.open()
        model.enable_compatibility_mode()
        return model

    @cached_property
    def hand(self) -> ByHand:
        return ByHand(self.family, self.hf())

    @cached_property
    def exact_hand(self) -> ByHand:
        return ByHand(self.family, self.hf(ungrouped=True).double())

    @cached_property
    def cache(self) -> Any:
        with torch.no_grad():
            return self.model.run_with_cache(CLEAN)[1]

    @cached_property
    def stream(self) -> list[Tensor]:
        """The residual stream, layer by layer, by hand."""
        return [*(self.hand.read(CLEAN, "resid_pre", layer) for layer in (0, 1)), self.hand.read(CLEAN, "final")]


def parts_of(cache: ActivationCache) -> Tensor:
    """The parts that the residual stream is the sum of, `(part, …)`."""
    parts = cache.decompose_resid()
    assert isinstance(parts, Tensor)
    return parts


@pytest.fixture(scope="module", params=[(family, way) for family in FAMILIES for way in ("causal", "full")], ids="-".join)
def case(request: pytest.FixtureRequest, native: Native) -> Opened:
    family, way = request.param
    return Opened(family, way, native)


@covers("logit_lens", "ActivationCache.logit_lens")
@torch.no_grad()
def test_the_logit_lens_reads_the_native_hidden_states(case: Opened):
    expected = torch.stack([case.hand.hf.lm_head(case.hand.norm(hidden)) for hidden in case.stream])
    close(logit_lens(case.model, CLEAN, positions=None).readout.values, expected)
    close(case.cache.logit_lens(positions=None).readout.values, expected)
    close(expected[-1], case.hand(CLEAN))
    close(logit_lens(case.folded, CLEAN, positions=None, return_type="log_probs").readout.values, expected.log_softmax(-1))


@covers("logit_readout")
@torch.no_grad()
def test_a_readout_is_norm_and_head(case: Opened):
    vectors = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    hf, norm = case.hand.hf, case.hand.norm
    expected = hf.lm_head(norm(vectors))
    close(logit_readout(case.model, vectors).values, expected)
    close(logit_readout(case.model, vectors, apply_ln=False).values, hf.lm_head(vectors))
    ranks = logit_readout(case.model, vectors, targets=[ANSWER]).target_ranks
    assert ranks is not None and torch.equal(ranks[..., 0], expected.argsort(-1, descending=True).argsort(-1)[..., ANSWER])


@covers("direct_logit_attribution", "ActivationCache.logit_attrs")
@torch.no_grad()
def test_direct_logit_attribution_is_each_parts_share_of_the_logit_difference(case: Opened):
    """A part of the native stream over the run's own norm, and all parts: the difference, less what the norm's bias adds."""
    norm, final = case.hand.norm, case.stream[-1]
    towards = case.hand.hf.lm_head.weight[ANSWER] - case.hand.hf.lm_head.weight[FOIL]
    centred = final - final.mean(-1, keepdim=True) if case.family == "gpt2" else final
    scale = (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    def share(part: Tensor) -> Tensor:
        part = part - part.mean(-1, keepdim=True) if case.family == "gpt2" else part
        return (part / scale * norm.weight) @ towards

    logits = case.hand(CLEAN)
    total = logits[..., ANSWER] - logits[..., FOIL] - (norm.bias @ towards if case.family == "gpt2" else 0)
    found = {
        unit: direct_logit_attribution(case.folded, CLEAN, ANSWER, FOIL, unit=unit, pos=None) for unit in ("component", "layer", "head")
    }
    for unit in ("component", "head"):
        close(found[unit].attribution.sum(0), total)
    close(found["layer"].attribution[-1], total)
    parts = dict(zip(found["component"].labels, found["component"].attribution, strict=True))
    heads = dict(zip(found["head"].labels, found["head"].attribution, strict=True))
    for layer in (0, 1):
        close(parts[f"{layer}_attn_out"], share(case.hand.read(CLEAN, "attn_out", layer)))
        close(parts[f"{layer}_mlp_out"], share(case.hand.read(CLEAN, "mlp_out", layer)))
        if not case.hand.gpt2 and case.family != "qwen2":  # where values have a bias, folding moves it from the heads
            for head in (0, 1):
                close(heads[f"L{layer}H{head}"], share(case.hand.read(CLEAN, "z", layer, head) @ case.hand.weight("z", layer, head)))


@covers("direct_logit_attribution, raw weights", arm="refused", mdm="refused")
def test_direct_logit_attribution_asks_for_compatibility_mode(case: Opened):
    with pytest.raises(ValueError, match="DLA on a TransformerBridge requires compatibility mode"):
        direct_logit_attribution(case.model, CLEAN, ANSWER, FOIL)


PATCHED = {
    **{f"get_act_patch_{kind}": (kind, ("layer", "pos")) for kind in ("resid_pre", "resid_mid", "attn_out", "mlp_out")},
    **{f"get_act_patch_attn_head_{kind}_by_pos": (kind, ("layer", "pos", "head")) for kind in ("out", "q", "k", "v")},
    **{f"get_act_patch_attn_head_{kind}_all_pos": (kind, ("layer", "head")) for kind in ("out", "q", "k", "v", "pattern")},
    "get_act_patch_attn_head_pattern_by_pos": ("pattern", ("layer", "head", "dest")),
    "get_act_patch_attn_head_pattern_dest_src_pos": ("pattern", ("layer", "head", "dest", "src")),
}
EVERY = {
    "get_act_patch_block_every": [f"get_act_patch_{kind}" for kind in ("resid_pre", "attn_out", "mlp_out")],
    "get_act_patch_attn_head_all_pos_every": [f"get_act_patch_attn_head_{kind}_all_pos" for kind in ("out", "q", "k", "v", "pattern")],
    "get_act_patch_attn_head_by_pos_every": [f"get_act_patch_attn_head_{kind}_by_pos" for kind in ("out", "q", "k", "v", "pattern")],
}


def patched_by_hand(hand: ByHand, kind: str, cell: Mapping[str, int]) -> Tensor:
    """The metric of the corrupt run with one cell of one value from the clean run."""
    layer, head, pos = cell["layer"], cell.get("head"), cell.get("pos", slice(None))
    if kind == "pattern":
        assert head is not None
        clean, pattern = (hand.patterns(tokens)[layer][:, head].clone() for tokens in (CLEAN, CORRUPT))
        place = (slice(None), cell.get("dest", slice(None)), cell.get("src", slice(None)))
        pattern[place] = clean[place]
        z = pattern @ hand.read(CORRUPT, "v", layer, head * hand.n_kv // hand.n_heads)
        return metric(hand(CORRUPT, (("z", layer, head), lambda value: value.copy_(z))))
    site = ("z" if kind == "out" else kind, layer, *(() if head is None else (head,)))
    clean = hand.read(CLEAN, *site)
    return metric(hand(CORRUPT, (site, lambda value: value[:, pos].copy_(clean[:, pos]))))


@covers(*PATCHED, *EVERY, "generic_activation_patch")
@torch.no_grad()
def test_activation_patching_is_the_native_edit(case: Opened, capfd: pytest.CaptureFixture[str]):
    """Every cell; and the one differing position, patched where the stream begins, gives the clean run."""
    found = {name: getattr(patching, name)(case.model, CORRUPT, case.cache, metric) for name in PATCHED}
    for name, (kind, axes) in PATCHED.items():
        cells = itertools.product(*map(range, found[name].shape))
        expected = [patched_by_hand(case.hand, kind, dict(zip(axes, cell, strict=True))) for cell in cells]
        close(found[name].flatten(), torch.stack(expected), msg=lambda text, name=name: f"{name}: {text}")
    close(found["get_act_patch_resid_pre"][0, 0], metric(case.hand(CLEAN)))
    for name, parts in EVERY.items():
        for found_one, part in zip(getattr(patching, name)(case.model, CORRUPT, case.cache, metric), parts, strict=True):
            one = found[part].transpose(1, 2) if part.endswith("pattern_by_pos") else found[part]
            close(found_one[..., : one.shape[-1]], one)


@covers("get_act_patch_direct_path", "get_act_patch_direct_path_all_sources")
@torch.no_grad()
def test_direct_paths_are_the_native_edit(case: Opened):
    """A head of layer 0 moved to its clean output for one query input of layer 1 alone; keys and values too where they have no groups."""
    corrupt = case.model.run_with_cache(CORRUPT)[1]
    components: tuple[Literal["q", "k", "v"], ...] = ("q", "k", "v") if case.hand.n_kv == 2 else ("q",)
    for component in components:
        all_sources = patching.get_act_patch_direct_path_all_sources(case.model, CORRUPT, case.cache, corrupt, metric, component, False)
        for source, reader in itertools.product((0, 1), repeat=2):
            z = [case.hand.read(tokens, "z", 0, source) for tokens in (CLEAN, CORRUPT)]
            moved = case.hand.read(CORRUPT, "resid_pre", 1) + (z[0] - z[1]) @ case.hand.weight("z", 0, source)
            site, value = case.hand.heard(component, 1, reader, moved)
            close(all_sources[0, source, 1, reader], metric(case.hand(CORRUPT, (site, lambda old, new=value: old.copy_(new)))))
        one = patching.get_act_patch_direct_path(case.model, CORRUPT, case.cache, corrupt, metric, 0, 1, component, False)
        close(one, all_sources[0, 1])


@covers("get_act_patch_direct_path, grouped keys and values", "attribution_patch, edges, grouped", arm="refused", mdm="refused")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("way", ["causal", "full"])
def test_grouped_keys_and_values_are_refused(native: Native, family: str, way: str):
    case = Opened(family, way, native)
    with pytest.raises(ValueError, match="GQA/MQA"):
        patching.get_act_patch_direct_path(case.model, CORRUPT, case.cache, case.cache, metric, 0, 1, "k", False)
    with pytest.raises(ValueError, match="n_key_value_heads=1 for n_heads=2.*Node granularity .* is available"):
        attribution_patch(case.model, CLEAN, CORRUPT, metric, EdgeAttributionConfig(granularity="edge"))


def slope(hand: ByHand, edit: Callable[[float], tuple[Site, Callable[[Tensor], Any]]], step: float = 0.02) -> float:
    """d metric / d t at 0 of the corrupt run edited by `edit(t)`, by a difference of fourth order in double precision."""
    near, far = ((metric(hand(CORRUPT, edit(t))) - metric(hand(CORRUPT, edit(-t)))).item() for t in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def tangent(case: Opened, score: float, expected: float, what: object) -> None:
    """Equal but for the difference's error; transformers' RMSNorm rounds to single precision, GPT-2's LayerNorm does not."""
    assert score == pytest.approx(expected, rel=1e-3, abs=1e-7 if case.family == "gpt2" else 5e-5), what


def written(hand: ByHand, node: Node) -> tuple[Site, Tensor, Tensor]:
    """A writer's site, its clean − corrupt value there, and the same in the residual stream."""
    site: Site = {"embed": ("embed",), "attn_head_out": ("z", node.layer, node.head), "mlp_out": ("mlp_out", node.layer)}[node.kind]
    moved = hand.read(CLEAN, *site) - hand.read(CORRUPT, *site)
    return site, moved, moved @ hand.weight(*site) if site[0] == "z" else moved


@covers("attribution_patch, nodes")
@torch.no_grad()
def test_node_scores_are_finite_differences(case: Opened):
    hand = case.exact_hand
    with torch.enable_grad():
        scores = attribution_patch(case.open(ungrouped=True, double=True), CLEAN, CORRUPT, metric).node_scores
    assert len(scores) == 3 * (1 + 2 * 2 + 2)
    for node, score in scores.items():
        site, moved, _ = written(hand, node)
        at = slice(node.position, node.position + 1)
        tangent(case, score, slope(hand, lambda t, s=site, m=moved, at=at: (s, lambda value: value[:, at].add_(t * m[:, at]))), node)


def test_node_scores_need_no_ungrouping(case: Opened):
    scores = attribution_patch(case.model, CLEAN, CORRUPT, metric).node_scores
    whole = sum(score for node, score in scores.items() if node.kind == "embed")
    embedding = case.hand.read(CLEAN, "embed") - case.hand.read(CORRUPT, "embed")
    hand = ByHand(case.family, case.hf().double())
    assert whole == pytest.approx(slope(hand, lambda t: (("embed",), lambda value: value.add_(t * embedding))), rel=1e-3, abs=1e-4)


@covers("attribution_patch, edges, ungrouped")
@torch.no_grad()
def test_edge_scores_are_finite_differences(case: Opened):
    """The writer's difference moves one reader's input, at one position, and nothing else; a writer's edges sum to its node."""
    hand, model = case.exact_hand, case.open(ungrouped=True, double=True)
    with torch.enable_grad():
        result = attribution_patch(model, CLEAN, CORRUPT, metric, EdgeAttributionConfig(granularity="edge"))
        nodes = attribution_patch(model, CLEAN, CORRUPT, metric).node_scores
    residual = {"mlp_in": "resid_mid", "q_input": "resid_pre", "k_input": "resid_pre", "v_input": "resid_pre"}
    for (writer, reader), score in result.edge_scores.items():
        if case.attention == "causal" and reader.position > READ:
            assert score == 0
            continue
        at, moved = slice(reader.position, reader.position + 1), written(hand, writer)[2]
        layer = reader.layer

        def edit(t: float, reader: Node = reader, layer: Any = layer, at: slice = at, moved: Tensor = moved) -> Any:
            if reader.kind == "logits":
                return ("final",), lambda value: value[:, at].add_(t * moved[:, at])
            stream = hand.read(CORRUPT, residual[reader.kind], layer) + t * moved
            site, new = hand.heard(reader.kind.removesuffix("_input"), layer, reader.head, stream)
            return site, lambda value: value[:, at].copy_(new[:, at])

        tangent(case, score, slope(hand, edit), (writer, reader))
    for node, score in nodes.items():
        tangent(case, result.node_scores[node], score, node)


@covers("faithfulness, ungrouped")
def test_a_whole_graph_recovers_all_and_an_empty_one_nothing(case: Opened):
    model = case.open(ungrouped=True)
    pair = CLEAN[:1], CORRUPT[:1]
    edges = list(attribution_patch(model, *pair, metric, EdgeAttributionConfig(granularity="edge")).edge_scores)
    assert faithfulness(model, *pair, metric, edges, FaithfulnessConfig()).recovered == pytest.approx(1, abs=1e-4)
    assert faithfulness(model, *pair, metric, [], FaithfulnessConfig()).recovered == pytest.approx(0, abs=1e-4)


@covers(
    *(
        f"ActivationCache.{name}"
        for name in "accumulated_resid decompose_resid stack_head_results compute_head_results get_full_resid_decomposition".split()
    )
)
@torch.no_grad()
def test_the_cache_decomposes_the_native_stream(case: Opened):
    hand, cache, final = case.hand, case.cache, case.stream[-1]
    close(cache.accumulated_resid(), torch.stack(case.stream))
    middle = [hand.read(CLEAN, "resid_mid", layer) for layer in (0, 1)]
    close(cache.accumulated_resid(incl_mid=True)[1::2], torch.stack(middle))
    parts, labels = cache.decompose_resid(return_labels=True)
    close(parts.sum(0), final)
    for layer in (0, 1):
        close(parts[labels.index(f"{layer}_attn_out")], hand.read(CLEAN, "attn_out", layer))
        close(parts[labels.index(f"{layer}_mlp_out")], hand.read(CLEAN, "mlp_out", layer))
    heads = [hand.read(CLEAN, "z", layer, head) @ hand.weight("z", layer, head) for layer in (0, 1) for head in (0, 1)]
    cache.compute_head_results()
    close(cache["blocks.1.attn.hook_result"], torch.stack(heads[2:], dim=-2))
    close(cache.stack_head_results(), torch.stack(heads))
    close(cache.stack_head_results(incl_remainder=True).sum(0), final)
    for neurons in (True, False):
        close(cache.get_full_resid_decomposition(expand_neurons=neurons).sum(0), final)


@covers(*(f"ActivationCache.{name}" for name in "get_neuron_results stack_neuron_results stack_activation apply_ln_to_stack".split()))
@torch.no_grad()
def test_the_cache_stacks_and_norms_the_native_values(case: Opened):
    hand, cache = case.hand, case.cache
    neurons = [hand.read(CLEAN, "neurons", layer)[..., None] * hand.weight("neurons", layer) for layer in (0, 1)]
    close(cache.get_neuron_results(1), neurons[1])
    close(cache.stack_neuron_results(-1), torch.cat(neurons, dim=-2).movedim(-2, 0))
    close(cache.stack_activation("mlp_out"), torch.stack([hand.read(CLEAN, "mlp_out", layer) for layer in (0, 1)]))
    close(cache.stack_activation("pattern"), torch.stack(hand.patterns(CLEAN)))
    normed = case.folded.run_with_cache(CLEAN)[1]
    shares = normed.apply_ln_to_stack(parts_of(normed)).sum(0)
    final = case.stream[-1] - case.stream[-1].mean(-1, keepdim=True) if hand.gpt2 else case.stream[-1]
    close(shares, final / (final.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt())


@covers(*(f"ActivationCache.{name}" for name in "remove_batch_dim apply_slice_to_batch_dim to toggle_autodiff".split()))
@torch.no_grad()
def test_the_cache_slices_rows(case: Opened):
    final = case.stream[-1]
    _, cache = case.model.run_with_cache(CLEAN)
    close(parts_of(cache.apply_slice_to_batch_dim(1)).sum(0), final[1])
    close(parts_of(case.model.run_with_cache(CLEAN[:1])[1].remove_batch_dim()).sum(0), final[0])
    close(cache.to("cpu").accumulated_resid()[-1], final)
    cache.toggle_autodiff(True)
    assert torch.is_grad_enabled()


@covers("ActivationCache.compute_ssm_state", "ActivationCache.compute_ssm_effective_attention", arm="refused", mdm="refused")
def test_state_space_readings_are_for_other_models(case: Opened):
    for reading in (case.cache.compute_ssm_state, case.cache.compute_ssm_effective_attention):
        with pytest.raises(RuntimeError, match="No SSM mixer layers found"):
            reading()


@covers("enable_compatibility_mode")
@torch.no_grad()
def test_compatibility_mode_keeps_every_prediction(case: Opened):
    """Logits move by one number per position; direction, its switch, and padding masks stay."""
    moved = case.folded(CLEAN) - case.hand(CLEAN)
    close(moved, moved.mean(-1, keepdim=True).expand_as(moved))
    assert torch.equal(case.folded.ln_final.weight, torch.ones(16))
    case.folded.check_attention()
    for direction in ("causal", "full"):
        with case.model.attention(direction), case.folded.attention(direction):
            close(case.folded(CLEAN).log_softmax(-1), case.model(CLEAN).log_softmax(-1))
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]], dtype=torch.bool)
    before, after = (model(CLEAN, attention_mask=mask).log_softmax(-1)[mask] for model in (case.model, case.folded))
    close(after, before)
    if case.attention == "full":
        canvas = torch.tensor([[3, 47, 47, 9]])
        assert torch.equal(case.folded.denoise(canvas, steps=2).tokens, case.model.denoise(canvas, steps=2).tokens)


@covers("generate", mdm="refused")
def test_only_an_arm_writes_from_left_to_right(case: Opened):
    if case.attention == "full":
        with pytest.raises(NotImplementedError, match=r"generate writes from left to right, .* use model.denoise\(text, masks=16\)"):
            case.model.generate(CLEAN[:1], max_new_tokens=2)
        return
    tokens = CLEAN[:1]
    for _ in range(2):
        tokens = torch.cat([tokens, case.hand(tokens)[:, -1:].argmax(-1)], dim=1)
    found = case.model.generate(CLEAN[:1], max_new_tokens=2, temperature=0.0, stop_at_eos=False, verbose=False, return_type="tokens")
    assert isinstance(found, Tensor) and torch.equal(found, tokens)


@pytest.fixture(scope="module")
def letters() -> Any:
    """A tokenizer of letters, which transformers reads the same for every family."""
    words = ["<s>", "</s>", "<mask>", "<unk>", *(chr(97 + i) for i in range(26)), *(chr(65 + i) for i in range(18))]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", mask_token="<mask>", unk_token="<unk>", pad_token="</s>"
    )


TEXT = "thequickbrownfoxjumps"
REFUSES_LOSS = "does not support TransformerBridge's shifted causal loss"
#: TransformerLens' checks, and those that do not pass: where, and how each says so.
CHECKS = (
    "all_components forward_pass_logits generation generation_with_kv_cache multiple_generation_calls logits_equivalence loss_equivalence "
    "hook_registry hook_functionality critical_forward_hooks forward_hooks gated_hooks_fire run_with_cache activation_cache "
    "gradient_computation critical_backward_hooks backward_hooks no_nan_inf weight_magnitudes layer_norm_folding "
    "attention_output_centering mlp_output_centering unembed_centering value_bias_folding weight_modification"
).split()
NEEDS_LOSS = ("hook_functionality", "weight_modification")
CENTRING = ("attention_output_centering", "mlp_output_centering")
FOLDS_BIAS = "value_bias_folding"
SKIPPED = ("generation", "generation_with_kv_cache", "multiple_generation_calls", "loss_equivalence")


def outcome(result: BenchmarkResult) -> str:
    if not result.passed:
        return "fails"
    return "skipped" if result.message.startswith("Skipped") else "passes"


def check_outcomes(case: Opened, results: list[BenchmarkResult]) -> None:
    """Every check is there, and did what is written down. (Where nothing generates, the suite adds that it skips `text_quality`.)"""
    results = [result for result in results if result.name != "text_quality"]
    assert {result.name for result in results} == set(CHECKS)
    for result in results:
        expected = "passes"
        if case.attention == "full" and result.name in NEEDS_LOSS:
            expected = "fails"
            assert REFUSES_LOSS in result.message
        elif case.family != "gpt2" and result.name in CENTRING:
            expected = "fails"
            assert "not well-centered" in result.message
        elif case.attention == "full" and result.name in SKIPPED or case.family != "gpt2" and result.name == FOLDS_BIAS:
            expected = "skipped"
        assert outcome(result) == expected, result


@covers(*(f"benchmark: {name}" for name in CHECKS if name not in (*NEEDS_LOSS, *CENTRING, *SKIPPED, FOLDS_BIAS)))
@covers(*(f"benchmark: {name}" for name in NEEDS_LOSS), mdm="fails")
@covers(*(f"benchmark: {name}" for name in CENTRING), arm="GPT-2 passes, others fail", mdm="GPT-2 passes, others fail")
@covers(*(f"benchmark: {name}" for name in SKIPPED), mdm="skipped")
@covers(f"benchmark: {FOLDS_BIAS}", arm="GPT-2 passes, others skipped", mdm="GPT-2 passes, others skipped")
def test_the_benchmarks_phases_on_the_model_itself(case: Opened, letters: Any, monkeypatch: pytest.MonkeyPatch):
    """Phases 1 to 3 on a `HookedDiffusionTransformer`."""
    monkeypatch.setattr(suite.gc, "collect", lambda: 0)  # after each check: most of the suite's time
    twin = case.hf()
    model = HookedDiffusionTransformer.from_hf(case.hf(), letters, case.spec if case.attention == "causal" else DiffusionSpec("full", 1, 2))
    logits = twin(model.to_tokens(TEXT)).logits.detach()
    loss = None if case.attention == "full" else model(TEXT, return_type="loss").item()
    reference = PhaseReferenceData(hf_logits=logits, hf_loss=loss, test_text=TEXT)
    results = [suite.benchmark_all_components(model, twin), suite.benchmark_forward_pass(model, TEXT, reference_logits=logits)]
    results += [suite.benchmark_generation(model, TEXT, 4), suite.benchmark_generation_with_kv_cache(model, TEXT, 4)]
    results += [suite.benchmark_multiple_generation_calls(model, ["the", "fox"], 4)]
    results += suite.run_comparison_benchmarks(model, TEXT, "2", False, False, reference)
    model.enable_compatibility_mode()
    check_outcomes(case, results + suite.run_comparison_benchmarks(model, TEXT, "3", True, False, reference))


@pytest.mark.slow
def test_the_benchmark_suite_on_a_native_folder(case: Opened, letters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`run_benchmark_suite` opens the folder itself, by `boot_transformers`."""
    monkeypatch.setattr(suite.gc, "collect", lambda: 0)
    spec = case.spec if case.attention == "causal" else DiffusionSpec("full", 1, 2)
    save_checkpoint(case.hf(), tmp_path / "model", spec, letters)
    check_outcomes(case, suite.run_benchmark_suite(str(tmp_path / "model"), test_text=TEXT, phases=[1, 2, 3], verbose=False))


def test_the_documents_rows_are_what_is_tested():
    rows = re.findall(r"^\| ([^|]*`[^|]*) \| ([^|]+) \| ([^|]+) \|(?: [^|]+ \|)?$", DOCUMENT.read_text(), re.M)
    assert {(tool.replace("`", ""), (arm, mdm)) for tool, arm, mdm in rows} == set(COVERED.items())
    assert len(rows) == len(COVERED)


def test_the_documents_snippet_runs():
    snippet = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert snippet
    found: dict[str, Any] = {}
    exec(compile(snippet[1], DOCUMENT.name, "exec"), found)
    assert found["lens"].readout.values.isfinite().all() and found["parts"].attribution.isfinite().all()
