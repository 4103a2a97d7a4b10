"""Intervals over prompts: bootstrap percentile intervals of any statistic of one or more attributions.

Prompts are drawn with replacement, the same ones for every attribution, and the statistic is computed on each draw; the interval is the
2.5th to the 97.5th percentile (Efron & Tibshirani 1993).

Bias: a draw holds about 63 % of the prompts, some repeatedly, so its scores are noisier than the sample's own. Two models' circuits
therefore overlap less on most draws than on the sample, the interval of an overlap lies low and may even exclude the value itself
(`Interval.mean` − value is the bias); noise that both models share on a draw pulls the other way. Read it as the spread, and as a cautious
bound from below; do not subtract the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from tqdm.auto import tqdm

from mechshift_tl.attribution.scores import EdgeScores, can_resample
from mechshift_tl.intervals import Interval, intervals


def bootstrap(statistic: Callable[..., Mapping[str, float]], *scores: EdgeScores, n_boot: int = 200, seed: int = 0) -> dict[str, Interval]:
    """95 % percentile intervals over prompts of every value that `statistic(*scores)` names.

    Each draw resamples the examples, the same ones in all of `scores`, which must therefore come from the same examples. Raises ValueError
    when they differ in number, are fewer than two, or have no per-example parts.
    """
    n = scores[0].n_examples
    if any(s.n_examples != n for s in scores):
        raise ValueError(f"paired intervals need the same examples; these come from {', '.join(str(s.n_examples) for s in scores)}")
    if not can_resample(*scores) or n_boot < 1:
        raise ValueError(
            f"n_boot {n_boot}, {n} examples: a bootstrap needs one draw, two examples and scores attributed with keep_per_example=True"
        )
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in tqdm(range(n_boot), desc="bootstrap over prompts", unit="draw", delay=2, leave=False):
        examples = torch.randint(n, (n,), generator=generator)
        draws.append(statistic(*(s.resample(examples) for s in scores)))
    return intervals(draws)
