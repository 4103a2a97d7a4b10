"""Where a step may commit, and how many positions it commits in each row.

1. The masks are cut into blocks, which are finished from left to right.
   - Without a `block_length` a row is one block.
   - With one, a row's masks are cut, in order, into blocks of that many (LLaDA, dllm); the last may be shorter.
   - A block-causal model cannot see past the blocks of its attention. Those lie on the canvas, counted from the first visible token; they
     are the blocks, or `block_length` cuts them further (Fast-dLLM v2's small blocks).
   - A block-causal model with logit shift 1 reads a token off the position before. So the first position of an attention block is predicted
     by the finished block before it, and by nothing in its own block. It is a block by itself, a *lead*, committed before the rest, as
     Fast-dLLM v2 does.
2. Each block has a share of the steps. Without `steps` a block has as many as it has masks; with `steps` all blocks have an equal part, and
   the first blocks one more where the division leaves a remainder. A lead has one step.
3. A step may commit masks of its block, and masks of earlier blocks that are still there.
4. Within the block the schedule says how many. The last step of a block commits all that is open, unless masks go by token
   (`masked_by_token`, as in the samplers of Dream and LLaDA): there a position that commits the mask id stays masked.

Rows are independent: a row has the quotas that it would have alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from hooked_diffusion.attention import position_ids, visible_tokens
from hooked_diffusion.denoising.schedules import commits_per_step, quota
from hooked_diffusion.denoising.settings import DenoisingSettings
from hooked_diffusion.spec import DiffusionSpec


@dataclass(frozen=True)
class Blocks:
    """The blocks of a canvas.

    - `number (batch, pos)`: the block of each mask, from 0 in every row.
    - `masks[row][block]`: how many masks a block has.
    - `lead[row][block]`: True where a block is a lead.
    """

    number: Int[Tensor, "batch pos"]
    masks: tuple[tuple[int, ...], ...]
    lead: tuple[tuple[bool, ...], ...]


def cut(masked: Bool[Tensor, "batch pos"], visible: Bool[Tensor, "batch pos"], spec: DiffusionSpec, block_length: int | None) -> Blocks:
    """The blocks of a canvas. Raises ValueError when `block_length` does not divide the blocks that the attention has."""
    # The number of each mask within its row, from 0.
    order = masked.cumsum(1) - 1
    key, lead = order // block_length if block_length else torch.zeros_like(order), torch.zeros_like(masked)
    if spec.block_length is not None:
        length = block_length or spec.block_length
        if spec.block_length % length:
            raise ValueError(f"block_length {length} does not divide the {spec.block_length} positions of the model's attention blocks")
        place = position_ids(visible)
        lead = (place % spec.block_length == 0) & (spec.logit_shift == 1)
        key = 2 * (place // length) + (~lead).long()  # a lead sorts before the rest of its block
    number, counts, leads = torch.zeros_like(key), [], []
    for row in range(len(masked)):
        at = masked[row]
        # `unique` numbers the blocks from 0 without gaps: a block that holds no mask gets no number and no steps.
        _, number[row, at], count = key[row, at].unique(return_inverse=True, return_counts=True)
        counts.append(tuple(count.tolist()))
        leads.append(tuple(bool((lead[row, at] & (number[row, at] == block)).any()) for block in range(len(count))))
    return Blocks(number, tuple(counts), tuple(leads))


@dataclass(frozen=True)
class Plan:
    """The plan of one run: `shares[row][block]` is how many steps a block has, `steps` how many the run has (those of the longest row)."""

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
        """Plan the masks of a canvas. Raises ValueError when there are fewer steps than blocks, and when the blocks are impossible."""
        blocks = cut(masked, visible_tokens(masked, visible), spec or DiffusionSpec(), settings.block_length)
        shares = tuple(_shares(row, *parts, settings.steps) for row, parts in enumerate(zip(blocks.masks, blocks.lead, strict=True)))
        return cls(settings, blocks, shares, settings.steps or max(map(sum, shares)))

    def block_at(self, step: int) -> Int[Tensor, " batch"]:
        """`(batch,)`: which block each row denoises at `step`."""
        return torch.tensor([_place(shares, step)[0] for shares in self.shares], device=self.blocks.number.device)

    def reach(self, step: int, masked: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """`(batch, pos)`: where `step` may commit, given what is masked now."""
        return masked & (self.blocks.number <= self.block_at(step)[:, None])

    def quotas(self, step: int, open_: Bool[Tensor, "batch pos"], generator: Generator | None = None) -> list[int]:
        """`[batch]`: how many of the open positions `step` commits in each row. Only the "bernoulli" schedule draws from `generator`."""
        left = open_.sum(1).tolist()
        return [self._quota(row, *_place(shares, step), left[row], generator) for row, shares in enumerate(self.shares)]

    def canvases(self, masked: Bool[Tensor, "batch pos"], at_steps: Collection[int]) -> int:
        """How many different canvases `at_steps` start from, if nothing is forced; an upper bound where the number of commits is drawn."""
        if self.settings.schedule == "bernoulli" or self.settings.remask:
            return len(at_steps)
        # Follow the plan, as if it committed the leftmost positions: which ones they are does not change how many canvases there are.
        seen, fresh = 0, True
        for step in range(self.steps):
            seen, fresh = seen + (fresh and step in at_steps), fresh and step not in at_steps
            open_ = self.reach(step, masked)
            quotas = torch.tensor(self.quotas(step, open_), device=masked.device)
            masked = masked & ~(open_ & (open_.cumsum(1) <= quotas[:, None]))
            fresh = fresh or bool(quotas.any())
        return seen

    def check_causal(self) -> None:
        """Raise ValueError unless a causal model can follow the plan: from left to right, one position per step."""
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
        # All that is left, not what the schedule says: freezing or rounding may have left more.
        if at >= share - 1 and not by_token:
            return left
        # The block's steps are over, and masks that are still there stay.
        if at >= share:
            return 0
        return quota(self.settings.schedule, self.blocks.masks[row][block], left, at, share, self.settings.eps, generator)


def _shares(row: int, masks: tuple[int, ...], lead: tuple[bool, ...], steps: int | None) -> tuple[int, ...]:
    if steps is None:
        return masks
    rest, wide = steps - sum(lead), lead.count(False)
    if rest < wide or steps < len(masks):
        raise ValueError(f"{steps} steps are fewer than the {len(masks)} blocks of row {row}; give at least one step per block")
    # Leads take their one step first; the other blocks share the rest. A row of leads alone has no other block to divide by.
    each, more = divmod(rest, max(wide, 1))
    wide_before = [sum(not is_lead for is_lead in lead[:block]) for block in range(len(lead))]
    return tuple(1 if is_lead else each + (before < more) for is_lead, before in zip(lead, wide_before, strict=True))


def _place(shares: tuple[int, ...], step: int) -> tuple[int, int]:
    """Which block `step` falls into, and which of the block's steps it is; past the end, the last block goes on."""
    for block, share in enumerate(shares):
        if step < share or block == len(shares) - 1:
            return block, step
        step -= share
    return 0, step
