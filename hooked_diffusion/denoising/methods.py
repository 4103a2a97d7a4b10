"""What a model can do with a canvas: denoise it, and watch, steer and resume the run. `HookedDiffusionTransformer` has these methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.utilities.slice import SliceInput

from hooked_diffusion.denoising.cache import MAX_BYTES, CachingForward, DenoisingCache, NamesFilter
from hooked_diffusion.denoising.cache_folder import CacheFolder
from hooked_diffusion.denoising.hooks import HookedForward, Metric, StepHooks, Watch
from hooked_diffusion.denoising.loop import Denoiser, Forward, Job
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.settings import Schedule, Select, make_settings
from hooked_diffusion.denoising.steering import Force, Freeze, Steering
from hooked_diffusion.denoising.trajectory import DenoisingTrajectory


class DenoisingMethods:
    """`denoise`, `run_with_denoising_hooks`, `run_with_denoising_cache` and `resume_denoising`.

    All take the same canvas and settings; rows are `(batch, pos)`.
    """

    def denoise(
        self: DenoisingModel,
        canvas: Int[Tensor, "batch pos"],
        steps: int | None = None,
        select: Select | None = None,
        *,
        preset: str | None = None,
        schedule: Schedule | None = None,
        eps: float | None = None,
        block_length: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        alg_temp: float | None = None,
        threshold: float | None = None,
        cfg_scale: float | None = None,
        remask: float | None = None,
        mask_positions: Bool[Tensor, "batch pos"] | None = None,
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        freeze: Freeze = None,
        force: Force = None,
        tempered_scores: bool | None = None,
        masked_by_token: bool | None = None,
        seed: int | None = None,
    ) -> DenoisingTrajectory:
        """Fill the masked positions of `canvas`, step by step.

        `mask_positions` defaults to where the canvas holds the mask id; given, the mask id is written there first (a model without one sees
        whatever the canvas holds). `attention_mask` is False at padding, on either side. `preset` is "dream", "llada", "diffullama", "dllm"
        or "threshold"; what each setting means, and its default: `DenoisingSettings`. `freeze` and `force` take the sampler's hand:
        `Steering`. An ARM is decoded by the same loop, from left to right. Rows are independent: at temperature 0 a row's tokens are those
        it would get alone. Cost: one forward per step that commits.

        Raises ValueError, before any forward, on an impossible setting, canvas or mask, and when a causal model is asked for more than
        one token at a time or another order. Warns of a reused mask id in the prompt and of a doubled BOS.
        """
        settings = make_settings(
            preset,
            causal=not self.spec.is_mdm,
            steps=steps,
            select=select,
            schedule=schedule,
            eps=eps,
            block_length=block_length,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            alg_temp=alg_temp,
            threshold=threshold,
            cfg_scale=cfg_scale,
            remask=remask,
            tempered_scores=tempered_scores,
            masked_by_token=masked_by_token,
            seed=seed,
        )
        steering = Steering(freeze, force)
        job = Job.make(self, canvas, settings, mask_positions=mask_positions, attention_mask=attention_mask, steering=steering)
        return Denoiser(Forward(self, job), job).run()

    def run_with_denoising_hooks(
        self: DenoisingModel,
        canvas: Int[Tensor, "batch pos"],
        steps: int | None = None,
        select: Select | None = None,
        *,
        fwd_hooks: StepHooks = (),
        bwd_hooks: StepHooks = (),
        metric: Metric | None = None,
        at_steps: Sequence[int] | None = None,
        preset: str | None = None,
        mask_positions: Bool[Tensor, "batch pos"] | None = None,
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        freeze: Freeze = None,
        force: Force = None,
        **settings: Any,
    ) -> DenoisingTrajectory:
        """`denoise` under hooks that know the step: `(name or filter, hook_fn(tensor, hook, step))`, `step` a `DenoisingStep`.

        A forward hook's return value replaces the activation, so it changes what this step commits. Backward hooks see the gradient of
        `metric(aligned_logits, step)`, a scalar, as far down as "blocks.0.hook_resid_pre". `at_steps` chooses the steps (default: those
        that commit; a step that is named runs even when it commits nothing). `settings` are those of `denoise`. Raises what `denoise`
        does, and ValueError on backward hooks without a metric and on steps outside the run.
        """
        watch = Watch(fwd_hooks, bwd_hooks, metric)
        chosen = make_settings(preset, causal=not self.spec.is_mdm, steps=steps, select=select, **settings)
        steering = Steering(freeze, force)
        job = Job.make(self, canvas, chosen, mask_positions=mask_positions, attention_mask=attention_mask, steering=steering)
        return Denoiser(HookedForward(self, job, watch, at_steps), job).run()

    def run_with_denoising_cache(
        self: DenoisingModel,
        canvas: Int[Tensor, "batch pos"],
        steps: int | None = None,
        select: Select | None = None,
        *,
        names_filter: NamesFilter = None,
        at_steps: Sequence[int] | None = None,
        positions: SliceInput = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        max_bytes: int = MAX_BYTES,
        folder: str | Path | None = None,
        fwd_hooks: StepHooks = (),
        metric: Metric | None = None,
        preset: str | None = None,
        mask_positions: Bool[Tensor, "batch pos"] | None = None,
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        freeze: Freeze = None,
        force: Force = None,
        **settings: Any,
    ) -> tuple[DenoisingTrajectory, DenoisingCache]:
        """`denoise`, keeping activations: `cache[k]` is bit-equal to `run_with_cache` on `trajectory.canvases[k]`.

        - `names_filter` is TransformerLens' own; `at_steps` chooses the steps (default: all); `positions` slices the position dimension
          where an activation has one (TransformerLens' `pos_slice`).
        - `device`, `dtype`: where and how precisely activations are kept; None leaves them as they are.
        - `max_bytes`: what may be kept in memory, 4 GiB unless told; a filter that would not fit is refused (ValueError) after the first
          forward, before anything is committed.
        - `folder`: a new folder to stream to, one file per canvas; then one step must fit `max_bytes`, and `cache` reads from disk.
          `DenoisingCache.load(folder)` opens it again. Raises FileExistsError when it exists.
        - `fwd_hooks` are step hooks as in `run_with_denoising_hooks`, at every step that runs; with a `metric` the cache also holds its
          gradients, as "<name>_grad".

        `settings` are those of `denoise`; it raises what `denoise` does.
        """
        chosen = make_settings(preset, causal=not self.spec.is_mdm, steps=steps, select=select, **settings)
        steering = Steering(freeze, force)
        job = Job.make(self, canvas, chosen, mask_positions=mask_positions, attention_mask=attention_mask, steering=steering)
        wanted: dict[str, Any] = {"at_steps": at_steps, "names_filter": names_filter, "positions": positions}
        wanted |= {"device": device, "dtype": dtype, "max_bytes": max_bytes}
        if folder is None:
            forward = CachingForward(self, job, Watch(fwd_hooks, (), metric), **wanted)
            return Denoiser(forward, job).run(), DenoisingCache(forward.caches)
        CachingForward(self, job, Watch(fwd_hooks, (), metric), **wanted)  # what cannot be is said before there is a folder
        with CacheFolder(folder) as files:
            trajectory = Denoiser(CachingForward(self, job, Watch(fwd_hooks, (), metric), **wanted, folder=files), job).run()
            files.close(trajectory.provenance | {"settings": trajectory.settings.to_dict()})
        return trajectory, DenoisingCache.load(folder, self, device or self.cfg.device or "cpu")

    def resume_denoising(
        self: DenoisingModel,
        trajectory: DenoisingTrajectory,
        step: int,
        *,
        canvas: Int[Tensor, "batch pos"] | None = None,
        fwd_hooks: StepHooks = (),
        bwd_hooks: StepHooks = (),
        metric: Metric | None = None,
        at_steps: Sequence[int] | None = None,
        freeze: Freeze = None,
        force: Force = None,
    ) -> DenoisingTrajectory:
        """Take up `trajectory` at `step`, with its settings: unless something is changed, bit-equal to it from there on.

        `canvas` replaces the step's canvas: a token written over a mask counts as given, the mask id over a committed token reopens it.
        Hooks, `freeze` and `force` act on the steps to come, as in `run_with_denoising_hooks`. The result's canvases begin with the
        trajectory's own. Raises ValueError on a step outside the run, and on a canvas of another shape or with ids outside the vocabulary.
        """
        if not 0 <= step <= trajectory.steps:
            raise ValueError(f"resume_denoising: step {step} lies outside 0 … {trajectory.steps}")
        if canvas is not None:
            canvas = canvas.to(trajectory.canvases)
            if canvas.shape != trajectory.tokens.shape or canvas.min() < 0 or canvas.max() >= self.cfg.d_vocab:
                raise ValueError(
                    f"resume_denoising: canvas holds ids 0 … {self.cfg.d_vocab - 1} in the trajectory's shape "
                    f"{tuple(trajectory.tokens.shape)}, got {tuple(canvas.shape)} from {int(canvas.min())} to {int(canvas.max())}"
                )
        masks: dict[str, Any] = {"mask_positions": trajectory.mask_positions, "attention_mask": trajectory.attention_mask}
        job = Job.make(self, trajectory.canvases[0], trajectory.settings, **masks, steering=Steering(freeze, force))
        forward = HookedForward(self, job, Watch(fwd_hooks, bwd_hooks, metric), at_steps)
        return Denoiser.resume(forward, job, trajectory, step, canvas).run()
