"""Where a step may commit, and how many positions it commits in each row.

1. The masks are cut into blocks (`blocks`). Each block has a share of the steps: as many as it has masks when `steps` is not given, else
   an equal part of them, remainders to the first blocks; a lead has one step.
2. A step may commit masks of its block and, where some stayed open, of earlier ones.
3. Within the block the schedule says how many; the last step of a block commits all that is open (unless masks go by token, as in the
   samplers of Dream and LLaDA, where a position that commits the mask id stays behind).

Rows do not know of each other: a row's quotas are those it would have alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from hooked_diffusion.denoising.blocks import Blocks, cut
from hooked_diffusion.denoising.schedules import commits_per_step, quota
from hooked_diffusion.denoising.settings import DenoisingSettings
from hooked_diffusion.spec import DiffusionSpec


@dataclass(frozen=True)
class Plan:
    """The plan of one run: `shares[row][block]` are steps, `steps` the longest row's."""

    settings: DenoisingSettings
    blocks: Blocks
    shares: tuple[tuple[int, ...], ...]
    steps: int

    @classmethod
    def make(
        cls,
        masked: Bool[Tensor, "batch pos"],
        settings: DenoisingSettings,
        spec: DiffusionSpec | None = None,
        visible: Bool[Tensor, "batch pos"] | None = None,
    ) -> Plan:
        """Plan the masks of a canvas. Raises ValueError when there are fewer steps than blocks, or blocks that cannot be."""
        blocks = cut(masked, torch.ones_like(masked) if visible is None else visible, spec or DiffusionSpec(), settings.block_length)
        shares = tuple(_shares(row, *parts, settings.steps) for row, parts in enumerate(zip(blocks.masks, blocks.lead, strict=True)))
        return cls(settings, blocks, shares, settings.steps or max(map(sum, shares)))

    def block_at(self, step: int) -> Int[Tensor, " batch"]:
        """Which block each row denoises at `step`, `(batch,)`."""
        return torch.tensor([_place(shares, step)[0] for shares in self.shares], device=self.blocks.number.device)

    def reach(self, step: int, masked: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Where `step` may commit, given what is masked now."""
        return masked & (self.blocks.number <= self.block_at(step)[:, None])

    def quotas(self, step: int, open_: Bool[Tensor, "batch pos"], generator: Generator | None = None) -> list[int]:
        """How many of the open positions `step` commits in each row; `generator` is drawn from by the "bernoulli" schedule only."""
        left = open_.sum(1).tolist()
        return [self._quota(row, *_place(shares, step), left[row], generator) for row, shares in enumerate(self.shares)]

    def canvases(self, masked: Bool[Tensor, "batch pos"], at_steps: Collection[int]) -> int:
        """How many different canvases `at_steps` start from, when no one interferes; at most, when the number of commits is drawn."""
        if self.settings.schedule == "bernoulli" or self.settings.remask:
            return len(at_steps)
        seen, fresh = 0, True
        for step in range(self.steps):
            seen, fresh = seen + (fresh and step in at_steps), fresh and step not in at_steps
            open_ = self.reach(step, masked)
            quotas = torch.tensor(self.quotas(step, open_), device=masked.device)
            masked = masked & ~(open_ & (open_.cumsum(1) <= quotas[:, None]))
            fresh = fresh or bool(quotas.any())
        return seen

    def check_causal(self) -> None:
        """Raise ValueError unless the plan is one a causal model can follow: from left to right, one position per step."""
        wanted = self.settings
        if wanted.select != "left_to_right":
            raise ValueError(f'a causal model cannot see past a mask: use select="left_to_right", not {wanted.select!r}')
        if wanted.schedule == "bernoulli" or wanted.threshold is not None or wanted.remask or wanted.alg_temp:
            raise ValueError(
                'a causal model commits one token per step, for good: leave out threshold, remask, alg_temp and schedule="bernoulli"'
            )
        for row, (masks, shares) in enumerate(zip(self.blocks.masks, self.shares, strict=True)):
            for n, share in zip(masks, shares, strict=True):
                most = max(commits_per_step(wanted.schedule, n, share, wanted.eps))
                if most > 1:
                    raise ValueError(
                        f"a causal model commits one token per step, but {self.steps} steps ({wanted.schedule}) commit {most} at once in "
                        f'row {row}, which has {sum(masks)} masks; use schedule="even" with at least as many steps'
                    )

    def _quota(self, row: int, block: int, at: int, left: int, generator: Generator | None) -> int:
        """How many of the `left` open positions of a row are committed in step `at` of its block."""
        if not self.shares[row]:
            return 0
        share, by_token = self.shares[row][block], self.settings.masked_by_token
        if at >= share - 1 and not by_token:
            return left
        if at >= share:
            return 0
        return quota(self.settings.schedule, self.blocks.masks[row][block], left, at, share, self.settings.eps, generator)


def _shares(row: int, masks: tuple[int, ...], lead: tuple[bool, ...], steps: int | None) -> tuple[int, ...]:
    if steps is None:
        return masks
    rest, wide = steps - sum(lead), lead.count(False)
    if rest < wide or steps < len(masks):
        raise ValueError(f"{steps} steps are fewer than the {len(masks)} blocks of row {row}; give at least one step per block")
    each, more = divmod(rest, max(wide, 1))
    wide_before = [sum(not is_lead for is_lead in lead[:block]) for block in range(len(lead))]
    return tuple(1 if is_lead else each + (before < more) for is_lead, before in zip(lead, wide_before, strict=True))


def _place(shares: tuple[int, ...], step: int) -> tuple[int, int]:
    """Which block `step` falls into and which of its steps it is; past the end, the last block goes on."""
    for block, share in enumerate(shares):
        if step < share or block == len(shares) - 1:
            return block, step
        step -= share
    return 0, step
