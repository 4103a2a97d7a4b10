"""The denoising loop.

For each step, with canvas x and the positions that are masked in it:

1. Ask the plan where the step may commit, and how many positions in each row. Frozen positions are left out. With `remask`, draw which
   committed positions are masked again. A step that commits nothing runs no forward.
2. Run the model on x. Its logits are aligned with the tokens that they predict, and guided if asked.
3. Propose a token and a score at every open position. Commit the best ones, and the forced ones. Canvas k + 1 is canvas k with those
   tokens written, and with the mask id where positions are masked again.

The random draws of a step come from (seed, step). So a step that is skipped changes no later draw, and a resumed run draws what the whole
run would have drawn. At temperature 0 the presets agree with Dream's and LLaDA's own samplers token for token, canvas by canvas.

Rows of a batch are independent: each has its own quotas, blocks and steps, and prompts may be padded on either side. At temperature 0 a row
gets the tokens that it gets alone. The published samplers are not independent: Dream's takes its number of commits from the mean mask count
of the batch, LLaDA's assumes prompts of one length, dllm's drops a step only when no row needs the step.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from hooked_diffusion.denoising.job import Job
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.selection import choose, propose
from hooked_diffusion.denoising.steering import FREE, DenoisingStep
from hooked_diffusion.denoising.trajectory import DenoisingTrajectory
from hooked_diffusion.progress import progress_bar
from hooked_diffusion.seeds import step_generator
from hooked_diffusion.tokenizers import spelled


class Forward:
    """Aligned logits of a canvas. `count` says how many forwards ran so far. Steps in `observed` run even when they commit nothing."""

    observed: Collection[int] = ()

    def __init__(self, model: DenoisingModel, job: Job):
        self.model, self.count = model, 0
        self.scale = job.plan.settings.cfg_scale
        self.prompt = job.canvas.visible & ~job.canvas.masked
        self.padding: dict[str, Tensor] = {} if job.canvas.visible.all() else {"attention_mask": job.canvas.visible}

    def __call__(self, step: DenoisingStep) -> Float[Tensor, "batch pos d_vocab"]:
        """Row p predicts the token at p. The loop makes a new canvas at every commit, and passes the same one until then."""
        logits = self.run(step)
        self.count += 1
        if not self.scale:
            return logits
        self.count += 1
        # Guidance compares with a prompt that is masked too. A model without a mask token is refused before: `Job.make`.
        unprompted = torch.where(self.prompt, self.model.spec.mask_token_id or 0, step.canvas)
        alone = self.model.token_logits(unprompted, **self.padding)
        return alone + (self.scale + 1) * (logits - alone)

    def run(self, step: DenoisingStep) -> Float[Tensor, "batch pos d_vocab"]:
        """The forward on the step's own canvas: the one that hooks and caches see."""
        return self.model.token_logits(step.canvas, **self.padding)


