"""Where the paper's reading would break: on findings made by hand, whose answer is plain."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
import torch

from mechshift_tl.compare.attention import AttentionComparison
from mechshift_tl.compare.depth_result import KINDS, DepthShares
from mechshift_tl.compare.lens_result import LensComparison
from mechshift_tl.compare.result import CircuitComparison
from mechshift_tl.compare.specialisation import SpecialisationComparison
from mechshift_tl.compare.statistic import Statistic
from mechshift_tl.intervals import Interval
from mechshift_tl.study.answers import Answer, Verdicts
from mechshift_tl.study.conditions import TaskFindings, conditions
from mechshift_tl.study.robustness_result import Baseline, Change, Robustness

NOTHING = Verdicts(())


def task(name: str, dependency: str | None, low: float, high: float, **measured: Any) -> TaskFindings:
    """A task whose overlap of ARM and MDM has this interval."""
    middle = (low + high) / 2
    statistics = {"edge_jaccard": Statistic(middle, Interval(middle, low, high, 200))}
    return TaskFindings(name, dependency, {"mdm": cast(CircuitComparison, SimpleNamespace(statistics=statistics))}, measured)


def met_of(found: Any) -> list[tuple[str, str]]:
    return [(one.mechanism, one.met) for one in found.all]


@pytest.mark.parametrize(
    ("local", "whole", "met"),
    [((0.1, 0.2), (0.3, 0.4), "met"), ((0.3, 0.4), (0.1, 0.2), "not met"), ((0.1, 0.3), (0.2, 0.4), "cannot tell")],
)
def test_overlap_of_a_global_task_beside_a_local_one(local: tuple[float, float], whole: tuple[float, float], met: str) -> None:
    found = conditions([task("ioi", "local", *local), task("countdown", "global", *whole), task("mine", None, 0, 1)], NOTHING)
    assert met_of(found) == [("kept or rewired", met)] and found.all[0].tasks == "ioi, countdown"


@pytest.mark.parametrize(("answer", "met"), [("yes", "not met"), ("no", "met"), ("cannot tell", "cannot tell")])
def test_the_early_share_of_a_global_task(answer: str, met: str) -> None:
    verdicts = Verdicts((Answer("countdown", "mdm", "front_loaded", answer, 0.01, "so and so"),))
    assert met_of(conditions([task("countdown", "global", 0.1, 0.2)], verdicts)) == [("front-loading", met)]


def depth(name: str, gain: float, spread: float) -> DepthShares:
    """Shares of two layers; the MDM's early share exceeds the control's by `gain`, and by `gain ± spread` on draws."""
    early = torch.full((41, len(KINDS), 3, 1), 0.3)
    early[:, :, 1] += gain + torch.linspace(-spread, spread, 41)[:, None, None]
    return DepthShares(name, ("arm", "mdm", "control"), 1, torch.cat([early, 1 - early], -1), {}, 20)


@pytest.mark.parametrize(("local", "answer", "met"), [(0.0, "no", "not met"), (0.3, "yes", "met"), (0.3, "cannot tell", "cannot tell")])
def test_a_rise_on_the_global_task_alone(local: float, answer: str, met: str) -> None:
    tasks = [
        task("ioi", "local", 0.1, 0.4, depth=depth("ioi", local, 0.05)),
        task("countdown", "global", 0.1, 0.4, depth=depth("countdown", 0.3, 0.05)),
    ]
    verdicts = Verdicts((Answer("ioi", "mdm", "front_loaded", answer, 0.01, ""),))
    assert met_of(conditions(tasks, verdicts))[1:] == [("front-loading", met)]


@pytest.mark.parametrize(
    ("variance", "naming", "met"), [((1.1, 1.4), (-9, -2), "met"), ((0.5, 0.8), (-9, -2), "not met"), ((0.8, 1.4), (-9, -2), "cannot tell")]
)
def test_variance_as_high_with_fewer_components(variance: tuple[float, float], naming: tuple[float, float], met: str) -> None:
    rows = [
        {"scope": "all steps together", "statistic": name, "subject": subject, "value": sum(ends) / 2, "low": ends[0], "high": ends[1]}
        for subject in ("mdm", "MDM − ARM")
        for name, ends in (("effect_variance", variance), ("naming", naming))
    ]
    found = SpecialisationComparison(pd.DataFrame(rows), pd.DataFrame(), 0.1, 20, 30, 100, 0)
    one = replace(task("ioi", "local", 0.1, 0.2), measured={"specialisation": found})
    assert met_of(conditions([one], NOTHING)) == [("distribution", met)]


def test_figures_are_spelled_with_their_intervals() -> None:
    found = conditions([task("ioi", "local", 0.1, 0.2), task("countdown", "global", 0.3, 0.4)], NOTHING)
    assert found.all[0].figures == "J ARM→MDM 0.350 [0.300, 0.400] on countdown, 0.150 [0.100, 0.200] on ioi"
    assert list(found.to_dataframe()["met"]) == ["met"] and "<table" in found._repr_html_()


@pytest.mark.parametrize(("seed", "met"), [(0.5, "met"), (0.32, "not met")])
def test_overlap_that_moves_with_the_seed(seed: float, met: str) -> None:
    over = Interval(0.3, 0.2, 0.4, 9)
    bases = tuple(Baseline(role, jaccard, over, 0.1, over) for role, jaccard in (("mdm", 0.3), ("control", 0.4)))
    one = task("ioi", "local", 0.1, 0.2, robustness=Robustness(bases, (Change("seed", "1", "mdm", seed, 0.1),), {}, 9))
    assert met_of(conditions([one], NOTHING)) == [("failure sign", met)]


@pytest.mark.parametrize(("entropy", "met"), [(0.95, "met"), (0.5, "not met")])
def test_a_lens_that_is_flat(entropy: float, met: str) -> None:
    rows = [{"depth": 1, "statistic": "entropy", "subject": role, "value": entropy * math.log(8)} for role in ("arm", "mdm")]
    lens = LensComparison({}, pd.DataFrame(), pd.DataFrame(rows), pd.DataFrame(), {}, pd.DataFrame(), 8, 9, 0, 9, 0)
    one = task("ioi", "local", 0.1, 0.2, lens_of_sets=lens)
    assert met_of(conditions([one], NOTHING)) == [("failure sign", met)]


@pytest.mark.parametrize(("low", "met"), [(0.1, "not met"), (-0.1, "met")])
def test_early_heads_that_attend_alike(low: float, met: str) -> None:
    heads = ["a0.h0", "a0.h1", "a1.h0"]
    rows = [
        {"queries": "all", "head": head, "statistic": "evenness", "subject": "MDM − ARM", "value": 0.2, "low": low, "high": 0.3}
        for head in heads
    ]
    attention = AttentionComparison(pd.DataFrame(rows), {"arm": [], "mdm": []}, heads, torch.zeros(2, 3, 1, 1), {}, 9, 9, 0)
    one = task("countdown", "global", 0.1, 0.2, attention=attention, depth=depth("countdown", 0.3, 0.05))
    (found,) = conditions([one], NOTHING).all
    assert found.met == met and "of 2 early heads" in found.figures
