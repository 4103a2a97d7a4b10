"""Which positions a step may commit, and how many it commits in each row.

1. A row's masks are cut, in order, into blocks of `block_length`; without it the row is one block.
2. Each block has an equal share of the steps. A step may commit masks of its block and, where some stayed open, of earlier ones.
3. Within the block the schedule says how many. Rows do not know of each other: a row's quotas are those it would have alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_diffusion.denoising.schedules import commits_per_step, quota
from hooked_diffusion.denoising.settings import DenoisingSettings


@dataclass(frozen=True)
class Plan:
    """The plan of one run: `block_of (batch, pos)` numbers each mask's block, `masks` and `blocks` count them per row."""

    settings: DenoisingSettings
    steps: int
    block_of: Int[Tensor, "batch pos"]
    masks: tuple[int, ...]
    blocks: tuple[int, ...]

    @classmethod
    def make(cls, mask_positions: Bool[Tensor, "batch pos"], settings: DenoisingSettings) -> Plan:
        """Plan the masks of a canvas; `steps` defaults to the largest number of masks in a row.

        Raises ValueError when `block_length` does not divide a row's masks, or its number of blocks the steps.
        """
        masks = tuple(mask_positions.sum(1).tolist())
        steps, length = settings.steps or max(masks), settings.block_length
        for row, n in enumerate(masks):
            if length and n % length:
                raise ValueError(f"block_length {length} does not divide the {n} masks of row {row}")
            if length and n and steps % (n // length):
                raise ValueError(f"{steps} steps cannot be shared equally by the {n // length} blocks of row {row}; choose a multiple")
        rank = (mask_positions.cumsum(1) - 1).clamp(min=0)
        blocks = tuple(max(1, n // length) if length else 1 for n in masks)
        return cls(settings, steps, rank // length if length else torch.zeros_like(rank), masks, blocks)

    def at(self, step: int, masked: Bool[Tensor, "batch pos"]) -> tuple[Bool[Tensor, "batch pos"], list[int]]:
        """Where `step` may commit, given what is masked now, and the number it commits in each row."""
        shares = [self.steps // blocks for blocks in self.blocks]
        current = torch.tensor([step // share for share in shares], device=masked.device)
        open_ = masked & (self.block_of <= current[:, None])
        quotas = [
            quota(self.settings.schedule, self._per_block(row), left, step % shares[row], shares[row], self.settings.eps)
            for row, left in enumerate(open_.sum(1).tolist())
        ]
        return open_, quotas

    def check_causal(self) -> None:
        """Raise ValueError unless the plan is one a causal model can follow: from left to right, one position per step."""
        if self.settings.select != "left_to_right":
            raise ValueError(f'a causal model cannot see past a mask: use select="left_to_right", not {self.settings.select!r}')
        for row, share in enumerate(self.steps // blocks for blocks in self.blocks):
            most = max(commits_per_step(self.settings.schedule, self._per_block(row), share, self.settings.eps))
            if most > 1:
                raise ValueError(
                    f"a causal model commits one token per step, but {self.steps} steps ({self.settings.schedule}) commit {most} at once "
                    f'in row {row}, which has {self.masks[row]} masks; use schedule="even" with at least as many steps'
                )

    def _per_block(self, row: int) -> int:
        return self.masks[row] // self.blocks[row]