class Denoiser:
    """One run: the canvas, what is masked on it now, and what happened so far."""

    def __init__(self, forward: Forward, job: Job):
        self.forward, self.job, self.settings = forward, job, job.plan.settings
        self.canvas, self.masked = job.canvas.tokens, job.canvas.masked
        self.commit_step = torch.full_like(self.canvas, -1)
        # A token that was given is certain: 1. A mask is at 0 until it is committed.
        self.confidence = (~self.masked).float()
        # The run makes new tensors and never writes into one, so these lists can hold the tensors themselves, without copies.
        self.canvases, self.masks = [self.canvas], [self.masked]

    @classmethod
    def resume(
        cls, forward: Forward, job: Job, trajectory: DenoisingTrajectory, index: int, canvas: Int[Tensor, "batch pos"] | None = None
    ) -> Denoiser:
        """The run that made `trajectory`, just before step `index`; `canvas`, if given, replaces the canvas of that step.

        A token that `canvas` writes over a mask counts as given. The mask id written over a committed token masks it again.
        """
        run = cls(forward, job)
        # Step `index` starts from canvas `index`, so index + 1 canvases exist before it.
        run.canvases, run.masks = list(trajectory.canvases[: index + 1]), list(trajectory.masked[: index + 1])
        run.canvas, run.masked = run.canvases[-1], run.masks[-1]
        # The trajectory knows the last commit of each position only: what was committed later than `index` is not known yet.
        done = run.masks[0] & ~run.masked & (trajectory.commit_step < index)
        run.commit_step = torch.where(done, trajectory.commit_step, run.commit_step)
        run.confidence = torch.where(done, trajectory.confidence, run.confidence)
        if canvas is not None:
            edited = canvas != run.canvas
            run.masked = torch.where(edited, run.masks[0] & (canvas == trajectory.mask_token_id), run.masked)
            run.commit_step = run.commit_step.masked_fill(edited, -1)
            run.confidence = torch.where(edited, (~run.masked).to(run.confidence), run.confidence)
            run.canvas = run.canvases[-1] = canvas
            run.masks[-1] = run.masked
        return run

    @torch.no_grad()
    def run(self) -> DenoisingTrajectory:
        """Take the steps that are left, as the module docstring says."""
        # A fresh run has one canvas and starts at step 0. A resumed run has index + 1 canvases and starts at `index`.
        steps = range(len(self.canvases) - 1, self.job.plan.steps)
        with progress_bar(len(steps), "denoising", "step") as bar:
            for index in steps:
                self.advance(index)
                self.canvases.append(self.canvas)
                self.masks.append(self.masked)
                bar.update()
        model, canvases = self.forward.model, torch.stack(self.canvases)
        return DenoisingTrajectory(
            canvases=canvases,
            masked=torch.stack(self.masks),
            commit_step=self.commit_step,
            confidence=self.confidence,
            visible=self.job.canvas.visible,
            mask_token_id=model.spec.mask_token_id,
            settings=self.settings,
            forwards=self.forward.count,
            provenance={"model": model.source, "spec": model.spec.to_dict()},
            words=spelled(model.tokenizer, canvases),
        ).made_by(model)

    def advance(self, index: int) -> None:
        """Take one step. Canvas and masks do not change when there is nothing to commit."""
        generator = step_generator(self.settings.seed, index)
        step, steering = self.context(index), self.job.steering
        open_ = step.open & ~steering.frozen(step)
        # All draws of a step share one generator: quotas, then masks again, then tokens, then positions. Another order gives other draws.
        quotas = self.job.plan.quotas(index, open_, generator)
        reopened = self._reopen(step, open_, quotas, generator)
        # What is masked again is made up for now: commits minus new masks is what the schedule says.
        quotas = [quota + again for quota, again in zip(quotas, reopened.sum(1).tolist(), strict=True)]
        forced = steering.forced(step, self.forward.model.cfg.d_vocab)
        if any(quotas) or (forced != FREE).any():
            logits = self.forward(step)
            proposal = propose(logits, open_, self.settings, generator)
            chosen = choose(proposal, open_, quotas, self.settings, generator)
            # First the sampler's choice, then the forced tokens: a forced token wins where both want the position. The
            # positions to mask again were committed before, so they are not among the chosen ones.
            self._commit(index, torch.where(chosen, proposal.tokens, FREE), proposal.probability)
            self._force(index, forced, logits)
            self._mask_again(reopened)
        elif index in self.forward.observed:
            self.forward(step)

    def context(self, index: int) -> DenoisingStep:
        """Where the run stands before step `index`."""
        plan = self.job.plan
        # A row without masks has noise 0 / 1 = 0; without the clamp it would be NaN.
        noise = self.masked.sum(1) / self.masks[0].sum(1).clamp(min=1)
        return DenoisingStep(
            index, plan.steps, self.canvas, self.masked, plan.reach(index, self.masked), plan.block_at(index), noise.float()
        )

    def _commit(self, index: int, tokens: Int[Tensor, "batch pos"], probability: Float[Tensor, "batch pos"]) -> None:
        """Write `tokens` where they are not −1."""
        chosen = tokens != FREE
        self.canvas = torch.where(chosen, tokens, self.canvas)
        self.commit_step = torch.where(chosen, index, self.commit_step)
        self.confidence = torch.where(chosen, probability.to(self.confidence), self.confidence)
        if self.settings.masked_by_token:
            # Read off the canvas: a position that commits the mask id itself stays masked.
            self.masked = self.job.canvas.masked & (self.canvas == self.forward.model.spec.mask_token_id)
        else:
            self.masked = self.masked & ~chosen

    def _force(self, index: int, tokens: Int[Tensor, "batch pos"], logits: Float[Tensor, "batch pos d_vocab"]) -> None:
        rows = tokens != FREE
        if rows.any():
            probability = torch.zeros_like(self.confidence)
            probability[rows] = logits[rows].float().softmax(-1).gather(-1, tokens[rows][:, None])[:, 0].to(probability)
            self._commit(index, tokens, probability)

    def _reopen(
        self, step: DenoisingStep, open_: Bool[Tensor, "batch pos"], quotas: list[int], generator: Generator
    ) -> Bool[Tensor, "batch pos"]:
        """`(batch, pos)`: True where a position is masked again once this step has committed.

        A row masks at most as many again as the step can commit beyond its quota, so that the number of masks follows the schedule.
        """
        reopened = torch.zeros_like(step.masked)
        if not self.settings.remask:
            return reopened
        coins = torch.rand(reopened.shape, generator=generator).to(reopened.device)
        done = self.job.canvas.masked & ~step.masked & (self.job.plan.blocks.number <= step.block[:, None])
        coins = coins.masked_fill(~done, 1.0)  # no coin that can be masked again is as high
        for row, left in enumerate(open_.sum(1).tolist()):
            # The last step of a block has a quota of all that is left, so it has no room and masks nothing again.
            room = min(left - quotas[row], int((coins[row] < self.settings.remask).sum()))
            reopened[row, coins[row].argsort()[:room]] = True
        return reopened

    def _mask_again(self, reopened: Bool[Tensor, "batch pos"]) -> None:
        if reopened.any():
            self.canvas = torch.where(reopened, self.forward.model.spec.mask_token_id or 0, self.canvas)
            self.commit_step = self.commit_step.masked_fill(reopened, -1)
            self.confidence = self.confidence.masked_fill(reopened, 0.0)
            self.masked = self.masked | reopened
