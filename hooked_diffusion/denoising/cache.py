"""Activations along a denoising run: TransformerLens' cache with a step axis.

The cache of step k is what `run_with_cache` gives on the canvas that step k starts from, bit for bit. It is taken from the forward that
denoises, so nothing runs twice. Steps that share a canvas, because the earlier ones commit nothing, share one cache.

Memory is bounded. The run's first forward shows how much the filter keeps of one step. That much, times the number of canvases that the
plan can make, must fit `max_bytes`; otherwise the run ends there, before it has kept or committed anything. Where the cache is written to a
folder, only one step must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.slice import SliceInput

from hooked_diffusion.denoising.cache_figure import draw_changes
from hooked_diffusion.denoising.cache_folder import CacheFolder, read_folder
from hooked_diffusion.denoising.hooks import HookedForward, StepHook, Watch, check_steps
from hooked_diffusion.denoising.job import Job
from hooked_diffusion.denoising.lens import DenoisingLens, read_lens
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.record import DenoisingRecord
from hooked_diffusion.denoising.steering import DenoisingStep
from hooked_diffusion.gradients import from_embeddings
from hooked_diffusion.html import card

NamesFilter = str | list[str] | Callable[[str], bool] | None
#: A step, and the name of an activation: a hook name or TransformerLens' shorthand.
StepAndName = tuple[int | str, ...]
MiB = 2**20
MAX_BYTES = 4 * 2**30


class DenoisingCache:
    """One `ActivationCache` per recorded step.

    - `cache[k]`: the cache of step k.
    - `cache[k, name]`: one activation of step k, by hook name or by TransformerLens' shorthand (`cache[3, "resid_post", 0]`). A cache in a
      folder reads the activation from disk each time.
    - `cache.stack(name)`: the activation at all recorded steps, `(steps, batch, pos, …)`.
    - `cache.logit_lens(trajectory)`: what the residual stream says after every layer, step by step.
    - `cache.steps`: the recorded steps, ascending. Iterating over the cache gives them too.

    Raises KeyError on a step that was not recorded.
    """

    def __init__(self, caches: Mapping[int, ActivationCache]):
        self._caches = dict(sorted(caches.items()))

    @classmethod
    def load(cls, folder: str | Path, model: DenoisingModel | None = None, device: str | torch.device = "cpu") -> DenoisingCache:
        """Open the folder that `run_with_denoising_cache(folder=…)` wrote; activations are read when they are asked for.

        Some methods of `ActivationCache` need the `model`. Raises ValueError, naming the file, when the folder holds something else.
        """
        return cls(read_folder(folder, model, device))

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps, ascending."""
        return tuple(self._caches)

    @overload
    def __getitem__(self, key: int) -> ActivationCache: ...
    @overload
    def __getitem__(self, key: StepAndName) -> Tensor: ...
    def __getitem__(self, key: int | StepAndName) -> ActivationCache | Tensor:
        step, *name = key if isinstance(key, tuple) else (key,)
        if step not in self._caches:
            raise KeyError(f"step {step} was not recorded; recorded are {', '.join(map(str, self.steps))}")
        cache = self._caches[int(step)]
        return cache if not name else cache[name[0] if len(name) == 1 else tuple(name)]

    def stack(self, *name: str | int) -> Float[Tensor, "steps batch ..."]:
        """`(steps, batch, …)`: one activation at every recorded step, in the order of `steps`."""
        return torch.stack([self[(step, *name)] for step in self.steps])

    def logit_lens(self, trajectory: DenoisingRecord, row: int = 0, positions: Sequence[int] | None = None) -> DenoisingLens:
        """`(steps, layers, positions)`: what the stream of one row says after every layer, at every recorded step.

        `trajectory` is the run that filled this cache; `positions` are those of the canvas to read, by default all that were masked. The
        cache must hold `hook_resid_post` of every layer. Raises ValueError where it does not, and where it knows no model.
        """
        return read_lens(self._caches, trajectory, row, positions)

    def to_dataframe(self) -> pd.DataFrame:
        """One line per activation: name, shape at one step, MiB at one step, and at how many steps it was recorded."""
        first = self._caches[self.steps[0]].cache_dict if self._caches else {}
        shapes = {name: (tuple(one.shape), one.nbytes / MiB) for name, one in first.items()}
        rows = [(name, " × ".join(map(str, shape)), size, len(self)) for name, (shape, size) in shapes.items()]
        return pd.DataFrame(rows, columns=["activation", "shape", "MiB", "steps"])

    def figure(self, name: str = "hook_resid_post", row: int = 0) -> go.Figure:
        """Layer × step: how far the activation `name` of every layer moved since the recorded step before: |change| / |before|, over a row.

        `name` is what follows "blocks.0." in a hook's name. Raises ValueError where fewer than two steps or no such activation were
        recorded.
        """
        return draw_changes(self._caches, name, row)

    def _repr_html_(self) -> str:
        frame = self.to_dataframe()
        return card(repr(self), f"{len(frame)} activations, {frame['MiB'].sum():.1f} MiB a step", frame.head(12))

    def __iter__(self) -> Iterator[int]:
        return iter(self._caches)

    def __len__(self) -> int:
        return len(self._caches)

    def __repr__(self) -> str:
        return f"DenoisingCache of steps {', '.join(map(str, self.steps))}"


@dataclass(frozen=True)
class Recording:
    """Which activations a run keeps, and how. `run_with_denoising_cache` explains the fields."""

    at_steps: Sequence[int] | None = None
    names_filter: NamesFilter = None
    positions: SliceInput = None
    device: str | torch.device | None = None
    dtype: torch.dtype | None = None
    max_bytes: int = MAX_BYTES


