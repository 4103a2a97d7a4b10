"""Claims as a page shows them: worded by what was found, marked by how strong it is.

A claim is a statement with the figures that decide. Results print claims in sentences of their own, "Supported: …" or "Not supported: …",
between sentences that only describe; `claims_in` takes them apart.

Every claim is compared with its own 95 % bound, without a correction for the number of claims.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mechshift_tl.intervals import Interval, judged
from mechshift_tl.study.results import TaskStudy

#: A sentence ends before a capital letter or the name of a model's part, and never inside brackets.
SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z“])")
HEADS = {f"{judged(holds)}{mark}": holds for holds in (True, False) for mark in (": ", " ")}


@dataclass(frozen=True)
class Claim:
    """A statement, whether the study supports it, and the numbers that decide (they may stand in the statement itself)."""

    statement: str
    supported: bool
    evidence: str = ""

    @property
    def head(self) -> str:
        """The word that begins the claim: Supported, or Not supported."""
        return judged(self.supported)


@dataclass(frozen=True)
class Found:
    """A finding taken apart: its claims, and the sentences that describe."""

    claims: list[Claim]
    described: list[str]


def claims_in(finding: str) -> Found:
    """Take a result's `finding` apart."""
    claims, described = [], []
    for sentence in SENTENCE.split(finding):
        head = next((one for one in HEADS if sentence.startswith(one)), None)
        if head is None:
            described.append(sentence)
        else:
            claims.append(Claim(_begun(sentence[len(head) :]), HEADS[head]))
    return Found(claims, described)


def overlap_claim(task: TaskStudy) -> Claim | None:
    """Whether the MDM overlaps less with the ARM than the control does, or more; None without a control."""
    if not {"mdm", "control"} <= task.comparisons.keys():
        return None
    mdm, control = (task.comparisons[role].intervals.get("edge_jaccard") for role in ("mdm", "control"))
    if mdm is None or control is None:
        statement = "Whether the MDM shares fewer edges with the ARM than the control does is open."
        return Claim(statement, False, "There are no intervals over prompts to hold against each other.")
    said = "fewer" if mdm.high < control.low else "more" if mdm.low > control.high else ""
    if said:
        statement = f"The MDM shares {said} edges with the ARM than the control does."
    else:
        statement = "No difference is shown between the edges that MDM and control share with the ARM."
    lies = {"fewer": "lies below", "more": "lies above", "": "overlaps"}[said]
    return Claim(statement, bool(said), f"The MDM’s interval over prompts, {_range(mdm)}, {lies} the control’s, {_range(control)}.")


def _begun(statement: str) -> str:
    return statement[:1].upper() + statement[1:]


def _range(over: Interval) -> str:
    return f"{over.low:.3f} to {over.high:.3f}"
