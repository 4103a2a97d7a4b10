"""The denoising loop.

For each step, with canvas x and the positions masked in it:

1. ask the plan where the step may commit and how many per row; a step that commits nothing runs no forward;
2. run the model on x: logits aligned with the tokens they predict, whatever the shift;
3. propose a token and a score at every open position, commit the best ones; canvas k + 1 is canvas k with those tokens written.

Random draws of a step come from (seed, step), so leaving out the idle steps changes nothing. At temperature 0 the two presets agree with
Dream's and LLaDA's own samplers token for token, canvas by canvas.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from hooked_diffusion.denoising.canvas import prepare
from hooked_diffusion.denoising.plan import Plan
from hooked_diffusion.denoising.selection import choose, propose
from hooked_diffusion.denoising.settings import DenoisingSettings
from hooked_diffusion.denoising.trajectory import DenoisingTrajectory

if TYPE_CHECKING:
    from hooked_diffusion.model import HookedDiffusionTransformer


class Forward:
    """Aligned logits of a canvas; `count` forwards so far. `observed` steps are run even when they commit nothing."""

    observed: Collection[int] = ()

    def __init__(self, model: HookedDiffusionTransformer):
        self.model = model
        self.count = 0

    def __call__(self, canvas: Int[Tensor, "batch pos"], step: int) -> Float[Tensor, "batch pos d_vocab"]:
        """Row p predicts the token at p. The loop makes a new tensor at every commit, and passes the same one until then."""
        self.count += 1
        return self.model.token_logits(canvas)


def run_denoising(
    model: HookedDiffusionTransformer,
    canvas: Int[Tensor, "batch pos"],
    mask_positions: Bool[Tensor, "batch pos"] | None,
    settings: DenoisingSettings,
) -> DenoisingTrajectory:
    """Denoise `canvas`; `HookedDiffusionTransformer.denoise` says what the arguments mean and what is raised."""
    canvas, masked, plan = make_plan(model, canvas, mask_positions, settings)
    return follow(plan, Forward(model), canvas, masked)


def make_plan(
    model: HookedDiffusionTransformer,
    canvas: Int[Tensor, "batch pos"],
    mask_positions: Bool[Tensor, "batch pos"] | None,
    settings: DenoisingSettings,
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"], Plan]:
    """Check everything before the first forward: the canvas to begin with, its masks, and the plan."""
    canvas, masked = prepare(canvas.to(model.cfg.device), mask_positions, model.spec, model.cfg.d_vocab)
    if settings.masked_by_token and (model.spec.mask_is_reused or model.spec.mask_token_id is None):
        raise ValueError(
            f"{model.cfg.model_name} has no token that only ever means a mask (mask_token_id {model.spec.mask_token_id}), so positions "
            "cannot count as masked by the token they hold; pass masked_by_token=False"
        )
    plan = Plan.make(masked, settings)
    if not model.spec.is_mdm:
        plan.check_causal()
    return canvas, masked, plan


@torch.no_grad()
def follow(
    plan: Plan, forward: Forward, canvas: Int[Tensor, "batch pos"], mask_positions: Bool[Tensor, "batch pos"]
) -> DenoisingTrajectory:
    """Carry out the plan from `canvas`, as the module docstring tells it."""
    settings, spec = plan.settings, forward.model.spec
    masked, canvases = mask_positions, [canvas]
    commit_step = torch.full_like(canvas, -1)
    confidence = (~mask_positions).float()
    for step in tqdm(range(plan.steps), desc="denoising", unit="step", disable=None, delay=2, leave=False):
        open_, quotas = plan.at(step, masked)
        if any(quotas):
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
            proposal = propose(forward(canvas, step), open_, settings, generator)
            chosen = choose(proposal.score, quotas)
            canvas = torch.where(chosen, proposal.tokens, canvas)
            commit_step[chosen] = step
            confidence = torch.where(chosen, proposal.probability.to(confidence), confidence)
            masked = mask_positions & (canvas == spec.mask_token_id) if settings.masked_by_token else masked & ~chosen
        elif step in forward.observed:
            forward(canvas, step)
        canvases.append(canvas)
    return DenoisingTrajectory(
        canvases=torch.stack(canvases),
        commit_step=commit_step,
        confidence=confidence,
        mask_positions=mask_positions,
        mask_token_id=spec.mask_token_id,
        settings=replace(settings, steps=plan.steps),
        forwards=forward.count,
        provenance={"model": forward.model.source, "spec": spec.to_dict()},
    )
