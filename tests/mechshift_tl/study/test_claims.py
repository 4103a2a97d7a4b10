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
    ("mdm", "control", "said"),
    [
        ((0.1, 0.2), (0.3, 0.4), "The MDM shares fewer"),
        ((0.1, 0.3), (0.3, 0.4), "No difference is shown"),
        ((0.5, 0.6), (0.3, 0.4), "The MDM shares more"),
    ],
)
def test_a_claim_says_what_was_found(task_study, mdm, control, said):
    bounds = {"mdm": mdm, "control": control}
    comparisons = {role: with_interval(c, "edge_jaccard", *bounds[role]) for role, c in task_study.comparisons.items()}
    claim = claims.overlap_claim(dataclasses.replace(task_study, comparisons=comparisons))
    assert claim is not None
    supported = said.startswith("The MDM")
    assert claim.statement.startswith(said) and claim.supported is supported
    assert claim.head == ("Supported" if supported else "Not supported")
    assert f"{mdm[0]:.3f} to {mdm[1]:.3f}" in claim.evidence


def test_nothing_is_claimed_without_intervals_or_control(without_control, task_study):
    (alone,) = without_control.tasks.values()
    assert claims.overlap_claim(alone) is None
    bare = dict.fromkeys(("mdm", "control"), alone.comparisons["mdm"])
    unbounded = claims.overlap_claim(dataclasses.replace(task_study, comparisons=bare))
    assert unbounded is not None and not unbounded.supported


def test_findings_are_taken_apart():
    found = claims.claims_in(
        "n = 20 prompts. Not supported: it sharpens (0.1 [0.0, 0.2] nats a step). Supported: “a” moved, 3.5 of 4. All of 7."
    )
    assert found.described == ["n = 20 prompts.", "All of 7."]
    assert [(one.statement, one.supported) for one in found.claims] == [
        ("It sharpens (0.1 [0.0, 0.2] nats a step).", False),
        ("“a” moved, 3.5 of 4.", True),
    ]
    (claim,) = claims.claims_in("Not supported that overlap moves with the seed.").claims
    assert (claim.statement, claim.supported) == ("That overlap moves with the seed.", False)
