"""What a trajectory shows, in numbers: in which order tokens were committed, when the model made up its mind, where it looked.

The model is run once more on every canvas of the trajectory (without guidance), and at each step k three tables are filled:

- positions, one line per masked position: `settled`, the first step from which on the token it ends with is the model's first choice at
  every step up to its commit; `flips`, how often the first choice changed while the position was masked.
- steps, one line per step and group of positions, "masked" or "visible" at that step: probability and entropy of the prediction, and how
  often the first choice is the token the position ends with.
- attention, one line per step, layer and group of queries: the mass on the sink (the row's first visible token), the mass on masked keys,
  and the drift, the total variation distance to the pattern of the step before; means over heads, then over queries.

Kendall's τ-b between commit step and position says how far the order was from left to right (1) or from right to left (−1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import kendalltau
from torch import Tensor
from tqdm.auto import tqdm

from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.record import DenoisingRecord
from hooked_diffusion.denoising.trajectory_statistics import TrajectoryStatistics

NEVER = -1


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the model predicts on each step's canvas, all `(steps, batch, pos)`.

    `top` is the first choice, `confidence` its probability and `final` that of the token the position ends with, both in [0, 1];
    `entropy` in nats.
    """

    top: Int[Tensor, "steps batch pos"]
    confidence: Float[Tensor, "steps batch pos"]
    final: Float[Tensor, "steps batch pos"]
    entropy: Float[Tensor, "steps batch pos"]


def measure(model: DenoisingModel, trajectory: DenoisingRecord, *, attention: bool = True) -> TrajectoryStatistics:
    """The tables of a trajectory, one forward per canvas. Run it under the same `model.attention(…)` as the trajectory."""
    predictions, seen = run_again(model, trajectory, attention=attention)
    steps = step_table(trajectory, predictions, model.spec.logit_shift)
    return TrajectoryStatistics(order_table(trajectory), position_table(trajectory, predictions), steps, seen.reset_index(drop=True))


@torch.no_grad()
def run_again(model: DenoisingModel, trajectory: DenoisingRecord, *, attention: bool = True) -> tuple[Predictions, pd.DataFrame]:
    """Predictions on every canvas and the attention table (empty without `attention`): one forward per canvas.

    Memory: `attention` keeps one step's patterns, `layers × batch × heads × pos²` numbers, to measure drift against.
    """
    predicted: list[tuple[Tensor, ...]] = []
    lines: list[pd.DataFrame] = []
    before: dict[int, Tensor] = {}
    for step in tqdm(range(trajectory.steps), desc="measuring", unit="step", disable=None, delay=2, leave=False):
        canvas, masked = trajectory.canvases[step], trajectory.masked_at(step)
        if step and torch.equal(canvas, trajectory.canvases[step - 1]):
            predicted.append(predicted[-1])
            lines += [lines[-1].assign(step=step, drift=0.0)] if attention else []
            continue
        table: list[dict[str, Any]] = []
        watch = partial(_look, trajectory.visible, masked, before, table, step)
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)] if attention else []
        with model.hooks(fwd_hooks=[(name, partial(_at_layer, watch, layer)) for layer, name in enumerate(names)]):
            logits = model.token_logits(canvas, attention_mask=trajectory.attention_mask)
        predicted.append(_read(logits, trajectory.tokens))
        lines.append(pd.DataFrame(table))
    return Predictions(*(torch.stack(values) for values in zip(*predicted, strict=True))), pd.concat(lines or [pd.DataFrame()])


def _read(logits: Float[Tensor, "batch pos d_vocab"], final: Int[Tensor, "batch pos"]) -> tuple[Tensor, ...]:
    log_probs = logits.float().log_softmax(-1)
    best = log_probs.max(-1)
    entropy = -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(-1)
    return best.indices, best.values.exp(), log_probs.gather(-1, final[..., None])[..., 0].exp(), entropy


def _at_layer(watch: Callable[[Tensor, int], None], layer: int, pattern: Tensor, hook: Any) -> None:
    watch(pattern, layer)


