"""Models of several kinds, and attribution by its definition, one row and one reader at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import GPT2Config, GPT2LMHeadModel

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import ABSENT, Readouts, logit_shift

EMBED = "blocks.0.hook_resid_pre"


@pytest.fixture(scope="session")
def bridged(native) -> Callable[..., Any]:
    """`bridged("arm" | "mdm" | "gpt2" | "plain llama" | "plain qwen2")`: a fresh tiny random model, the same at every call.

    "arm" is a causal Qwen2, "mdm" a full-attention Llama whose logits are not shifted; both share K and V between two heads. "gpt2" has
    LayerNorm, biases and learned positions. The last three are plain bridges.
    """

    def make(kind: str) -> Any:
        if kind == "arm":
            return HookedDiffusionTransformer.from_hf(native("qwen2"))
        if kind == "mdm":
            return HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2))
        hf_model = gpt2() if kind == "gpt2" else native(kind.removeprefix("plain "))
        name = type(hf_model).__name__
        return build_bridge_from_module(hf_model, name, hf_config=hf_model.config, tokenizer=None, model_name=kind)

    return make


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=48, n_positions=32, initializer_range=0.3, use_cache=False)
    model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        if "ln_" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=float(".ln_" in name), std=0.3)
    return model


#: What each hook at which writers stand holds for one row: the embedding, each layer's z `(pos, head, d_head)` and each MLP's output.
Written = dict[str, Tensor]
#: `(logits (1, k, d_vocab), answers, foils, clean logits) → (1,)`.
Objective = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Definition:
    """Attribution by its definition in float64: every row is run alone and without its padding, and differentiated by autograd.

    The gradient at a reader's residual input, which no hook holds, is taken through the model's own norm and projection.
    """

    model: Any
    objective: Objective
    points: Sequence[tuple[float, float]]
    activations: bool = False
    replace: Callable[[str, Tensor], Tensor] | None = None

    @property
    def graph(self) -> Graph:
        return Graph.of(self.model)

    @property
    def stands(self) -> list[str]:
        """Hooks at which writers stand, in the order of the graph."""
        return [EMBED, *(f"blocks.{i}.{name}" for i in range(self.model.cfg.n_layers) for name in ("attn.hook_z", "hook_mlp_out"))]

    def scores(self, rows: Readouts) -> Tensor:
        """`(rows, pos, n_writers, n_readers)`: what each edge carries at each position, times the positions read."""
        return torch.stack([self._row(rows, i) for i in range(len(rows))])

    def matrix(self, rows: Readouts) -> Tensor:
        """Scores summed over rows and positions, per read position."""
        return self.scores(rows).sum((0, 1)) / int(rows.n_read.sum())

    def run(self, tokens: Tensor, into: Written, put: Written | None = None) -> Tensor:
        """Logits `(1, pos, d_vocab)` of one row; what passes the hooks named in `into` is kept there, and `put` is put in its place."""
        put = put or {}

        def hook_for(name: str) -> Callable[[Tensor, Any], Tensor]:
            def hook_fn(tensor: Tensor, hook: Any) -> Tensor:
                # A view: an identity in a norm's place hands on the residual stream's own tensor, and its gradient is another.
                into[name] = put[name].reshape(tensor.shape) if name in put else tensor.view_as(tensor)
                return into[name]

            return hook_fn

        with self.model.hooks(fwd_hooks=[(name, hook_for(name)) for name in {*into, *put}]):
            return self.model(tokens[None])

    def metric(self, logits: Tensor, rows: Readouts, i: int, clean: Tensor) -> Tensor:
        """The metric of row `i`; logits are those of its visible tokens."""
        k, shown = int(rows.n_read[i]), visible(rows, i, "clean")
        at = [int((shown == p - logit_shift(self.model)).nonzero()) for p in rows.target_pos[i, :k]]
        return self.objective(logits[:, at], rows.answer_ids[i : i + 1, :k], rows.foil_ids[i : i + 1, :k], clean[:, at])[0]

    @torch.no_grad()
    def written(self, rows: Readouts, i: int, side: str) -> tuple[Written, Tensor]:
        """What stands at the writers' hooks on the canvas `(pos, …)`, zero at hidden tokens, and the logits of the visible ones."""
        shown, found = visible(rows, i, side), dict.fromkeys(self.stands, torch.empty(0))
        logits = self.run(getattr(rows, side)[i, shown], found)
        canvas = {}
        for name, value in found.items():
            value = value[0].reshape(len(shown), self.model.cfg.n_heads, -1) if name.endswith("hook_z") else value[0]
            canvas[name] = value.new_zeros(rows.clean.shape[1], *value.shape[1:])
            canvas[name][shown] = value
        return canvas, logits

    def ends(self, rows: Readouts, i: int) -> tuple[Written, Written, Tensor]:
        """What the writers of row `i` put out, what it is held against, and the clean logits."""
        clean, logits = self.written(rows, i, "clean")
        if self.replace is None:
            return clean, self.written(rows, i, "corrupt")[0], logits
        return clean, {name: self.replace(name, value) for name, value in clean.items()}, logits

    def _row(self, rows: Readouts, i: int) -> Tensor:
        clean, other, logits = self.ends(rows, i)
        deltas = self.expanded({name: clean[name] - other[name] for name in clean})
        shown, k = visible(rows, i, "clean"), int(rows.n_read[i])
        total = torch.zeros(rows.clean.shape[1], len(self.graph.writers), len(self.graph.readers), dtype=torch.float64)
        for source, moved in self._sources():
            for alpha, weight in self.points:
                put = (other[source] + alpha * (clean[source] - other[source]))[shown]
                slopes = self._slopes(rows, i, source, put, logits)
                met = torch.einsum("upd,vpd->puv", deltas[:, shown], slopes)
                total[shown] += k * weight * met * moved[:, None] * self.graph.possible
        return total

    def _sources(self) -> list[tuple[str, Tensor]]:
        """Hooks along which a path runs, and which writers it moves."""
        everything = torch.ones(len(self.graph.writers))
        if not self.activations:
            return [(EMBED, everything)]
        sizes = [1, *([self.graph.n_heads, 1] * self.graph.n_layers)]
        which = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        return [(name, (which == n).double()) for n, name in enumerate(self.stands)]

    def expanded(self, written: Written) -> Tensor:
        """`(n_writers, pos, d)`: heads through their own slice of W_O."""
        outputs = []
        for name, value in written.items():
            if name.endswith("hook_z"):
                outputs += torch.einsum("phe,hed->hpd", value, self.model.blocks[int(name.split(".")[1])].attn.W_O.detach())
            else:
                outputs.append(value)
        return torch.stack(outputs)

    def _slopes(self, rows: Readouts, i: int, source: str, put: Tensor, clean: Tensor) -> Tensor:
        """`(n_readers, pos, d)`: the metric's gradient at every reader's residual input, with `put` at the hook `source`."""
        layers = range(self.model.cfg.n_layers)
        asked = [f"blocks.{n}.{name}" for n in layers for name in ("attn.hook_q", "attn.hook_k", "attn.hook_v", "mlp.hook_in")]
        asked.append("unembed.hook_in")
        streams = [f"blocks.{n}.{name}" for n in layers for name in ("hook_resid_pre", "hook_resid_mid")]
        found: Written = dict.fromkeys([*asked, *streams, f"blocks.{layers[-1]}.hook_resid_post"], torch.empty(0))
        logits = self.run(rows.clean[i, visible(rows, i, "clean")], found, {source: put})
        objective, live = self.metric(logits, rows, i, clean), [found[name] for name in asked]
        each = torch.autograd.grad(objective, live, allow_unused=True)  # what comes before the source has none
        gradients = {n: torch.zeros_like(x) if g is None else g for n, x, g in zip(asked, live, each, strict=True)}
        slopes = []
        for n in layers:
            block, at = self.model.blocks[n], f"blocks.{n}"
            for kind in "qkv":
                project = lambda x, block=block, kind=kind: getattr(block.attn, kind)(block.ln1(x))  # noqa: E731
                slopes += _through(project, found[f"{at}.hook_resid_pre"], gradients[f"{at}.attn.hook_{kind}"])
            slopes += _through(block.ln2, found[f"{at}.hook_resid_mid"], gradients[f"{at}.mlp.hook_in"][:, :, None])
        last = found[f"blocks.{layers[-1]}.hook_resid_post"]
        return torch.stack([*slopes, *_through(self.model.ln_final, last, gradients["unembed.hook_in"][:, :, None])])


