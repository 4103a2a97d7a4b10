"""The verdicts of a study, and the rules they follow: all of them are in this file.

Three questions are asked of each task and of each model beside the ARM (its role: MDM or control). Where one of the two does not do the
task, the answer to all of them is *cannot tell*.

**What became of the circuit?** Both own circuits must be faithful and clear of their null at some size (`evaluation.size`); otherwise
*cannot tell*. Then τ decides (`evaluation.carried`). "By id" means heads by their names; "best" means
under whichever matching carries most; τ is the lower of both directions, except where the rule says *every*.

| | by id | best | besides |
|---|---|---|---|
| kept | τ ≥ 0.7 | | more edges shared than with heads permuted; MLP neurons in their places |
| moved | τ < 0.7 | τ ≥ 0.7 | or kept, but with MLP neurons in other places |
| partly kept | | 0.3 ≤ τ < 0.7 | |
| replaced | every τ < 0.3 | every τ < 0.3 | in each direction |

**Is it front-loaded?** The early share over all edges exceeds both the control's and the ARM's by 0.05 or more: *yes*; by less: *no*. It
is claimed only where layers align: the weights of every layer are most like those of the ARM's same layer.

**Is it distributed?** The participation ratio of effects exceeds both the control's and the ARM's by 10 % or more: *yes*; by less: *no*.

A p-value is the share of the draws of prompts that speak against an answer, with one added to both counts. Over all answers of a study they
are corrected (Holm 1979). An answer stands where its corrected p is at most 0.025, as the end of a 95 % interval would say; else the
verdict is *cannot tell*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log, nan

import torch

from mechshift_tl.evaluation.carried import BY_ID, Carried
from mechshift_tl.study.answers import CANNOT_TELL, Answer, Verdicts
from mechshift_tl.study.gains import Gain
from mechshift_tl.study.p_values import holm, p_not_at_least, p_not_below
from mechshift_tl.study.verdict_evidence import VerdictEvidence

ALPHA = 0.025
KEPT, REPLACED = 0.7, 0.3
EARLY, SPREAD = 0.05, log(1.1)
#: Share of the prompts that a model must answer, and the shares and similarity that say that neurons only changed places.
DOES_TASK, IN_PLACE, SAME_NEURONS = 0.5, 0.5, 0.7
#: In standard deviations: a change of this size is found in 4 of 5 studies (two-sided 5 %, power 80 %).
POWER = 2.8


def judge(evidence: Sequence[VerdictEvidence]) -> Verdicts:
    """Every answer of a study, corrected for how many there are."""
    answers = [answer(one) if does_task(one) else idle(one, name) for one in evidence for name, answer in QUESTIONS.items()]
    corrected = holm([one.p for one in answers])
    both = zip(answers, corrected, strict=True)
    return Verdicts(tuple(replace(one, corrected=p) if not p > ALPHA else _unsure(one, p) for one, p in both))


def what_became_of_the_circuit(e: VerdictEvidence) -> Answer:
    """Kept, moved, partly kept, replaced or cannot tell."""
    if e.carried is None or e.overlap is None:
        return Answer(e.task, e.role, "circuit", CANNOT_TELL, nan, e.size.reason)
    by_id, best, every = e.carried.lower_draws(BY_ID), e.carried.lower_draws(e.carried.best), e.carried.draws
    p_of = {
        "kept": max(p_not_at_least(KEPT, by_id), e.overlap.p),
        "moved": max(p_not_below(KEPT, by_id), p_not_at_least(KEPT, best)),
        "partly kept": max(p_not_below(KEPT, best), p_not_at_least(REPLACED, best)),
        "replaced": max(p_not_below(REPLACED, draws) for draws in every.flatten(1).unbind(1)),
    }
    answer = min(p_of, key=p_of.__getitem__)
    p = p_of[answer]
    if answer == "kept" and e.neurons.own_share < IN_PLACE and e.neurons.mean_similarity >= SAME_NEURONS:
        answer = "moved"
    figures = _carried_figures(e.carried) | {"jaccard": e.overlap.value, "jaccard_null": e.overlap.null.mean, "jaccard_p": e.overlap.p}
    figures |= {"share_of_edges": e.size.share or nan, "neurons_in_place": e.neurons.own_share}
    why = f"τ {figures['tau_by_id']:.2f} by id, {figures['tau_best']:.2f} matched by {e.carried.best}"
    return Answer(e.task, e.role, "circuit", answer, p, why, figures=figures)


def front_loaded(e: VerdictEvidence) -> Answer:
    """Whether the early share over all edges exceeds the control's and the ARM's."""
    moved = [i for i, layer in enumerate(e.layers) if layer is not None and layer != i]
    if moved:
        why = f"layers do not align: layer {moved[0]} is most like layer {e.layers[moved[0]]} of the ARM"
        return Answer(e.task, e.role, "front_loaded", CANNOT_TELL, nan, why)
    return _grew(e, "front_loaded", e.early, EARLY, "early share")


def distributed(e: VerdictEvidence) -> Answer:
    """Whether effects spread over more components than in the control and the ARM."""
    return _grew(e, "distributed", e.spread, SPREAD, "log participation ratio")


#: What is asked, in this order.
QUESTIONS = {"circuit": what_became_of_the_circuit, "front_loaded": front_loaded, "distributed": distributed}


def does_task(e: VerdictEvidence) -> bool:
    """Whether both models read enough of the prompts correctly."""
    return min(e.accuracy.values()) >= DOES_TASK


def idle(e: VerdictEvidence, question: str) -> Answer:
    """The answer where a model does not do the task."""
    role = min(e.accuracy, key=e.accuracy.__getitem__)
    return Answer(e.task, e.role, question, CANNOT_TELL, nan, f"{role} reads {e.accuracy[role]:.0%} of the prompts correctly")


def _grew(e: VerdictEvidence, question: str, gain: Gain | None, margin: float, what: str) -> Answer:
    if gain is None:
        return Answer(e.task, e.role, question, CANNOT_TELL, nan, "no control says what training without diffusion would have changed")
    yes, no = p_not_at_least(margin, gain.draws), p_not_below(margin, gain.draws)
    figures = {"gain": gain.value, "low": gain.interval.low, "high": gain.interval.high} | gain.statistics
    figures |= {"smallest_gain": POWER * gain.draws.std().item()}
    why = f"{what} {gain.value:+.3f} beyond {' and '.join(gain.against)}"
    return Answer(e.task, e.role, question, "yes" if yes < no else "no", min(yes, no), why, figures=figures)


def _unsure(one: Answer, corrected: float) -> Answer:
    why = f"{one.why}; {one.answer!r} has p {one.p:.3g}, {corrected:.3g} over all answers"
    return replace(one, answer=CANNOT_TELL, corrected=corrected, why=why)


def _carried_figures(carried: Carried) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, matching in (("by_id", BY_ID), ("best", carried.best)):
        draws = carried.lower_draws(matching)
        low, high = draws.nanquantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
        found |= {f"tau_{name}": carried.lower(matching), f"tau_{name}_low": low, f"tau_{name}_high": high}
    return found | {"smallest_tau_change": POWER * carried.lower_draws(BY_ID).std().item()}