def _look(
    visible: Bool[Tensor, "batch pos"],
    masked: Bool[Tensor, "batch pos"],
    before: dict[int, Tensor],
    table: list[dict[str, Any]],
    step: int,
    pattern: Float[Tensor, "batch head query key"],
    layer: int,
) -> None:
    """One layer's lines of the attention table; leaves the pattern behind for the next step."""
    over_heads = pattern.float().mean(1)
    sink = over_heads.gather(2, visible.long().argmax(1)[:, None, None].expand(-1, over_heads.shape[1], 1))[..., 0]
    to_masked = (over_heads * masked[:, None]).sum(-1)
    drift = (pattern - before[layer]).abs().sum(-1).mean(1).float() / 2 if layer in before else torch.full_like(sink, torch.nan)
    before[layer] = pattern.detach().clone()
    for group, queries in _groups(masked, visible).items():
        means = {name: _mean(value, queries) for name, value in (("sink", sink), ("to_masked", to_masked), ("drift", drift))}
        table.append({"step": step, "layer": layer, "queries": group, **means})


def _groups(masked: Bool[Tensor, "batch pos"], visible: Bool[Tensor, "batch pos"]) -> dict[str, Bool[Tensor, "batch pos"]]:
    return {"masked": masked, "visible": visible & ~masked}


def _mean(values: Float[Tensor, "batch pos"], where: Bool[Tensor, "batch pos"]) -> float:
    """Mean over the group; NaN when it is empty."""
    return float(values[where].mean())


def position_table(trajectory: DenoisingRecord, predictions: Predictions) -> pd.DataFrame:
    """One line per masked position: row, pos, token, step of commit, confidence there, `settled` and `flips` (module docstring).

    `settled` is −1 where the token was never the first choice at its commit (a draw), or nothing was committed.
    """
    steps = torch.arange(trajectory.steps, device=trajectory.tokens.device)[:, None, None]
    until = trajectory.commit_step >= steps  # the steps up to the commit
    wrong = until & (predictions.top != trajectory.tokens)
    settled = torch.where(wrong, steps + 1, 0).amax(0)
    settled = settled.masked_fill((trajectory.commit_step < 0) | (settled > trajectory.commit_step), NEVER)
    flips = (trajectory.masked[1:-1] & (predictions.top[1:] != predictions.top[:-1])).sum(0)
    row, pos = trajectory.mask_positions.nonzero(as_tuple=True)
    columns = {"step": trajectory.commit_step, "token": trajectory.tokens, "confidence": trajectory.confidence}
    columns |= {"settled": settled, "flips": flips}
    values = {name: value[row, pos].tolist() for name, value in columns.items()}
    return pd.DataFrame({"row": row.tolist(), "pos": pos.tolist(), **values})


def step_table(trajectory: DenoisingRecord, predictions: Predictions, logit_shift: int) -> pd.DataFrame:
    """One line per step and group: positions in it, mean probability of the first choice and of the final token, entropy, agreement.

    A row's first visible token, which nothing predicts at logit shift 1, is left out there. NaN where a group is empty.
    """
    predicted = trajectory.visible & (trajectory.visible.long().cumsum(1) > logit_shift)
    lines = []
    for step in range(trajectory.steps):
        for group, where in _groups(trajectory.masked_at(step), trajectory.visible).items():
            where = where & predicted
            line: dict[str, Any] = {"step": step, "positions": group, "n": int(where.sum())}
            line |= {name: _mean(getattr(predictions, name)[step], where) for name in ("confidence", "final", "entropy")}
            lines.append({**line, "agreement": _mean((predictions.top[step] == trajectory.tokens).float(), where)})
    return pd.DataFrame(lines)


def order_table(trajectory: DenoisingRecord) -> pd.DataFrame:
    """One line per row with masks: commits, Kendall's τ-b of commit step and position in [−1, 1], its two-sided p-value.

    NaN where fewer than two commits, or all in one step, leave no order.
    """
    lines = []
    for row in trajectory.mask_positions.any(1).nonzero()[:, 0].tolist():
        pos = (trajectory.mask_positions[row] & (trajectory.commit_step[row] >= 0)).nonzero()[:, 0]
        found: Any = kendalltau(pos.tolist(), trajectory.commit_step[row, pos].tolist()) if len(pos) > 1 else None
        tau, p_value = (float("nan"), float("nan")) if found is None else (float(found.statistic), float(found.pvalue))
        lines.append({"row": row, "commits": len(pos), "tau": tau, "p_value": p_value})
    return pd.DataFrame(lines)