def _through(function: Callable[[Tensor], Tensor], residual: Tensor, gradient: Tensor) -> list[Tensor]:
    """The gradient `(1, pos, reader, width)` at a function's output as gradients `(pos, d)` at its input, one per reader."""
    x = residual.detach().requires_grad_(True)
    out = function(x).reshape(gradient.shape)
    return [torch.autograd.grad(out[:, :, n], x, gradient[:, :, n], retain_graph=True)[0][0] for n in range(gradient.shape[2])]


def visible(rows: Readouts, i: int, side: str) -> Tensor:
    """Positions of the visible tokens of row `i`."""
    mask = getattr(rows, f"{side}_mask")
    return (rows.clean[i] != ABSENT if mask is None else mask[i]).nonzero()[:, 0]


def answer_minus_foil(logits: Tensor, answers: Tensor, foils: Tensor, clean: Tensor) -> Tensor:
    """The logit difference, written out."""
    each = [logits[:, j, answers[0, j]] - logits[:, j, foils[0, j]] for j in range(answers.shape[1])]
    return torch.stack(each).mean(0)


@pytest.fixture(scope="session")
def definition(bridged) -> Callable[..., Definition]:
    """`definition(kind or model, points, objective=…, activations=…, replace=…)`: attribution by its definition on that model."""

    def make(model: Any, points: Sequence[tuple[float, float]], objective: Objective = answer_minus_foil, **settings: Any) -> Definition:
        model = bridged(model) if isinstance(model, str) else model
        return Definition(model.double(), objective, points, **settings)

    return make
