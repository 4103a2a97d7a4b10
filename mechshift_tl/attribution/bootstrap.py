"""Bootstrap: prompts are drawn anew, and any statistic of one or more attributions is computed on each draw.

Prompts are drawn with replacement, the same ones for every attribution. `interval` makes the draws into a 95 % interval over prompts.

Bias: a draw holds about 63 % of the prompts, some repeatedly, so its scores are noisier than the sample's own. Two models' circuits
therefore overlap less on most draws than on the sample. The interval of an overlap lies low, and may even exclude the value itself
(`Interval.mean` − value is the bias). Noise that both models share on a draw pulls the other way. Read the interval as the spread, and as
a cautious bound from below; do not subtract the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hooked_diffusion.progress import progress_bar
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.intervals import check_draws, drawn_examples

T = TypeVar("T")


def bootstrap(statistic: Callable[..., T], *scores: EdgeScores, n_boot: int = 200, seed: int = 0) -> list[T]:
    """`statistic(*scores)` on each of `n_boot` draws of the examples, the same examples in all of `scores`.

    Raises ValueError unless all scores come from the same number of examples, two or more, and were attributed with
    `keep_per_example=True`.
    """
    n = scores[0].n_examples
    if any(s.n_examples != n for s in scores):
        raise ValueError(f"paired intervals need the same examples; these come from {', '.join(str(s.n_examples) for s in scores)}")
    check_draws(n_boot)
    check_can_resample(*scores)
    found: list[T] = []
    with progress_bar(n_boot, "draws of the prompts", "draw") as bar:
        for examples in drawn_examples(n, n_boot, seed):
            found.append(statistic(*(s.resample(examples) for s in scores)))
            bar.update()
    return found


def can_resample(*scores: EdgeScores) -> bool:
    """Whether all hold per-example parts of at least two examples."""
    return all(s.per_example is not None and s.n_examples > 1 for s in scores)


def check_can_resample(*scores: EdgeScores) -> None:
    """Raise ValueError unless all hold per-example parts of at least two examples."""
    if not can_resample(*scores):
        raise ValueError(f"{scores[0].n_examples} examples: drawing them anew needs two, and scores attributed with keep_per_example=True")
