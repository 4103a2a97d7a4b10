"""Where the paper's reading would break: each of its break conditions and failure signs, with what this study says of it.

Kong et al. (arXiv 2601.14758) read three mechanisms from their circuits. Each reading holds only as long as certain findings do not occur:

- **kept or rewired**: overlap is not high on global tasks, nor low on local ones;
- **front-loading**: the early share rises on global tasks, and does not rise alike on local ones;
- **distribution**: the MDM's variance is not as high as the ARM's with fewer components that name something.

Three failure signs say that a figure measures something else: overlap moves with the seed as much as with the model; the lens is flat
everywhere, which is a probing mistake; on a global task, early heads attend in the MDM as they do in the ARM.

A condition is *met*, *not met*, or it *cannot tell*: the intervals decide, never the values alone. Tasks say themselves whether they are
local or global (`Task.dependency`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.compare.attention import AttentionComparison
from mechshift_tl.compare.depth_result import DepthShares, between_tasks
from mechshift_tl.compare.lens_result import FLAT, LensComparison
from mechshift_tl.compare.result import CircuitComparison
from mechshift_tl.compare.specialisation import SpecialisationComparison
from mechshift_tl.intervals import Interval
from mechshift_tl.plotting import COLOURS, plain, style
from mechshift_tl.study.answers import CANNOT_TELL, Verdicts
from mechshift_tl.study.measurement import Finding
from mechshift_tl.study.robustness_result import Robustness

Met = Literal["met", "not met", "cannot tell"]
SIGN = "failure sign"
MET_COLOURS: dict[Met, str] = {"met": COLOURS["mdm"], "not met": COLOURS["arm"], "cannot tell": COLOURS["control"]}
#: "The early share does not rise", by the verdict on whether the work is front-loaded.
IF_FRONT_LOADED: dict[str, Met] = {"yes": "not met", "no": "met", CANNOT_TELL: "cannot tell"}


@dataclass(frozen=True)
class Condition:
    """One condition: which mechanism it would break, what it says, on which tasks, whether it is met, and the figures that decide."""

    mechanism: str
    says: str
    tasks: str
    met: Met
    figures: str


@dataclass(frozen=True)
class Conditions(JsonArtefact):
    """Every condition that a study can hold its tasks against."""

    KIND: ClassVar[str] = "conditions"

    all: tuple[Condition, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per condition: mechanism, says, tasks, met, figures."""
        return pd.DataFrame([asdict(one) for one in self.all], columns=list(Condition.__dataclass_fields__))

    def figure(self) -> go.Figure:
        """One row per condition and its tasks: met, not met, or cannot tell. Hovering shows the figures that decide."""
        rows = [f"{plain(one.says)} ({plain(one.tasks)})" for one in self.all]
        figure = go.Figure()
        for met, colour in MET_COLOURS.items():
            here = [(row, one) for row, one in zip(rows, self.all, strict=True) if one.met == met]
            figure.add_scatter(
                x=[met] * len(here), y=[row for row, _ in here], mode="markers", name=met, showlegend=False,
                marker={"size": 13, "color": colour}, hovertext=[plain(one.figures) for _, one in here], hoverinfo="text",
            )  # fmt: skip
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=list(MET_COLOURS), range=[-0.5, 2.5], side="top")
        figure.update_yaxes(type="category", categoryorder="array", categoryarray=rows[::-1])
        return style(figure, 90 + 26 * max(2, len(rows)))

    def _repr_html_(self) -> str:
        return card("Conditions", "", self.to_dataframe())


@dataclass(frozen=True)
class TaskFindings:
    """What conditions need of one task."""

    name: str
    dependency: str | None
    comparisons: Mapping[str, CircuitComparison]
    measured: Mapping[str, Finding]


def conditions(tasks: list[TaskFindings], verdicts: Verdicts) -> Conditions:
    """Every condition that these tasks allow to be looked at."""
    local, whole = ([one for one in tasks if one.dependency == kind] for kind in ("local", "global"))
    pairs = [(one, other) for one in local for other in whole]
    found = [*(made for one, other in pairs for made in _overlaps(one, other)), *(made for one in whole for made in _rises(one, verdicts))]
    found += [made for one, other in pairs for made in _rises_alike(one, other, verdicts)]
    found += [made for one in tasks for made in (*_varies(one), *_moves_with_the_seed(one), *_is_flat(one))]
    return Conditions(tuple(found + [made for one in whole for made in _attends_alike(one)]))


def _overlaps(local: TaskFindings, whole: TaskFindings) -> Iterator[Condition]:
    if not all("mdm" in one.comparisons for one in (local, whole)):
        return
    near, far = (one.comparisons["mdm"].statistics["edge_jaccard"] for one in (local, whole))
    met: Met = "cannot tell"
    if near.interval and far.interval:
        met = "met" if far.interval.low > near.interval.high else "not met" if far.interval.high < near.interval.low else "cannot tell"
    figures = f"J ARM→MDM {_spelled(far.value, far.interval)} on {whole.name}, {_spelled(near.value, near.interval)} on {local.name}"
    yield Condition("kept or rewired", "overlap is higher on the global task than on the local one", _both(local, whole), met, figures)


