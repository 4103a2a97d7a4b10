"""Claims hold numbers against their bounds."""

import dataclasses

import pytest

from mechshift_tl.compare.result import Statistic
from mechshift_tl.intervals import Interval
from mechshift_tl.study import claims


def with_interval(comparison, name, low, high):
    changed = {name: Statistic(comparison.statistics[name].value, Interval(0.0, low, high, 10))}
    return dataclasses.replace(comparison, statistics=comparison.statistics | changed)


@pytest.mark.parametrize(
    ("mdm", "control", "supported"), [((0.1, 0.2), (0.3, 0.4), True), ((0.1, 0.3), (0.3, 0.4), False), ((0.5, 0.6), (0.3, 0.4), False)]
)
def test_fewer_edges_than_the_control_only_when_intervals_are_apart(task_study, mdm, control, supported):
    bounds = {"mdm": mdm, "control": control}
    comparisons = {role: with_interval(c, "edge_jaccard", *bounds[role]) for role, c in task_study.comparisons.items()}
    claim = claims.overlap_claim(dataclasses.replace(task_study, comparisons=comparisons))
    assert claim is not None
    assert claim.supported is supported and claim.head == ("Supported" if supported else "Not supported")
    assert f"{mdm[0]:.3f} to {mdm[1]:.3f}" in claim.evidence


def test_nothing_is_claimed_without_intervals_or_control(without_control, task_study):
    (alone,) = without_control.tasks.values()
    assert claims.overlap_claim(alone) is None
    (depth,) = claims.depth_claims(alone)
    assert not depth.supported and "no interval over prompts" in depth.evidence
    bare = dict.fromkeys(("mdm", "control"), alone.comparisons["mdm"])
    unbounded = claims.overlap_claim(dataclasses.replace(task_study, comparisons=bare))
    assert unbounded is not None and not unbounded.supported


@pytest.mark.parametrize(("low", "high", "supported"), [(0.01, 0.2, True), (-0.2, -0.01, True), (-0.1, 0.1, False)])
def test_the_early_share_differs_when_its_change_excludes_zero(task_study, low, high, supported):
    comparisons = {"mdm": with_interval(task_study.comparisons["mdm"], "early_share_shift", low, high)}
    (claim,) = claims.depth_claims(dataclasses.replace(task_study, comparisons=comparisons))
    assert claim.supported is supported and f"{high:+.3f}".replace("-", "−") in claim.evidence


def test_neurons_are_held_against_the_largest_by_chance(task_study):
    one = task_study.neurons["arm"]
    for point, beyond in ((0.0, int((one.selectivity > 0).sum())), (1.0, 0)):
        held = dataclasses.replace(task_study, neurons={"arm": dataclasses.replace(one, null_max_95=point)})
        (claim,) = claims.neuron_claims(held)
        assert claim.supported is (beyond > 0) and claim.evidence.startswith(f"{beyond} of {len(one.selectivity)} neurons")
