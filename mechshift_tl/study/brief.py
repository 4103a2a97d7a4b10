"""The verdicts as sentences that a colleague could repeat: one per task, without figures, and how strong each is."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

from mechshift_tl.study.answers import CANNOT_TELL, Answer, Verdicts

#: What the MDM did to the ARM's circuit, and what the control did to it.
OF_MDM = {
    "kept": "the MDM keeps the ARM’s circuit",
    "partly kept": "the MDM keeps a part of the ARM’s circuit",
    "moved": "the MDM does the ARM’s work at other heads or neurons",
    "replaced": "the MDM has replaced the ARM’s circuit",
    CANNOT_TELL: "how much of the ARM’s circuit the MDM keeps cannot be told",
}
OF_CONTROL = {
    "kept": "the control keeps it",
    "partly kept": "the control keeps a part of it",
    "moved": "the control does its work elsewhere",
    "replaced": "the control has replaced it",
    CANNOT_TELL: "of the control, it cannot be told either",
}
#: Of the work: its move to early layers, its spread over components. What cannot be told comes last.
WORK = {
    ("front_loaded", "yes"): "moved to early layers",
    ("front_loaded", "no"): "did not move to early layers",
    ("distributed", "yes"): "spread over more components",
    ("distributed", "no"): "did not spread over more components",
}
OPEN = {"front_loaded": "whether its work moved to early layers", "distributed": "whether its work spread over more components"}
#: Corrected p-values up to which an answer is strong.
STRONG = 0.001


@dataclass(frozen=True)
class Brief:
    """A task's verdict on the MDM: the sentence, the word for its circuit, and how strong that is.

    `strength`: 0 where it cannot be told, 1 where the answer stands, 2 where its corrected p is at most 0.001.
    """

    task: str
    sentence: str
    circuit: str
    strength: int


def briefs(verdicts: Verdicts) -> list[Brief]:
    """One per task that has verdicts on the MDM."""
    tasks = {one.task: None for one in verdicts.answers if one.role == "mdm"}
    return [_brief(task, [one for one in verdicts.answers if one.task == task]) for task in tasks]


def _brief(task: str, answers: list[Answer]) -> Brief:
    of = {(one.role, one.question): one for one in answers}
    circuit, control = of["mdm", "circuit"], of.get(("control", "circuit"))
    said = OF_MDM[circuit.answer]
    if control:
        same = control.answer == circuit.answer != CANNOT_TELL
        said += ", as the control does" if same else f"; {OF_CONTROL[control.answer]}"
    work = _work({question: of["mdm", question].answer for question in OPEN if ("mdm", question) in of})
    return Brief(task, f"{said}{work}.", circuit.answer, strength(circuit))


def _work(answers: dict[str, str]) -> str:
    """What became of the work, after a semicolon; nothing where it was not asked."""
    known = [WORK[one] for one in answers.items() if one in WORK]
    unknown = [OPEN[question] for question, answer in answers.items() if answer == CANNOT_TELL]
    parts = ([f"its work {' and '.join(known)}"] if known else []) + ([f"{' and '.join(unknown)} cannot be told"] if unknown else [])
    return "".join(f"; {part}" for part in parts)


def strength(answer: Answer) -> int:
    """0, 1 or 2, as `Brief` says."""
    if answer.answer == CANNOT_TELL:
        return 0
    return 2 if not isnan(answer.corrected) and answer.corrected <= STRONG else 1
