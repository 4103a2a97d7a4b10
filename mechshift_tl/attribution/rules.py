"""Backward rules: the forward stays as it is, and the gradient goes back through a simpler model. Any of them may be combined.

| Rule | Forward | Backward | Source |
|---|---|---|---|
| "norms" | w∘x/s | w∘g/s, with LayerNorm's mean taken out: the scale s is a constant | RelP's LN rule, GIM |
| "activations" | act(x) | g∘act(x)/(x ± 10⁻⁶), for x·(act(x)/x) with a constant ratio | RelP's identity rule |
| "products" | act(gate)∘up | both factors get half of their gradient | RelP's half rule; GIM's factor ½ at gate and up |
| "patterns" | softmax(S) | none: the pattern is a constant | AttnLRP; optional in RelP |
| "softmax" | softmax(S) | s∘(g − ⟨g, s⟩) with s = softmax(S/2) | GIM's temperature of 2, without its factor ½ |
| "qkv" | q, k, v | g/4, g/4, g/2 | GIM's normalisation of gradients |

RelP: Jafari et al. 2508.21258, after AttnLRP (Achtibat et al. 2402.05602). GIM: Edin et al. 2505.17630. The norms are all norms that the
bridge knows, those of queries and keys too. Values pass unchanged, to the last bit.

A rule changes the gradient of one function f. It takes f's input *behind* the hooks that keep a tensor to be differentiated, and replaces
f's output *in front* of them. So a kept q has the gradient that leaves the rule, and a kept neuron one that the rule has not halved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from hooked_diffusion.gradients import HookFunction
from mechshift_tl.bridge.hooks import Hooks, Kept
from mechshift_tl.bridge.narrow import TOKENWISE
from mechshift_tl.bridge.norms import centers, is_identity, norm_weight
from mechshift_tl.bridge.protocol import HookedModel, Norm, has_mlps

BackwardRule = Literal["norms", "activations", "products", "patterns", "softmax", "qkv"]
#: The published sets of rules.
RULE_SETS: dict[str, tuple[BackwardRule, ...]] = {
    "relp": ("norms", "activations", "products"),
    "gim": ("norms", "products", "softmax", "qkv"),
}
TEMPERATURE = 2.0
#: Keeps RelP's ratio finite at x = 0; on the side of x's sign, as in its own code.
STABILISER = 1e-6
SHARES = {"q": 0.25, "k": 0.25, "v": 0.5}


@dataclass(frozen=True)
class RuleHooks:
    """Hooks of some rules: those that replace outputs stand in `front` of hooks that keep tensors, those that take inputs `behind`."""

    front: Hooks = field(default_factory=list)
    behind: Hooks = field(default_factory=list)


def check_rules(names: Sequence[str]) -> tuple[BackwardRule, ...]:
    """The rules of these names, in one order. Raises ValueError on an unknown name, one given twice, and two rules for one softmax."""
    known = get_args(BackwardRule)
    for name in names:
        if name not in known:
            raise ValueError(f"attribute: backward names {name!r}; choose among {', '.join(known)}, or one of {', '.join(RULE_SETS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"attribute: backward is {', '.join(names)}; name each rule once")
    if {"softmax", "patterns"} <= set(names):
        raise ValueError("attribute: backward rules 'softmax' and 'patterns' both replace the softmax's gradient; choose one")
    return tuple(cast(BackwardRule, name) for name in known if name in names)


def rule_hooks(model: HookedModel, rules: Iterable[BackwardRule], dropped: int | None = None) -> RuleHooks:
    """The hooks of `rules` on `model`; with `dropped`, nothing goes back through that layer's attention and MLP (GradDrop).

    Raises ValueError, naming the hook, where a rule has no place on the model.
    """
    found = RuleHooks()
    for rule in rules:
        _PLACES[rule](model, found)
    if dropped is not None:
        outputs = ["hook_attn_out", *(["hook_mlp_out"] if has_mlps(model) else [])]
        found.behind.extend((f"blocks.{dropped}.{name}", _detached) for name in outputs)
    return found


class _PlusGradient(torch.autograd.Function):
    """The value of the first tensor, with the gradients of both."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, other: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], gradients[0]


