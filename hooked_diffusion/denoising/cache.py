"""Activations along a denoising run: TransformerLens' cache with a step axis.

The cache of step k is what `run_with_cache` gives on the canvas that step k starts from, bit for bit. It is taken from the very forward
that denoises, so nothing runs twice; steps that share a canvas, because the earlier ones commit nothing, share one cache.

Memory is bounded. The run's first forward tells what the filter keeps of one step; times the number of canvases the plan can make, that
must fit `max_bytes`, or the run ends there, before it has kept or committed anything. Streamed to a folder, only one step need fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities.slice import SliceInput

from hooked_diffusion.denoising.cache_folder import CacheFolder, read_folder
from hooked_diffusion.denoising.hooks import HookedForward, StepHook, Watch, check_steps
from hooked_diffusion.denoising.loop import Job
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.step import DenoisingStep
from hooked_diffusion.gradients import from_embeddings

NamesFilter = str | list[str] | Callable[[str], bool] | None
MiB = 2**20
MAX_BYTES = 4 * 2**30


class DenoisingCache:
    """One `ActivationCache` per recorded step.

    - `cache[k]`: the cache of step k; `cache[k, name]`: one activation of it, by hook name or TransformerLens' shorthand
      (`cache[3, "resid_post", 0]`). From a folder, an activation is read from disk when it is asked for, and not kept.
    - `cache.stack(name)`: the activation at all recorded steps, `(steps, batch, pos, …)`.
    - `cache.steps`: which steps were recorded, ascending; iterating gives them too.
    """

    def __init__(self, caches: Mapping[int, ActivationCache]):
        self._caches = dict(sorted(caches.items()))

    @classmethod
    def load(cls, folder: str | Path, model: Any = None, device: str | torch.device = "cpu") -> DenoisingCache:
        """Open what `run_with_denoising_cache(folder=…)` wrote, without reading it; `model` is for the `ActivationCache` methods."""
        return cls(read_folder(folder, model, device))

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


class CachingForward(HookedForward):
    """A forward that keeps the activations of the steps asked for, in memory or in a folder."""

    def __init__(
        self,
        model: DenoisingModel,
        job: Job,
        watch: Watch,
        *,
        at_steps: Sequence[int] | None = None,
        names_filter: NamesFilter = None,
        positions: SliceInput = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        max_bytes: int = MAX_BYTES,
        folder: CacheFolder | None = None,
    ):
        super().__init__(model, job, watch)
        self.observed = check_steps(at_steps, job.plan.steps)
        self.asked: dict[str, Any] = {"names_filter": names_filter, "pos_slice": positions, "device": device}
        self.dtype, self.max_bytes, self.folder = dtype, max_bytes, folder
        planned = job.plan.canvases(job.canvas.masked, self.observed)
        self.canvases = planned if job.steering.force is None else len(self.observed)
        self.caches: dict[int, ActivationCache] = {}
        self.kept_bytes = 0
        self._canvas: Tensor | None = None
        self._kept_at: int | None = None

    def __call__(self, step: DenoisingStep) -> Float[Tensor, "batch pos d_vocab"]:
        """Aligned logits; the forward runs once per canvas, however many steps it lasts."""
        if step.canvas is not self._canvas:
            self._logits, self._canvas, self._kept_at = super().__call__(step), step.canvas, None
        if step.index in self.observed:
            self._keep(step.index)
        return self._logits

    def run(self, step: DenoisingStep) -> Float[Tensor, "batch pos d_vocab"]:
        """The step's own forward; it is cached where the step is observed, and the run's first one to see what caching takes."""
        if self.count and step.index not in self.observed:
            return super().run(step)
        with self.watch.on(self.model, step):
            logits, cache = self._run_with_cache(step)
        self._cache = ActivationCache({name: self._compact(a) for name, a in cache.items() if a is not None}, self.model)
        size = _bytes(self._cache)
        self._check(size, self.canvases if self.count == 0 and self.folder is None else 1)
        self.kept_bytes += 0 if self.folder or step.index not in self.observed else size
        return logits

    def _run_with_cache(self, step: DenoisingStep) -> tuple[Float[Tensor, "batch pos d_vocab"], ActivationCache | dict[str, Tensor]]:
        """Aligned logits and activations; with a metric also its gradients, as "<name>_grad"."""
        if self.watch.metric is None:
            logits, cache = self.model.run_with_cache(step.canvas, **self.asked, **self.padding)
            return self.model.align_logits(logits), cache
        aligned: list[Tensor] = []

        def value(logits: Tensor) -> Tensor:
            aligned.append(self.model.align_logits(logits))
            return self.watch.value(aligned[0], step)

        with from_embeddings(self.model):
            _, cache = self.model.run_with_cache(step.canvas, incl_bwd=True, reduce=value, **self.asked, **self.padding)
        return aligned[0].detach(), cache

    def _compact(self, activation: Tensor) -> Tensor:
        """In the dtype asked for; a slice lets go of the tensor it was cut from."""
        if self.dtype is not None and activation.is_floating_point():
            activation = activation.to(self.dtype)
        whole = activation.untyped_storage().nbytes() == activation.numel() * activation.element_size()
        return activation if whole else activation.clone()

    def _check(self, size: int, canvases: int) -> None:
        needed = self.kept_bytes + size * canvases
        if needed > self.max_bytes:
            remedy = "name fewer hooks or positions" if self.folder else "name fewer hooks, positions or at_steps, or stream to a folder"
            raise ValueError(
                f"names_filter keeps {size / MiB:.1f} MiB per step, {needed / MiB:.1f} MiB with the {canvases} steps to come, more than "
                f"max_bytes = {self.max_bytes / MiB:.1f} MiB; {remedy}, or raise max_bytes"
            )

    def _keep(self, index: int) -> None:
        """Keep the activations of the canvas just run under this step too."""
        if self.folder and self._kept_at is None:
            self.folder.keep(index, self._cache.cache_dict)
        elif self.folder and self._kept_at is not None:
            self.folder.again(index, self._kept_at)
        else:
            self.caches[index] = self._cache
        self._kept_at = index if self._kept_at is None else self._kept_at


def _bytes(cache: ActivationCache) -> int:
    """Memory that a cache holds on to: hooks that pass the same tensor on share it."""
    return sum({s.data_ptr(): s.nbytes() for s in (a.untyped_storage() for a in cache.cache_dict.values())}.values())


def patch_from(cache: DenoisingCache, positions: Sequence[int] | slice = slice(None)) -> StepHook:
    """A hook that puts in what another run had at the same step: its activation, at `positions` of dimension 1.

    The other run must have been recorded at every step this hook fires at (KeyError otherwise), on as many tokens.
    """

    def patch(activation: Tensor, hook: Any, step: DenoisingStep) -> Tensor:
        other = cache[step.index, hook.name].to(activation)
        if other.shape != activation.shape:
            raise ValueError(f"patch_from: {hook.name} is {tuple(activation.shape)} here, {tuple(other.shape)} in the other run")
        patched = activation.clone()
        patched[:, positions] = other[:, positions]
        return patched

    return patch
