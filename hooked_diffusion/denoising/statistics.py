"""Statistics of a trajectory: the order in which tokens were committed, when the model was sure of them, where its attention went.

The model runs once more on every canvas of the trajectory, without guidance. Four tables come of it:

- positions, one line per masked position: `settled`, the first step from which on the model's first choice is the final token, at every
  step up to the commit; `flips`, how often the first choice changed while the position was masked.
- steps, one line per step and group of positions ("masked" or "visible" at that step): probability and entropy of the prediction, and how
  often the first choice is the final token.
- attention, one line per step, layer and group of queries: `sink`, the attention on the row's first visible token; `to_masked`, the
  attention on masked keys; `drift`, the total variation distance to the pattern of the step before. All are means over heads, then over
  queries, in [0, 1].
- orders, one line per row: Kendall's τ-b between commit step and position. 1 is an order from left to right, −1 from right to left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import kendalltau
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from hooked_diffusion.attention import position_ids
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.record import DenoisingRecord
from hooked_diffusion.denoising.trajectory_statistics import TrajectoryStatistics
from hooked_diffusion.gradients import NamedHooks
from hooked_diffusion.progress import progress_bar

NEVER = -1
#: One line of a table, by column.
Line = dict[str, int | float | str]


def measure(model: DenoisingModel, trajectory: DenoisingRecord, *, attention: bool = True) -> TrajectoryStatistics:
    """The tables of a trajectory, at the cost of one forward per canvas. Call it under the same `model.attention(…)` as the run."""
    predictions, seen = run_again(model, trajectory, attention=attention)
    steps = step_table(trajectory, predictions, model.spec.logit_shift)
    return TrajectoryStatistics(order_table(trajectory), position_table(trajectory, predictions), steps, pd.DataFrame(seen))


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the model predicts on each step's canvas, all `(steps, batch, pos)`.

    `top` is the first choice, `confidence` its probability, `final` the probability of the final token (both in [0, 1]), `entropy` the
    entropy of the prediction in nats.
    """

    top: Int[Tensor, "steps batch pos"]
    confidence: Float[Tensor, "steps batch pos"]
    final: Float[Tensor, "steps batch pos"]
    entropy: Float[Tensor, "steps batch pos"]


@torch.no_grad()
def run_again(model: DenoisingModel, trajectory: DenoisingRecord, *, attention: bool = True) -> tuple[Predictions, list[Line]]:
    """Predictions on every canvas, and the lines of the attention table (none without `attention`).

    Memory: `attention` keeps the patterns of one step, `layers × batch × heads × pos²` numbers, to measure the drift from.
    """
    predicted: list[tuple[Tensor, ...]] = []
    patterns = PatternReader(trajectory.visible)
    with progress_bar(trajectory.steps, "measuring", "step") as bar:
        for step in range(trajectory.steps):
            bar.update()
            canvas, masked = trajectory.canvases[step], trajectory.masked_at(step)
            if step and torch.equal(canvas, trajectory.canvases[step - 1]):
                # The step before committed nothing: the same forward again would give the same numbers.
                predicted.append(predicted[-1])
                patterns.repeat(step)
                continue
            with model.hooks(fwd_hooks=patterns.hooks(model.cfg.n_layers, step, masked) if attention else []):
                logits = model.token_logits(canvas, attention_mask=trajectory.attention_mask)
            predicted.append(_read(logits, trajectory.tokens))
    return Predictions(*(torch.stack(values) for values in zip(*predicted, strict=True))), patterns.lines


def _read(logits: Float[Tensor, "batch pos d_vocab"], final: Int[Tensor, "batch pos"]) -> tuple[Tensor, ...]:
    """First choice, its probability, the final token's probability and the entropy, each `(batch, pos)`."""
    log_probs = logits.float().log_softmax(-1)
    best = log_probs.max(-1)
    # A token that a hook has ruled out has log p = −∞; 0 · −∞ would be NaN.
    entropy = -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(-1)
    return best.indices, best.values.exp(), log_probs.gather(-1, final[..., None])[..., 0].exp(), entropy


