"""Metrics: one number per row that says how strongly the model shows a behaviour; higher is better.

A metric maps aligned logits at the targets `(n, k, d_vocab)`, answers and foils `(n, k)` to `(n,)`, the mean over the k read positions:

- "logit_diff": logit(answer) − logit(foil), in logits;
- "prob_diff": p(answer) − p(foil), in [−1, 1];  "log_prob": log p(answer), in nats, at most 0;
- "kl": −KL(p_clean ‖ p), in nats, at most 0: how close the run stays to the clean one. Its gradient vanishes at the clean run.

Any callable of that signature is a metric too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.readouts import Batch

MetricFunction: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True)
class Metric:
    """A metric by name. `needs_clean`: the function takes the clean run's logits as a fourth argument."""

    name: str
    function: MetricFunction
    needs_clean: bool = False

    @property
    def identity(self) -> str:
        """The metric's name; for a function of the caller's own, also a digest of its code, since two functions may share a name."""
        code = getattr(self.function, "__code__", None)
        if METRICS.get(self.name) == self or code is None:
            return self.name
        # Values that the function closes over change what it computes, and its code stays the same.
        cells = [cell.cell_contents for cell in getattr(self.function, "__closure__", None) or ()]
        constants = [one for one in (*code.co_consts, *cells) if isinstance(one, (int, float, str, tuple))]
        return f"{self.name} {sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()[:16]}"

    def values(self, logits: Float[Tensor, "n k d_vocab"], batch: Batch, clean: Float[Tensor, "n k d_vocab"] | None = None) -> Tensor:
        """The metric of each row, `(n,)`; `clean` are the clean run's logits, needed where `needs_clean`.

        Raises ValueError unless the function returns one value per row, FloatingPointError on a value that is not finite.
        """
        against = (clean,) if self.needs_clean else ()
        values = self.function(logits, batch.answer_ids, batch.foil_ids, *against)
        if values.shape != batch.answer_ids.shape[:1]:
            raise ValueError(f"metric {self.name!r} returned shape {tuple(values.shape)} for {len(batch)} rows; return one value per row")
        if not torch.isfinite(values).all():
            raise FloatingPointError(f"metric {self.name!r} is not finite for {int((~torch.isfinite(values)).sum())} of {len(batch)} rows")
        return values


def logit_diff(logits: Float[Tensor, "n k d_vocab"], answers: Int[Tensor, "n k"], foils: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Mean over the k read positions of logit(answer) − logit(foil), in logits."""
    return (_at(logits, answers) - _at(logits, foils)).mean(1)


def prob_diff(logits: Float[Tensor, "n k d_vocab"], answers: Int[Tensor, "n k"], foils: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Mean over the k read positions of p(answer) − p(foil), in [−1, 1]."""
    return logit_diff(logits.softmax(-1), answers, foils)


def log_prob(logits: Float[Tensor, "n k d_vocab"], answers: Int[Tensor, "n k"], foils: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Mean over the k read positions of log p(answer), in nats, at most 0; foils do not matter."""
    return _at(logits.log_softmax(-1), answers).mean(1)


def closeness(logits: Tensor, answers: Tensor, foils: Tensor, clean: Float[Tensor, "n k d_vocab"]) -> Float[Tensor, " n"]:
    """Mean over the k read positions of −KL(p_clean ‖ p), in nats, at most 0; answers and foils do not matter."""
    target = clean.log_softmax(-1)
    return -(target.exp() * (target - logits.log_softmax(-1))).sum(-1).mean(1)


METRICS = {
    "logit_diff": Metric("logit_diff", logit_diff),
    "prob_diff": Metric("prob_diff", prob_diff),
    "log_prob": Metric("log_prob", log_prob),
    "kl": Metric("kl", closeness, needs_clean=True),
}
MetricLike: TypeAlias = str | Metric | MetricFunction


def resolve(metric: MetricLike) -> Metric:
    """A metric by its name, a callable as a metric. Raises ValueError on an unknown name."""
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return Metric(getattr(metric, "__name__", "custom"), metric)
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; choose one of {', '.join(METRICS)}, or pass a callable (logits, answers, foils)")
    return METRICS[metric]


def resolve_all(metric: MetricLike | Sequence[MetricLike]) -> list[Metric]:
    """One metric, or several of different names. Raises ValueError when there is none or two share a name."""
    given: Sequence[MetricLike] = metric if isinstance(metric, Sequence) and not isinstance(metric, str) else [metric]
    metrics = [resolve(one) for one in given]
    names = [one.name for one in metrics]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"metrics are {names}; give at least one, each under its own name")
    return metrics


def _at(values: Float[Tensor, "n k d_vocab"], ids: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    return values.gather(2, ids[..., None]).squeeze(2)
