"""The verdicts of a study, and the rules they follow: all of them are in this file.

Three questions are asked of each task and of each model beside the ARM (its role: MDM or control). Where one of the two reads fewer than
half of the prompts correctly, the answer to all of them is *cannot tell*.

**What became of the circuit?** Both own circuits must be faithful and clear of their null at some size (`evaluation.size`); otherwise
*cannot tell*. Then τ decides (`evaluation.carried`): how much of what a model's own circuit does, the other model's circuit does there.
"Lower" is the lower τ of the two directions. Heads are carried by id, and under every matching (`circuits.matching`).

| | lower τ by id | lower τ under matchings | besides |
|---|---|---|---|
| kept | ≥ 0.7 | | more edges shared than with heads permuted (p ≤ 0.025); MLP neurons in their places |
| moved | < 0.7 | some ≥ 0.7 | or kept, but with MLP neurons in other places |
| partly kept | < 0.7 | all < 0.7 | some τ, in either direction, ≥ 0.3 |
| replaced | | | every τ, in both directions, < 0.3 |

**Is it front-loaded?** The early share over all edges exceeds both the control's and the ARM's by 0.05 or more: *yes*; by less: *no*. It
is claimed only where layers align: the weights of every layer are most like those of the ARM's same layer.

**Is it distributed?** The participation ratio of effects exceeds both the control's and the ARM's by 10 % or more: *yes*; by less: *no*.

A p-value is the share of the draws of prompts that speak against an answer, with one added to both counts; a draw on which a statistic has
no meaning speaks against every answer. "Some" of m statistics multiplies the least p by m; "all" takes the largest. Over all answers of a
study p-values are corrected (Holm 1979). An answer stands where its corrected p is at most 0.025, as the end of a 95 % interval would say;
else the verdict is *cannot tell*, with the smallest change that so many prompts can show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log1p, nan

from mechshift_tl.evaluation.carried import BY_ID
from mechshift_tl.study import wording
from mechshift_tl.study.answers import CANNOT_TELL, Answer, Verdicts
from mechshift_tl.study.gains import Gain
from mechshift_tl.study.p_values import holm, p_not_at_least, p_not_below, p_of_some
from mechshift_tl.study.verdict_evidence import VerdictEvidence

#: Share of the prompts that a model must read, and the shares and similarity that say that neurons only changed places.
DOES_TASK, IN_PLACE, SAME_NEURONS = 0.5, 0.5, 0.7


@dataclass(frozen=True)
class Rules:
    """The thresholds of the module docstring. Raises ValueError unless 0 < replaced < kept, 0 < early, 0 < spread, 0 < level < 1."""

    kept: float = 0.7
    replaced: float = 0.3
    early: float = 0.05
    spread: float = 0.1
    level: float = 0.025

    def __post_init__(self) -> None:
        if not (0 < self.replaced < self.kept and self.early > 0 and self.spread > 0 and 0 < self.level < 1):
            raise ValueError(f"{self}: give 0 < replaced < kept, 0 < early, 0 < spread, 0 < level < 1")


def judge(evidence: Sequence[VerdictEvidence], rules: Rules | None = None) -> Verdicts:
    """Every answer of a study, corrected for how many there are."""
    rules = rules or Rules()
    found = [ask(e, rules) if does_task(e) else idle(e, name) for e in evidence for name, ask in QUESTIONS.items()]
    both = zip(found, holm([one.p for one in found]), strict=True)
    return Verdicts(tuple(replace(one, corrected=p) if not p > rules.level else wording.unsure(one, p) for one, p in both))


def what_became_of_the_circuit(e: VerdictEvidence, rules: Rules) -> Answer:
    """Kept, moved, partly kept, replaced or cannot tell."""
    if e.carried is None or e.overlap is None:
        return Answer(e.task, e.role, "circuit", CANNOT_TELL, nan, e.size.reason, figures=wording.bare_figures(e))
    by_id = e.carried.lower_draws(BY_ID)
    lower = [e.carried.lower_draws(name) for name in e.carried.matchings]
    every = e.carried.draws.flatten(1).unbind(1)
    p_of = {
        # Sharing more edges than chance is a condition, as faithfulness is; the claim is about τ. A circuit of few heads has few
        # permutations, so its p cannot be small enough for a correction.
        "kept": p_not_at_least(rules.kept, by_id) if e.overlap.p <= rules.level else 1.0,
        "moved": max(p_not_below(rules.kept, by_id), p_of_some(p_not_at_least(rules.kept, one) for one in lower)),
        "partly kept": max(
            *(p_not_below(rules.kept, one) for one in lower), p_of_some(p_not_at_least(rules.replaced, one) for one in every)
        ),
        "replaced": max(p_not_below(rules.replaced, one) for one in every),
    }
    answer = min(p_of, key=p_of.__getitem__)
    moved = e.likeness.neurons_in_place < IN_PLACE and e.likeness.neuron_similarity >= SAME_NEURONS
    said = "moved" if answer == "kept" and moved else answer
    return Answer(e.task, e.role, "circuit", said, p_of[answer], wording.of_circuits(e), figures=wording.circuit_figures(e))


def front_loaded(e: VerdictEvidence, rules: Rules) -> Answer:
    """Whether the early share over all edges exceeds the control's and the ARM's."""
    if (moved := e.likeness.moved_layer) is not None:
        why = f"layers do not align: layer {moved} is most like layer {e.likeness.layers[moved]} of the ARM"
        return Answer(e.task, e.role, "front_loaded", CANNOT_TELL, nan, why)
    return _grew(e, "front_loaded", e.early, rules.early, "early share")


def distributed(e: VerdictEvidence, rules: Rules) -> Answer:
    """Whether effects spread over more components than in the control and the ARM."""
    return _grew(e, "distributed", e.spread, log1p(rules.spread), "log participation ratio")


#: What is asked, in this order.
QUESTIONS: dict[str, Callable[[VerdictEvidence, Rules], Answer]] = {
    "circuit": what_became_of_the_circuit, "front_loaded": front_loaded, "distributed": distributed
}  # fmt: skip


def does_task(e: VerdictEvidence) -> bool:
    """Whether both models read enough of the prompts correctly."""
    return min(e.likeness.accuracy.values()) >= DOES_TASK


def idle(e: VerdictEvidence, question: str) -> Answer:
    """The answer where a model does not do the task."""
    role = min(e.likeness.accuracy, key=e.likeness.accuracy.__getitem__)
    why = f"the {wording.ROLE_NAMES.get(role, role)} reads {e.likeness.accuracy[role]:.0%} of {e.likeness.n} prompts correctly"
    return Answer(e.task, e.role, question, CANNOT_TELL, nan, why)


def _grew(e: VerdictEvidence, question: str, gain: Gain | None, margin: float, what: str) -> Answer:
    if gain is None:
        return Answer(e.task, e.role, question, CANNOT_TELL, nan, "no control says what training without diffusion would have changed")
    yes, no = p_not_at_least(margin, gain.draws), p_not_below(margin, gain.draws)
    answer, figures = ("yes" if yes < no else "no"), wording.gain_figures(gain)
    return Answer(e.task, e.role, question, answer, min(yes, no), wording.of_gain(gain, what), figures=figures)
