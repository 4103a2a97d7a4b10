"""As many points as completeness asks for, and a warning where there are too few of them.

Along the embeddings' path, what the input carries tends to metric(clean) − metric(corrupt) as points are added (Sundararajan et al.
1703.01365). `gap` is the share of that effect which the mean example may miss. Points are doubled from 5 until it misses no more:
everything is then run again, for no rule with fewer points is a part of one with more. So n points cost fewer than 2n passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mechshift_tl.attribution.path import DEFAULT_STEPS
from mechshift_tl.attribution.settings import AttributionSettings
from mechshift_tl.attribution.totals import Totals

#: A path of 640 points that is still incomplete does not lack points.
DOUBLINGS = 7
#: Points from which node scores are stable.
ENOUGH_FOR_NODES = 10


class Incomplete(RuntimeWarning):
    """A path missed more of the effect than `gap` allows, with as many points as are tried."""


class FewPoints(RuntimeWarning):
    """Node scores integrated over few points: signs of strong ones may be wrong."""


def finer(settings: AttributionSettings) -> Iterator[AttributionSettings]:
    """The settings with more and more points; where they ask for no gap, they alone."""
    if settings.gap is None:
        yield settings
        return
    for i in range(DOUBLINGS + 1):
        yield replace(settings, gap=None, ig_steps=DEFAULT_STEPS * 2**i)


def largest_gap(totals: Sequence[Totals]) -> float:
    """The gap that the mean example is left with, of the metric that is left with most."""
    return max(total.example_gap for total in totals)


def warn_of_gap(gap: float, asked: float) -> None:
    """Say that `gap` is left where `asked` was wanted."""
    text = (
        f"attribute: the path misses {gap:.1%} of the mean example's effect, over gap={asked}, with {DEFAULT_STEPS * 2**DOUBLINGS} points"
    )
    warnings.warn(f"{text}; half precision, or a metric with a step, may leave no less", Incomplete, stacklevel=4)


def warn_of_few_points(settings: AttributionSettings) -> None:
    """Say that node scores need more points than edges: at 5, strong nodes have been seen to change their sign."""
    few = settings.integrates and settings.ig_steps is not None and settings.ig_steps < ENOUGH_FOR_NODES
    if settings.level == "nodes" and few:
        warnings.warn(
            f"attribute: node scores from {settings.ig_steps} points; a node sums all paths through it, so errors that edges share out add "
            f"up, and signs of strong nodes may be wrong: give ig_steps={ENOUGH_FOR_NODES} or more, or gap=0.02",
            FewPoints, stacklevel=3,
        )  # fmt: skip