def _rises(whole: TaskFindings, verdicts: Verdicts) -> Iterator[Condition]:
    for answer in verdicts.answers:
        if (answer.task, answer.role, answer.question) == (whole.name, "mdm", "front_loaded"):
            met = IF_FRONT_LOADED[answer.answer]
            yield Condition("front-loading", "the early share does not rise on the global task", whole.name, met, answer.why)


def _rises_alike(local: TaskFindings, whole: TaskFindings, verdicts: Verdicts) -> Iterator[Condition]:
    depths = [one.measured.get("depth") for one in (whole, local)]
    first, second = depths
    if not isinstance(first, DepthShares) or not isinstance(second, DepthShares):
        return
    if not all({"mdm", "control"} <= set(one.roles) for one in (first, second)):
        return
    gap = between_tasks(first, second)
    met: Met = "cannot tell"
    if gap.interval:
        met = "not met" if gap.interval.low > 0 else "met" if _is_front_loaded(local, verdicts) else "cannot tell"
    figures = f"MDM − control of early share, {whole.name} − {local.name}: {_spelled(gap.value, gap.interval, '+')}"
    yield Condition("front-loading", "the early share rises alike on the local task", _both(local, whole), met, figures)


def _is_front_loaded(task: TaskFindings, verdicts: Verdicts) -> bool:
    return any((a.task, a.role, a.question, a.answer) == (task.name, "mdm", "front_loaded", "yes") for a in verdicts.answers)


def _varies(task: TaskFindings) -> Iterator[Condition]:
    found = task.measured.get("specialisation")
    if not isinstance(found, SpecialisationComparison) or "mdm" not in found.roles:
        return
    variance, naming = (found.of(name, "MDM − ARM") for name in ("effect_variance", "naming"))
    fewer, as_high = naming["high"] < 0, variance["low"] >= 1
    met: Met = "met" if fewer and as_high else "not met" if naming["low"] >= 0 or variance["high"] < 1 else "cannot tell"
    figures = f"variance MDM/ARM {_ranged(variance)}, naming components MDM − ARM {_ranged(naming, 0)}"
    yield Condition("distribution", "the variance is as high with fewer naming components", task.name, met, figures)


def _moves_with_the_seed(task: TaskFindings) -> Iterator[Condition]:
    found = task.measured.get("robustness")
    if not isinstance(found, Robustness) or (moves := found.seed_and_model) is None:
        return
    seed, model = moves
    figures = f"other prompts move J by up to {seed:.3f}, the model (control or MDM) by {model:.3f}; n = {found.n}"
    met: Met = "met" if seed >= model else "not met"
    yield Condition(SIGN, "overlap moves with the seed as much as with the model", task.name, met, figures)


def _is_flat(task: TaskFindings) -> Iterator[Condition]:
    found = task.measured.get("lens_of_sets")
    if isinstance(found, LensComparison):
        flattest = max(found.flatness.values())
        met: Met = "met" if flattest > FLAT else "not met"
        yield Condition(
            SIGN, "the lens is flat everywhere", task.name, met, f"entropy at the end: {flattest:.2f} of ln(vocabulary) at most"
        )


def _attends_alike(task: TaskFindings) -> Iterator[Condition]:
    found, depth = (task.measured.get(name) for name in ("attention", "depth"))
    if not isinstance(found, AttentionComparison) or not isinstance(depth, DepthShares) or "mdm" not in found.top:
        return
    # "a3.h1" is a head of layer 3.
    early = [head for head in found.heads if int(head[1 : head.index(".")]) < depth.cut]
    moved = [head for head in early if head in found.moved("MDM − ARM", "evenness")]
    # One head in twenty differs by chance.
    met: Met = "cannot tell" if not early else "not met" if len(moved) > max(1, 0.1 * len(early)) else "met"
    figures = (
        f"evenness differs in {len(moved)} of {len(early)} early heads that are on top in some model ({0.05 * len(early):.1f} by chance)"
    )
    yield Condition(SIGN, "early heads attend in the MDM as in the ARM", task.name, met, figures)


def _both(local: TaskFindings, whole: TaskFindings) -> str:
    return f"{local.name}, {whole.name}"


def _spelled(value: float, over: Interval | None, sign: str = "") -> str:
    return f"{value:{sign}.3f}" + (f" [{over.low:{sign}.3f}, {over.high:{sign}.3f}]" if over else "")


def _ranged(of: Mapping[str, float], digits: int = 2) -> str:
    return f"{of['value']:.{digits}f} [{of['low']:.{digits}f}, {of['high']:.{digits}f}]"