class _Scaled(torch.autograd.Function):
    """A tensor as it is, with `factor` times its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class _Warmed(torch.autograd.Function):
    """A pattern P = softmax(S) whose gradient at S is to be s∘(g − ⟨g, s⟩), with s = softmax(S/T), which is P^(1/T) made to sum to 1.

    The softmax itself makes P∘(g' − ⟨g', P⟩) of what it gets. With g' = s∘(g − ⟨g, s⟩)/P the second term is 0, and the first is wanted.
    So S need not be known, which not every model shows.
    """

    @staticmethod
    def forward(ctx: Any, pattern: Tensor) -> Tensor:
        ctx.save_for_backward(pattern)
        return pattern.view_as(pattern)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (pattern,), g = ctx.saved_tensors, gradients[0].float()
        seen = pattern.float()
        share = seen.pow(1 / TEMPERATURE)
        share = share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
        wanted = share * (g - (g * share).sum(-1, keepdim=True))
        # What is hidden has P = 0 and hands nothing on.
        return torch.where(seen > 0, wanted / seen, 0).to(gradients[0])


def _with_gradient_of(value: Tensor, other: Tensor) -> Tensor:
    """The value of one tensor and the gradient of another."""
    return _PlusGradient.apply(value.detach(), other)  # pyright: ignore[reportReturnType]


def _scaled(factor: float) -> HookFunction:
    return lambda tensor, hook: _Scaled.apply(tensor, factor)  # pyright: ignore[reportReturnType]


def _detached(tensor: Tensor, hook: object) -> Tensor:
    return tensor.detach()


def _keeping(name: str, kept: Kept) -> HookFunction:
    def hook_fn(tensor: Tensor, hook: object) -> None:
        kept[name] = tensor

    return hook_fn


def _norms(model: HookedModel, found: RuleHooks) -> None:
    for name in [name.removesuffix(".hook_scale") for name in model.hook_dict if name.endswith(".hook_scale")]:
        norm = cast(Any, model).get_submodule(name)
        if not is_identity(norm):
            _one_norm(norm, name, found)


def _one_norm(norm: Norm, name: str, found: RuleHooks) -> None:
    kept: Kept = {}

    def frozen(out: Tensor, hook: object) -> Tensor:
        x, scale = kept.pop("x").float(), kept.pop("scale").detach().float()
        x = x - x.mean(-1, keepdim=True) if centers(norm) else x
        return _with_gradient_of(out, (x / scale * norm_weight(norm, out.device)).to(out))

    found.behind.extend((f"{name}.{hook}", _keeping(key, kept)) for hook, key in (("hook_in", "x"), ("hook_scale", "scale")))
    found.front.append((f"{name}.hook_out", frozen))


def _activations(model: HookedModel, found: RuleHooks) -> None:
    for i in range(model.cfg.n_layers if has_mlps(model) else 0):
        _one_activation(f"blocks.{i}.mlp", model, found)


def _one_activation(mlp: str, model: HookedModel, found: RuleHooks) -> None:
    kept: Kept = {}

    def stopped(x: Tensor, hook: object) -> Tensor:
        kept["x"] = x
        return x.detach()

    def linear(out: Tensor, hook: object) -> Tensor:
        # act(x)∘up / x is the constant, so the activation itself need not be known; up's own gradient is there already.
        x = kept.pop("x")
        ratio = out.detach() / (x.detach() + torch.where(x < 0, -STABILISER, STABILISER))
        return _PlusGradient.apply(out, x * ratio)  # pyright: ignore[reportReturnType]

    TOKENWISE.update((stopped, linear))
    found.behind.append((_place(model, f"{mlp}.hook_pre", "activations"), stopped))
    found.front.append((_place(model, f"{mlp}.hook_post", "activations"), linear))


def _products(model: HookedModel, found: RuleHooks) -> None:
    half = _scaled(0.5)
    TOKENWISE.add(half)
    # An MLP without a gate has no product.
    gated = [f"blocks.{i}.mlp" for i in range(model.cfg.n_layers) if f"blocks.{i}.mlp.hook_pre_linear" in model.hook_dict]
    found.front.extend((_place(model, f"{mlp}.hook_post", "products"), half) for mlp in gated)


def _patterns(model: HookedModel, found: RuleHooks) -> None:
    # Behind: where the pattern itself is kept, it must still be a part of the graph.
    found.behind.extend((_place(model, f"blocks.{i}.attn.hook_pattern", "patterns"), _detached) for i in range(model.cfg.n_layers))


def _softmax(model: HookedModel, found: RuleHooks) -> None:
    def warm(pattern: Tensor, hook: object) -> Tensor:
        return _Warmed.apply(pattern)  # pyright: ignore[reportReturnType]

    found.front.extend((_place(model, f"blocks.{i}.attn.hook_pattern", "softmax"), warm) for i in range(model.cfg.n_layers))


def _qkv(model: HookedModel, found: RuleHooks) -> None:
    for i in range(model.cfg.n_layers):
        found.behind.extend((_place(model, f"blocks.{i}.attn.hook_{kind}", "qkv"), _scaled(share)) for kind, share in SHARES.items())


def _place(model: HookedModel, name: str, rule: str) -> str:
    """The hook's name. Raises ValueError where the model has none."""
    if name not in model.hook_dict:
        raise ValueError(f"{model.cfg.model_name}: backward rule {rule!r} needs hook {name}, which this model lacks; leave the rule out")
    return name


_PLACES: dict[str, Callable[[HookedModel, RuleHooks], None]] = {
    "norms": _norms, "activations": _activations, "products": _products, "patterns": _patterns, "softmax": _softmax, "qkv": _qkv,
}  # fmt: skip
