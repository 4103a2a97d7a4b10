"""The methods by which a model denoises a canvas, and by which a caller watches, steers and resumes the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.utilities.slice import SliceInput
from typing_extensions import Unpack

from hooked_diffusion.denoising.cache import MAX_BYTES, CachingForward, DenoisingCache, NamesFilter, Recording
from hooked_diffusion.denoising.cache_folder import CacheFolder
from hooked_diffusion.denoising.canvas import Canvas
from hooked_diffusion.denoising.hooks import HookedForward, Metric, StepHooks, Watch
from hooked_diffusion.denoising.job import Canvases, DenoisingArguments, Job
from hooked_diffusion.denoising.loop import Denoiser, Forward
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.settings import Select
from hooked_diffusion.denoising.steering import Force, Freeze, Steering
from hooked_diffusion.denoising.texts import Masks, Texts, canvas_of
from hooked_diffusion.denoising.trajectory import DenoisingTrajectory


class DenoisingMethods:
    """`denoise`, `run_with_denoising_hooks`, `run_with_denoising_cache` and `resume_denoising`.

    The first three take the same canvas, `(batch, pos)`, and the same arguments: `DenoisingArguments`.
    """

    def canvas(self: DenoisingModel, text: Texts, *, masks: Masks = None, suffix: str | Sequence[str] | None = None) -> Canvas:
        """A canvas `(batch, pos)` for `denoise`: each text, `masks` masks, `suffix`, and the ids that ended this model's training rows.

        `masks="per answer"` takes pairs (prompt, answer) and masks as many tokens as the answer has; None masks what the text itself
        writes as masks. Rows are padded on the left. The result has `tokens`, `masked` and `visible`. Raises what `texts.canvas_of` does.
        """
        return canvas_of(self, text, masks, suffix)

    def denoise(
        self: DenoisingModel,
        canvas: Canvases,
        steps: int | None = None,
        select: Select | None = None,
        **arguments: Unpack[DenoisingArguments],
    ) -> DenoisingTrajectory:
        """Fill the masked positions of a canvas, step by step: token ids `(batch, pos)`, what `canvas` makes, or texts with `masks=…`.

        `steps` (None: one commit per step) and `select` ("confidence", …) say how many steps there are and which positions they commit.
        By name: `preset`, `mask_positions`, `attention_mask`, `freeze`, `force` (see `DenoisingArguments`), and `schedule`, `eps`,
        `block_length`, `temperature`, `top_p`, `top_k`, `alg_temp`, `threshold`, `cfg_scale`, `remask`, `tempered_scores`,
        `masked_by_token`, `seed` (see `DenoisingSettings`).

        An ARM is decoded by the same loop, from left to right. Rows are independent: at temperature 0 a row gets the tokens that it would
        get alone. Cost: one forward per step that commits.

        Raises ValueError, before any forward, on an impossible setting, canvas or mask, and when a causal model is asked for more than
        one token at a time or for another order; TypeError on an unknown argument. Warns of a reused mask id in the prompt and of a
        doubled BOS.
        """
        job = Job.asked(self, canvas, steps, select, arguments)
        return Denoiser(Forward(self, job), job).run()

    def run_with_denoising_hooks(
        self: DenoisingModel,
        canvas: Canvases,
        steps: int | None = None,
        select: Select | None = None,
        *,
        fwd_hooks: StepHooks = (),
        bwd_hooks: StepHooks = (),
        metric: Metric | None = None,
        at_steps: Sequence[int] | None = None,
        **arguments: Unpack[DenoisingArguments],
    ) -> DenoisingTrajectory:
        """`denoise` under hooks that know the step.

        - `fwd_hooks`: pairs of a hook name (or a filter of names) and a function of (tensor, hook, step), or of (tensor, hook); `step` is a
          `DenoisingStep`. What the function returns replaces the activation, so it changes what this step commits.
        - `bwd_hooks`: the same, for the gradient of `metric(aligned_logits, step)`, a scalar, down to "blocks.0.hook_resid_pre".
        - `at_steps`: the steps with hooks. None: all that commit. A step that is named here runs even when it commits nothing.

        Raises what `denoise` does, and ValueError on backward hooks without a metric and on steps outside the run.
        """
        watch = Watch(fwd_hooks, bwd_hooks, metric)
        job = Job.asked(self, canvas, steps, select, arguments)
        return Denoiser(HookedForward(self, job, watch, at_steps), job).run()

    def run_with_denoising_cache(
        self: DenoisingModel,
        canvas: Canvases,
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
        **arguments: Unpack[DenoisingArguments],
    ) -> tuple[DenoisingTrajectory, DenoisingCache]:
        """`denoise` that keeps activations: `cache[k]` is bit-equal to `run_with_cache` on `trajectory.canvases[k]`.

        - `names_filter`: which hooks, as TransformerLens takes it. `at_steps`: which steps; None: all. `positions`: which positions, where
          an activation has a position dimension (TransformerLens' `pos_slice`).
        - `device`, `dtype`: where and how precisely activations are kept; None leaves them as they are.
        - `max_bytes`: how much may be kept in memory, 4 GiB by default. A cache that would not fit is refused (ValueError) after the
          first forward, before anything is committed.
        - `folder`: a new folder to write to, one file per canvas. Then only one step must fit `max_bytes`, and `cache` reads from disk;
          `DenoisingCache.load(folder)` opens it again. Raises FileExistsError when the folder exists.
        - `fwd_hooks`: step hooks as in `run_with_denoising_hooks`, at every step that runs. With a `metric` the cache also holds the
          metric's gradients, as "<name>_grad".

        Raises what `denoise` does.
        """
        job = Job.asked(self, canvas, steps, select, arguments)
        recording = Recording(at_steps, names_filter, positions, device, dtype, max_bytes)
        # Made before the folder: a wrong argument is refused while there is nothing on disk yet.
        forward = CachingForward(self, job, Watch(fwd_hooks, (), metric), recording)
        if folder is None:
            return Denoiser(forward, job).run(), DenoisingCache(forward.caches)
        with CacheFolder(folder) as forward.folder:
            trajectory = Denoiser(forward, job).run()
            forward.folder.close(trajectory.provenance | {"settings": trajectory.settings.to_dict()})
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
        """Take up `trajectory` at `step`, with its settings. Where nothing is changed, the result is bit-equal to `trajectory`.

        `canvas (batch, pos)` replaces the canvas of that step: a token that it writes over a mask counts as given, and the mask id written
        over a committed token masks it again. Hooks, `freeze` and `force` act on the steps to come, as in `run_with_denoising_hooks`. The
        result's canvases begin with those of `trajectory` before `step`.

        Raises ValueError on a step outside the run, and on a canvas of another shape or with ids outside the vocabulary.
        """
        if not 0 <= step <= trajectory.steps:
            raise ValueError(f"resume_denoising: step {step} lies outside 0 … {trajectory.steps}")
        if canvas is not None:
            canvas = _check_edit(canvas, trajectory, self.cfg.d_vocab)
        job = Job.make(
            self,
            trajectory.canvases[0],
            trajectory.settings,
            mask_positions=trajectory.mask_positions,
            attention_mask=trajectory.attention_mask,
            steering=Steering(freeze, force),
        )
        forward = HookedForward(self, job, Watch(fwd_hooks, bwd_hooks, metric), at_steps)
        return Denoiser.resume(forward, job, trajectory, step, canvas).run()


def _check_edit(canvas: Int[Tensor, "batch pos"], trajectory: DenoisingTrajectory, d_vocab: int) -> Int[Tensor, "batch pos"]:
    canvas = canvas.to(trajectory.canvases)
    if canvas.shape != trajectory.tokens.shape or canvas.min() < 0 or canvas.max() >= d_vocab:
        raise ValueError(
            f"resume_denoising: canvas holds ids 0 … {d_vocab - 1} in the trajectory's shape {tuple(trajectory.tokens.shape)}, "
            f"got {tuple(canvas.shape)} from {int(canvas.min())} to {int(canvas.max())}"
        )
    return canvas
