"""Hooks that know the step: TransformerLens' hooks, called as `hook_fn(tensor, hook, step)`, or, as there, `hook_fn(tensor, hook)`.

1. While a step's forward runs, its hooks are on the model; `step` says where the run stands (`DenoisingStep`).
2. With a `metric` of the step's aligned logits, the forward runs under autograd. The metric's gradient goes back through the model to the
   first residual stream: backward hooks see d metric / d activation. Parameters take no gradient.
3. The tokens are chosen from the logits of that forward, so what a hook changes can change what is committed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from hooked_diffusion.denoising.job import Job
from hooked_diffusion.denoising.loop import Forward
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.steering import DenoisingStep
from hooked_diffusion.gradients import from_embeddings

#: Gets an activation, its hook point and, if it takes three, the step; returns an activation that replaces it, or None.
StepHook = Callable[[Tensor, HookPoint, DenoisingStep], Tensor | None] | Callable[[Tensor, HookPoint], Tensor | None]
_TwoArguments = Callable[[Tensor, HookPoint], Tensor | None]
_ThreeArguments = Callable[[Tensor, HookPoint, DenoisingStep], Tensor | None]
StepHooks = Sequence[tuple[str | Callable[[str], bool], StepHook]]
Metric = Callable[[Float[Tensor, "batch pos d_vocab"], DenoisingStep], Float[Tensor, ""]]


@dataclass(frozen=True)
class Watch:
    """The step hooks on a model while it denoises, and the metric whose gradient the backward hooks see.

    Raises ValueError on backward hooks without a metric: there is no gradient then; TypeError on hooks that are no pairs of a name and a
    function of two or three arguments.
    """

    fwd_hooks: StepHooks = ()
    bwd_hooks: StepHooks = ()
    metric: Metric | None = None

    def __post_init__(self) -> None:
        for hooks in (self.fwd_hooks, self.bwd_hooks):
            for pair in hooks:
                if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[1])):
                    raise TypeError(f"a denoising hook is a pair (name, function), got {pair!r:.60}")
                _taking_step(pair[1])
        if self.bwd_hooks and self.metric is None:
            raise ValueError(
                "bwd_hooks see the gradient of a metric: pass metric, a function of (aligned logits, step) that gives a scalar"
            )

    @contextmanager
    def on(self, model: DenoisingModel, step: DenoisingStep) -> Iterator[None]:
        """Hooks in place for the forward of `step`; removed again on leaving."""
        # `partial` keeps this `fn`. A lambda would look `fn` up when it is called, and find the last hook of the loop.
        bound = [[(name, partial(_call, _taking_step(fn), step)) for name, fn in hooks] for hooks in (self.fwd_hooks, self.bwd_hooks)]
        with model.hooks(fwd_hooks=bound[0], bwd_hooks=bound[1]):
            yield

    def value(self, logits: Float[Tensor, "batch pos d_vocab"], step: DenoisingStep) -> Float[Tensor, ""]:
        """The metric of a step's aligned logits. Raises ValueError when it is no scalar, or does not depend on the logits."""
        assert self.metric is not None
        value = self.metric(logits, step)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise ValueError(
                f"metric at step {step.index} must be a scalar that depends on the logits, got "
                f"{tuple(value.shape) if isinstance(value, Tensor) else value!r}; did a hook replace every activation?"
            )
        return value.squeeze()


def _taking_step(fn: StepHook) -> _ThreeArguments:
    """The hook as a function of three arguments; one of two is not told the step. Raises TypeError on any other."""
    try:
        signature = inspect.signature(fn)
    except ValueError:
        return cast(_ThreeArguments, fn)  # of a built-in function nobody knows the arguments
    for n in (3, 2):
        try:
            signature.bind(*range(n))
        except TypeError:
            continue
        return cast(_ThreeArguments, fn) if n == 3 else partial(_without_step, cast(_TwoArguments, fn))
    raise TypeError(f"a denoising hook takes (tensor, hook) or (tensor, hook, step), got one of {signature}")


def _without_step(fn: _TwoArguments, tensor: Tensor, hook: HookPoint, step: DenoisingStep) -> Tensor | None:
    return fn(tensor, hook)


def _call(hook_fn: _ThreeArguments, step: DenoisingStep, tensor: Tensor, hook: HookPoint) -> Tensor | None:
    return hook_fn(tensor, hook, step)


def check_steps(at_steps: Collection[int] | None, steps: int) -> frozenset[int]:
    """The steps asked for; None means all. Raises ValueError when one lies outside the run, or none is named."""
    chosen = frozenset(range(steps) if at_steps is None else at_steps)
    outside = sorted(step for step in chosen if not 0 <= step < steps)
    if outside or not chosen:
        raise ValueError(f"at_steps lies in 0 … {steps - 1} and is not empty; got {outside or list(chosen)}")
    return chosen


class HookedForward(Forward):
    """A forward under the watch's hooks, at `at_steps`. None: at all that commit. A step that is named runs even when idle."""

    def __init__(self, model: DenoisingModel, job: Job, watch: Watch, at_steps: Collection[int] | None = None):
        super().__init__(model, job)
        self.watch, self.at_steps = watch, check_steps(at_steps, job.plan.steps)
        # None asks for the steps that commit, and those run anyway. An idle step runs only if the caller named it.
        self.observed = frozenset() if at_steps is None else self.at_steps

    def run(self, step: DenoisingStep) -> Float[Tensor, "batch pos d_vocab"]:
        """The step's own forward, and the gradient of its metric."""
        if step.index not in self.at_steps:
            return super().run(step)
        with self.watch.on(self.model, step):
            if self.watch.metric is None:
                return super().run(step)
            with from_embeddings(self.model) as leaves:
                logits = super().run(step)
                # `grad` stops at the embeddings and returns its result; `backward` would also add to a `.grad` that nobody clears.
                torch.autograd.grad(self.watch.value(logits, step), leaves)
            # Detached, the logits no longer hold on to the graph, so its activations are freed before the next step.
            return logits.detach()
