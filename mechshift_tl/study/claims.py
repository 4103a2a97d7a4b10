"""Sentences that a study prints beside its verdicts on overlap. Each is "Supported" or "Not supported".

Every claim is compared with its own 95 % bound, without a correction for the number of claims.
"""

from __future__ import annotations

from dataclasses import dataclass

from mechshift_tl.compare.result import CircuitComparison
from mechshift_tl.intervals import Interval, judged
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.study.results import TaskStudy
from mechshift_tl.views.neurons import NeuronActivations


@dataclass(frozen=True)
class Claim:
    """A statement, whether the study supports it, and the numbers that decide."""

    statement: str
    supported: bool
    evidence: str

    @property
    def head(self) -> str:
        """The word that begins the claim: Supported, or Not supported."""
        return judged(self.supported)


def overlap_claim(task: TaskStudy) -> Claim | None:
    """Whether the MDM overlaps less with the ARM than the control does; None without a control."""
    if not {"mdm", "control"} <= task.comparisons.keys():
        return None
    mdm, control = (task.comparisons[role].intervals.get("edge_jaccard") for role in ("mdm", "control"))
    statement = f"{task.task}: the MDM shares fewer edges with the ARM than the control does."
    if mdm is None or control is None:
        return Claim(statement, False, "There are no intervals over prompts to hold against each other.")
    supported = mdm.high < control.low
    lies = "lies below" if supported else "does not lie below"
    return Claim(statement, supported, f"The MDM's interval over prompts, {_range(mdm)}, {lies} the control's, {_range(control)}.")


def depth_claims(task: TaskStudy) -> list[Claim]:
    """A change of early share from the ARM to each other model."""
    return [_early_shift(role, comparison) for role, comparison in task.comparisons.items()]


def _early_shift(role: str, comparison: CircuitComparison) -> Claim:
    a, b = comparison.early_share
    over = comparison.intervals.get("early_share_shift")
    supported = over is not None and (over.low > 0 or over.high < 0)
    bound = f"95 % over prompts {_signed(over.low)} to {_signed(over.high)}" if over else "no interval over prompts"
    moves = f"The share of |score| in layers below {comparison.settings.cut} goes from {a:.3f} to {b:.3f}"
    statement = f"The early share differs between ARM and {ROLE_NAMES[role]}."
    return Claim(statement, supported, f"{moves}, a change of {_signed(b - a)} ({bound}).")


def neuron_claims(task: TaskStudy) -> list[Claim]:
    """Whether any early-layer neuron of each model tells prompt groups apart."""
    return [_selective(role, one) for role, one in task.neurons.items()]


def _selective(role: str, neurons: NeuronActivations) -> Claim:
    beyond, total = int((neurons.selectivity > neurons.null_max_95).sum()), len(neurons.selectivity)
    evidence = (
        f"{beyond} of {total} neurons have an η² above {neurons.null_max_95:.3f}, which the largest of all exceeds in 5 % of shuffles; "
        f"{100 * neurons.share_selective:.0f} % exceed their own 95 % point (5 % by chance; mean η² by chance {neurons.null_mean:.3f})."
    )
    return Claim(f"Neurons of layer {neurons.layer} of the {ROLE_NAMES[role]} tell prompt groups apart.", beyond > 0, evidence)


def _range(over: Interval) -> str:
    return f"{over.low:.3f} to {over.high:.3f}"


def _signed(change: float) -> str:
    return f"{change:+.3f}".replace("-", "−")
