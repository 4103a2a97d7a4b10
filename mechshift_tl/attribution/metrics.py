"""Metrics: aligned logits at the targets `(n, k, d_vocab)`, answers and foils `(n, k)` → one value per row `(n,)`; higher is better."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Metric = Callable[[Tensor, Tensor, Tensor], Tensor]


def logit_diff(logits: Float[Tensor, "n k d_vocab"], answers: Int[Tensor, "n k"], foils: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Mean over the k read positions of logit(answer) − logit(foil), in logits."""
    return (logits.gather(2, answers[..., None]) - logits.gather(2, foils[..., None])).squeeze(2).mean(1)


METRICS: dict[str, Metric] = {"logit_diff": logit_diff}


def resolve(metric: str | Metric) -> tuple[str, Metric]:
    """Name and function of a metric given by either. Raises ValueError on an unknown name."""
    if callable(metric):
        return getattr(metric, "__name__", "custom"), metric
    if metric not in METRICS:
        raise ValueError(
            f"attribute: unknown metric {metric!r}; choose one of {', '.join(METRICS)}, or pass a callable (logits, answers, foils)"
        )
    return metric, METRICS[metric]


def evaluate(metric: Metric, logits: Float[Tensor, "n k d_vocab"], answers: Tensor, foils: Tensor) -> Float[Tensor, " n"]:
    """The metric's values, checked: raises ValueError unless it returns `(n,)`, FloatingPointError on a value that is not finite."""
    values = metric(logits, answers, foils)
    if values.shape != answers.shape[:1]:
        raise ValueError(f"the metric returned shape {tuple(values.shape)} for {answers.shape[0]} rows; it must return one value per row")
    if not torch.isfinite(values).all():
        raise FloatingPointError(f"the metric is not finite for {int((~torch.isfinite(values)).sum())} of {len(values)} rows")
    return values
