"""The figures that an answer rests on, and how they are said in a sentence."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import torch

from mechshift_tl.evaluation.carried import BY_ID, Carried
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.study.answers import CANNOT_TELL, Answer
from mechshift_tl.study.gains import Gain
from mechshift_tl.study.verdict_evidence import VerdictEvidence

#: In standard deviations: a change of this size is found in 4 of 5 studies (two-sided 5 %, power 80 %).
POWER = 2.8
#: From the width of a central 95 % to a standard deviation.
WIDTH = 3.92


def circuit_figures(e: VerdictEvidence) -> dict[str, float]:
    """What the answer on the circuit rests on; `smallest_…_change` is what so many prompts can show."""
    assert e.carried is not None and e.overlap is not None
    found = bare_figures(e) | {"share_of_edges": e.size.share or nan}
    for name, matching in (("by_id", BY_ID), ("best", e.carried.best)):
        found |= _of_tau(e.carried, name, matching)
    overlap, over = e.overlap, e.overlap.over_prompts
    found |= {"jaccard": overlap.value, "shared": overlap.shared, "union": overlap.union}
    found |= {"jaccard_null": overlap.null.mean, "jaccard_null_high": overlap.null.high, "jaccard_p": overlap.p}
    if over is not None:
        change = POWER * (over.high - over.low) / WIDTH
        found |= {"jaccard_low": over.low, "jaccard_high": over.high, "smallest_jaccard_change": change}
    return found


def bare_figures(e: VerdictEvidence) -> dict[str, float]:
    """What is known where no circuit could be carried."""
    accuracy = {f"accuracy_{role}": value for role, value in e.likeness.accuracy.items()}
    return {"n": e.likeness.n} | accuracy | {"neurons_in_place": e.likeness.neurons_in_place}


def gain_figures(gain: Gain) -> dict[str, float]:
    """The gain with its interval, the statistic of each model, and the smallest change that so many prompts can show."""
    over = gain.interval
    found = {"n": gain.n, "gain": gain.value, "low": over.low, "high": over.high, "smallest_change": POWER * gain.draws.std().item()}
    return found | gain.statistics


def of_circuits(e: VerdictEvidence) -> str:
    """τ by id and under the best matching, and the overlap beside its null."""
    assert e.carried is not None
    f, best = circuit_figures(e), e.carried.best
    said = f"τ {_range(f, 'tau_by_id')} by id"
    if best != BY_ID:
        said += f", {_range(f, 'tau_best')} with heads matched by {best}"
    overlap = f"{f['shared']:.0f} of {f['union']:.0f} edges shared, J {f['jaccard']:.2f}"
    return f"{said}; {overlap} beside {f['jaccard_null']:.2f} with heads permuted, p {f['jaccard_p']:.2g}; n {f['n']:.0f}"


def of_gain(gain: Gain, what: str) -> str:
    """A gain with its interval."""
    beyond = " and ".join(ROLE_NAMES.get(role, role) for role in gain.against)
    low, high = gain.interval.low, gain.interval.high
    return f"{what} {_signed(gain.value)} [{_signed(low)}, {_signed(high)}] beyond {beyond}, n {gain.n}"


def unsure(one: Answer, corrected: float) -> Answer:
    """The answer withdrawn: what it would have been, its p-values, and the smallest change that so many prompts can show."""
    why = f"{one.why}; that it is {one.answer!r} has p {one.p:.2g}, {corrected:.2g} over all answers"
    named = {"smallest_tau_change": "τ", "smallest_jaccard_change": "J", "smallest_change": "it"}
    changes = [f"{name} by {one.figures[key]:.2g}" for key, name in named.items() if key in one.figures]
    if changes:
        why += f"; so many prompts can show a change of {' and of '.join(changes)}"
    return replace(one, answer=CANNOT_TELL, corrected=corrected, why=why)


def _of_tau(carried: Carried, name: str, matching: str) -> dict[str, float]:
    draws = carried.lower_draws(matching)
    draws = draws[~draws.isnan()]
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist() if len(draws) else (nan, nan)
    found = {f"tau_{name}": carried.lower(matching), f"tau_{name}_low": low, f"tau_{name}_high": high}
    return found | ({"smallest_tau_change": POWER * draws.std().item()} if matching == BY_ID and len(draws) > 1 else {})


def _range(figures: dict[str, float], name: str) -> str:
    value, low, high = (f"{figures[name + end]:.2f}".replace("-", "−") for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def _signed(change: float) -> str:
    return f"{change:+.3f}".replace("-", "−")