class CachingForward(HookedForward):
    """A forward that keeps the activations of the steps asked for: in `caches`, or in `folder` where that is set."""

    folder: CacheFolder | None = None

    def __init__(self, model: DenoisingModel, job: Job, watch: Watch, recording: Recording):
        super().__init__(model, job, watch)
        self.recording = recording
        self.observed = check_steps(recording.at_steps, job.plan.steps)
        planned = job.plan.canvases(job.canvas.masked, self.observed)
        # Forced tokens are not in the plan: then every step may have a canvas of its own.
        self.canvases = planned if job.steering.force is None else len(self.observed)
        self.caches: dict[int, ActivationCache] = {}
        self.kept_bytes = 0
        self._canvas: Tensor | None = None
        self._kept_at: int | None = None

    def __call__(self, step: DenoisingStep) -> Float[Tensor, "batch pos d_vocab"]:
        """Aligned logits; the forward runs once per canvas, however many steps the canvas lasts."""
        # The loop makes a new tensor at every commit, so the same object means the same canvas, and comparing tokens is not needed.
        if step.canvas is not self._canvas:
            self._logits, self._canvas, self._kept_at = super().__call__(step), step.canvas, None
        if step.index in self.observed:
            self._keep(step.index)
        return self._logits

    def run(self, step: DenoisingStep) -> Float[Tensor, "batch pos d_vocab"]:
        """The step's own forward. It is cached at the observed steps, and at the run's first forward to see how much memory is needed."""
        # `count` rises after this method, so it is 0 during the run's first forward.
        if self.count and step.index not in self.observed:
            return super().run(step)
        with self.watch.on(self.model, step):
            logits, cache = self._run_with_cache(step)
        # TransformerLens leaves None where a hook point had no gradient.
        self._cache = ActivationCache({name: self._compact(a) for name, a in cache.items() if a is not None}, self.model)
        size = _bytes(self._cache)
        self._check(size, self.canvases if self.count == 0 and self.folder is None else 1)
        # A folder takes the activations out of memory, and an unobserved first forward is only measured.
        self.kept_bytes += 0 if self.folder or step.index not in self.observed else size
        return logits

    def _run_with_cache(self, step: DenoisingStep) -> tuple[Float[Tensor, "batch pos d_vocab"], ActivationCache | dict[str, Tensor]]:
        """Aligned logits and activations; with a metric also its gradients, as "<name>_grad"."""
        wanted = self.recording
        asked = {"names_filter": wanted.names_filter, "pos_slice": wanted.positions, "device": wanted.device, **self.padding}
        # `run_with_cache` returns raw logits; the loop and the metric want aligned ones.
        if self.watch.metric is None:
            logits, cache = self.model.run_with_cache(step.canvas, **asked)
            return self.model.align_logits(logits), cache
        # With `incl_bwd`, `run_with_cache` returns the scalar that it differentiates. The logits come out through this list.
        aligned: list[Tensor] = []

        def value(logits: Tensor) -> Tensor:
            aligned.append(self.model.align_logits(logits))
            return self.watch.value(aligned[0], step)

        with from_embeddings(self.model):
            _, cache = self.model.run_with_cache(step.canvas, incl_bwd=True, reduce=value, **asked)
        return aligned[0].detach(), cache

    def _compact(self, activation: Tensor) -> Tensor:
        """The activation in the dtype asked for. A slice is copied, so that the whole tensor behind it can be freed."""
        dtype = self.recording.dtype
        if dtype is not None and activation.is_floating_point():
            activation = activation.to(dtype)
        # A view keeps its whole storage alive, however small the view is.
        whole = activation.untyped_storage().nbytes() == activation.numel() * activation.element_size()
        return activation if whole else activation.clone()

    def _check(self, size: int, canvases: int) -> None:
        needed, limit = self.kept_bytes + size * canvases, self.recording.max_bytes
        if needed > limit:
            remedy = "name fewer hooks or positions" if self.folder else "name fewer hooks, positions or at_steps, or stream to a folder"
            raise ValueError(
                f"names_filter keeps {size / MiB:.1f} MiB per step, {needed / MiB:.1f} MiB with the {canvases} steps to come, more than "
                f"max_bytes = {limit / MiB:.1f} MiB; {remedy}, or raise max_bytes"
            )

    def _keep(self, index: int) -> None:
        """Keep the activations of the canvas that just ran, for this step too."""
        if self.folder is None:
            self.caches[index] = self._cache
        elif self._kept_at is None:
            self.folder.keep(index, self._cache.cache_dict)
        else:
            self.folder.again(index, self._kept_at)
        self._kept_at = index if self._kept_at is None else self._kept_at


def _bytes(cache: ActivationCache) -> int:
    """Bytes that a cache holds on to; hooks that pass on the same tensor share its memory."""
    return sum({s.data_ptr(): s.nbytes() for s in (a.untyped_storage() for a in cache.cache_dict.values())}.values())


def patch_from(cache: DenoisingCache, positions: Sequence[int] | slice = slice(None)) -> StepHook:
    """A hook that puts in the activation that another run had at the same step, at `positions` of dimension 1.

    The other run must have as many tokens, and must have been recorded at every step where this hook fires (KeyError otherwise).
    """

    def patch(activation: Tensor, hook: HookPoint, step: DenoisingStep) -> Tensor:
        other = cache[(step.index, hook.name or "")].to(activation)
        if other.shape != activation.shape:
            raise ValueError(f"patch_from: {hook.name} is {tuple(activation.shape)} here, {tuple(other.shape)} in the other run")
        # Never in place: another hook or the cache may hold the same tensor.
        patched = activation.clone()
        patched[:, positions] = other[:, positions]
        return patched

    return patch
