"""Activations along a denoising run: TransformerLens' cache with a step axis.

The cache of step k is what `run_with_cache` gives on the canvas that step k starts from, bit for bit. It is taken from the very forward
that denoises, so nothing runs twice; steps that share a canvas, because the earlier ones commit nothing, share one cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities.slice import SliceInput

from hooked_diffusion.denoising.loop import Forward, Job
from hooked_diffusion.denoising.step import DenoisingStep

if TYPE_CHECKING:
    from hooked_diffusion.model import HookedDiffusionTransformer

NamesFilter = str | list[str] | Callable[[str], bool] | None


class DenoisingCache:
    """One `ActivationCache` per recorded step.

    - `cache[k]`: the cache of step k; `cache[k, name]`: one activation of it, by hook name or TransformerLens' shorthand
      (`cache[3, "resid_post", 0]`).
    - `cache.stack(name)`: the activation at all recorded steps, `(steps, batch, pos, …)`.
    - `cache.steps`: which steps were recorded, ascending; iterating gives them too.
    """

    def __init__(self, caches: Mapping[int, ActivationCache]):
        self._caches = dict(sorted(caches.items()))

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps, ascending."""
        return tuple(self._caches)

    def __getitem__(self, key: Any) -> Any:
        step, *name = key if isinstance(key, tuple) else (key,)
        if step not in self._caches:
            raise KeyError(f"step {step} was not recorded; recorded are {', '.join(map(str, self.steps))}")
        cache = self._caches[step]
        return cache if not name else cache[name[0] if len(name) == 1 else tuple(name)]

    def stack(self, *name: str | int) -> Float[Tensor, "steps batch ..."]:
        """One activation at every recorded step, in the order of `steps`."""
        return torch.stack([self[(step, *name)] for step in self.steps])

    def __iter__(self) -> Iterator[int]:
        return iter(self._caches)

    def __len__(self) -> int:
        return len(self._caches)

    def __repr__(self) -> str:
        return f"DenoisingCache of steps {', '.join(map(str, self.steps))}"


class CachingForward(Forward):
    """A forward that keeps the activations of the steps asked for; `caches` holds them, by step."""

    def __init__(
        self,
        model: HookedDiffusionTransformer,
        job: Job,
        at_steps: Sequence[int] | None,
        names_filter: NamesFilter,
        positions: SliceInput,
    ):
        super().__init__(model, job)
        steps = job.plan.steps
        self.observed = frozenset(range(steps) if at_steps is None else at_steps)
        outside = sorted(step for step in self.observed if not 0 <= step < steps)
        if outside or not self.observed:
            raise ValueError(f"at_steps lies in 0 … {steps - 1} and is not empty; got {outside or list(self.observed)}")
        self.names_filter, self.positions = names_filter, positions
        self.caches: dict[int, ActivationCache] = {}
        self._canvas: Tensor | None = None

    def __call__(self, step: DenoisingStep) -> Float[Tensor, "batch pos d_vocab"]:
        """Aligned logits; the forward runs once per canvas, however many steps it lasts."""
        if step.canvas is not self._canvas:
            if step.index not in self.observed:
                return super().__call__(step)
            self._canvas, self._logits = step.canvas, super().__call__(step)
        if step.index in self.observed:
            self.caches[step.index] = self._cache
        return self._logits

    def run(self, step: DenoisingStep) -> Float[Tensor, "batch pos d_vocab"]:
        """The step's own forward, cached where it is observed."""
        if step.index not in self.observed:
            return super().run(step)
        logits, self._cache = self.model.run_with_cache(
            step.canvas, names_filter=self.names_filter, pos_slice=self.positions, **self.padding
        )
        return self.model.align_logits(logits)