class PatternReader:
    """Measures attention patterns as they pass, step by step. `lines` are those of the attention table so far."""

    def __init__(self, visible: Bool[Tensor, "batch pos"]):
        self.visible = visible
        self.first = visible.long().argmax(1)
        self.lines: list[Line] = []
        self._before: dict[int, Tensor] = {}

    def hooks(self, n_layers: int, step: int, masked: Bool[Tensor, "batch pos"]) -> NamedHooks:
        """The hooks that read every layer's pattern at one step."""
        return [(f"blocks.{layer}.attn.hook_pattern", partial(self._measure, step, layer, masked)) for layer in range(n_layers)]

    def repeat(self, step: int) -> None:
        """A step on the same canvas as the one before: the same lines, and no drift."""
        self.lines += [{**line, "step": step, "drift": 0.0} for line in self.lines if line["step"] == step - 1]

    def _measure(
        self, step: int, layer: int, masked: Bool[Tensor, "batch pos"], pattern: Float[Tensor, "batch head query key"], hook: HookPoint
    ) -> None:
        """Add a layer's lines, and keep its pattern for the next step."""
        over_heads = pattern.float().mean(1)
        sink = over_heads.gather(2, self.first[:, None, None].expand(-1, over_heads.shape[1], 1))[..., 0]
        to_masked = (over_heads * masked[:, None]).sum(-1)
        before = self._before.get(layer)
        # Half the sum of absolute differences is the total variation distance. Per head first: means of heads could hide a change.
        drift = torch.full_like(sink, torch.nan) if before is None else (pattern - before).abs().sum(-1).mean(1).float() / 2
        # A copy: a later hook may write into the pattern.
        self._before[layer] = pattern.detach().clone()
        for group, queries in _groups(masked, self.visible):
            line: Line = {"step": step, "layer": layer, "queries": group}
            self.lines.append(line | {"sink": _mean(sink, queries), "to_masked": _mean(to_masked, queries), "drift": _mean(drift, queries)})


def _groups(masked: Bool[Tensor, "batch pos"], visible: Bool[Tensor, "batch pos"]) -> Iterable[tuple[str, Bool[Tensor, "batch pos"]]]:
    return ("masked", masked), ("visible", visible & ~masked)


def _mean(values: Float[Tensor, "batch pos"], where: Bool[Tensor, "batch pos"]) -> float:
    """Mean over the group; NaN when the group is empty."""
    return float(values[where].mean())


def position_table(trajectory: DenoisingRecord, predictions: Predictions) -> pd.DataFrame:
    """One line per masked position: row, pos, step of commit, token, confidence at the commit, `settled` and `flips` (module docstring).

    `settled` is −1 where the token was not the first choice at its commit (a draw), and where nothing was committed.
    """
    steps = torch.arange(trajectory.steps, device=trajectory.tokens.device)[:, None, None]
    until = trajectory.commit_step >= steps  # the steps up to the commit
    wrong = until & (predictions.top != trajectory.tokens)
    # One step after the last wrong first choice. Past the commit, the position never settled.
    settled = torch.where(wrong, steps + 1, 0).amax(0)
    settled = settled.masked_fill((trajectory.commit_step < 0) | (settled > trajectory.commit_step), NEVER)
    # Steps 1 … steps − 1, each compared with the step before. `masked` has one canvas more than there are steps: the result.
    flips = (trajectory.masked[1:-1] & (predictions.top[1:] != predictions.top[:-1])).sum(0)
    row, pos = trajectory.mask_positions.nonzero(as_tuple=True)
    columns = {"step": trajectory.commit_step, "token": trajectory.tokens, "confidence": trajectory.confidence}
    columns |= {"settled": settled, "flips": flips}
    values = {name: value[row, pos].tolist() for name, value in columns.items()}
    return pd.DataFrame({"row": row.tolist(), "pos": pos.tolist(), **values})


def step_table(trajectory: DenoisingRecord, predictions: Predictions, logit_shift: int) -> pd.DataFrame:
    """One line per step and group: `n` positions, mean probability of the first choice and of the final token, entropy, agreement.

    A row's first visible token is left out at logit shift 1, because nothing predicts it. NaN where a group is empty.
    """
    predicted = trajectory.visible & (position_ids(trajectory.visible) >= logit_shift)
    lines: list[Line] = []
    for step in range(trajectory.steps):
        agreed = (predictions.top[step] == trajectory.tokens).float()
        of_step = (("confidence", predictions.confidence), ("final", predictions.final), ("entropy", predictions.entropy))
        for group, members in _groups(trajectory.masked_at(step), trajectory.visible):
            where = members & predicted
            line: Line = {"step": step, "positions": group, "n": int(where.sum())}
            line |= {name: _mean(values[step], where) for name, values in of_step}
            lines.append(line | {"agreement": _mean(agreed, where)})
    return pd.DataFrame(lines)


def order_table(trajectory: DenoisingRecord) -> pd.DataFrame:
    """One line per row with masks: commits, Kendall's τ-b of commit step and position in [−1, 1], its two-sided p-value.

    NaN where there is no order: fewer than two commits, or all commits in one step.
    """
    lines: list[Line] = []
    for row in trajectory.mask_positions.any(1).nonzero()[:, 0].tolist():
        pos = (trajectory.mask_positions[row] & (trajectory.commit_step[row] >= 0)).nonzero()[:, 0]
        tau = p_value = float("nan")
        if len(pos) > 1:
            tau, p_value = map(float, kendalltau(pos.tolist(), trajectory.commit_step[row, pos].tolist()))
        lines.append({"row": row, "commits": len(pos), "tau": tau, "p_value": p_value})
    return pd.DataFrame(lines)
