"""Several models on the same prompts: a statistic of each, and its contrasts, with intervals over prompts that are drawn for all at once.

1. Prompts are weighted: by 1 each (the sample), then by how often each draw with replacement holds them (`prompt_weights`).
2. A statistic of a model is computed for every row of weights: `(1 + n_boot,)`, the sample's value first.
3. `paired` turns such rows of every model into values and percentile intervals, of the models and of the contrasts between them. A draw is
   the same prompts for every model, so what prompts do to all models alike cancels in a contrast.

MDM − control is (MDM − ARM) − (control − ARM): what diffusion changed beyond what training as long without it changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.intervals import check_draws, interval, sample_and_draws

#: Contrasts by name, where a study has both roles.
CONTRASTS = {"MDM − ARM": ("mdm", "arm"), "control − ARM": ("control", "arm"), "MDM − control": ("mdm", "control")}
#: "difference": a − b. "ratio": a / b, for positive quantities whose scale has no meaning.
Contrast = Literal["difference", "ratio"]


def prompt_weights(n: int, n_boot: int, seed: int = 0) -> Float[Tensor, "draws n"]:
    """`(1 + n_boot, n)`: each prompt once, then its count in every draw. Raises ValueError on fewer than two prompts or one draw."""
    if n < 2:
        raise ValueError(f"{n} prompts: an interval over prompts needs at least two; give more prompts")
    check_draws(n_boot)
    return sample_and_draws(n, n_boot, seed)


def paired(values: Mapping[str, Float[Tensor, " draws"]], contrast: Contrast = "difference") -> pd.DataFrame:
    """One row per model and per contrast of models: subject, value, low, high (95 % over prompts).

    `values` holds, by role, a statistic of the sample and of every draw. `contrast` "ratio" divides: then "MDM − ARM" is MDM / ARM.
    """
    subjects = {role: one for role, one in values.items()}
    for name, (a, b) in CONTRASTS.items():
        if a in values and b in values:
            subjects[name] = values[a] - values[b] if contrast == "difference" else values[a] / values[b]
    return pd.DataFrame([{"subject": name, **bounds(one)} for name, one in subjects.items()])


def bounds(values: Float[Tensor, " draws"]) -> dict[str, float]:
    """Value of the sample, with the ends of the interval over the draws that follow it."""
    over = interval(values[1:].tolist())
    return {"value": values[0].item(), "low": over.low, "high": over.high}


def spelled(row: Mapping[str, float], digits: int = 2) -> str:
    """`1.23 [1.10, 1.40]`."""
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]".replace("-", "−")


def mean_over_reads(
    values: Float[Tensor, " reads"], example: Int[Tensor, " reads"], weights: Float[Tensor, "draws n"]
) -> Float[Tensor, " draws"]:
    """Mean over the reads of weighted examples; NaN where a row of weights holds no read."""
    sums = torch.zeros(weights.shape[1], dtype=torch.float64).index_add(0, example, values.double())
    return weights @ sums / (weights @ example.bincount(minlength=weights.shape[1]).double())


def slope_over_reads(
    x: Float[Tensor, " reads"], y: Float[Tensor, " reads"], example: Int[Tensor, " reads"], weights: Float[Tensor, "draws n"]
) -> Float[Tensor, " draws"]:
    """Least-squares slope of y on x over the reads of weighted examples; NaN where x does not vary."""
    x, y = x.double(), y.double()
    mean_x, mean_y, mean_xy, mean_xx = (mean_over_reads(one, example, weights) for one in (x, y, x * y, x * x))
    variance = mean_xx - mean_x**2
    return torch.where(variance > 1e-12, (mean_xy - mean_x * mean_y) / variance, torch.nan)


def where(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows whose columns hold the `wanted` values. Raises KeyError on a column that is not there."""
    for column, value in wanted.items():
        table = cast(pd.DataFrame, table[table[column] == value])
    return table
