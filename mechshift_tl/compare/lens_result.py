"""`LensComparison`: what shared, ARM-only and MDM-only components say, per step, by depth, and with steps ablated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.compare.lens_figure import lens_panels
from mechshift_tl.compare.paired import spelled
from mechshift_tl.intervals import judged
from mechshift_tl.plotting import ROLE_NAMES

TOGETHER, SLOPE, WHOLE = "all steps together", "per step", "whole model"
#: Where the prediction's own entropy is above this share of ln d_vocab, the lens reads the wrong place.
FLAT = 0.9


@dataclass(frozen=True, eq=False)
class LensComparison(JsonArtefact):
    """Component lenses of several models.

    - `sets`: "shared", "ARM only", "MDM only" → components, of the top components of both circuits.
    - `table`: one row per set, scope ("all steps together", "step 3", or "per step": the slope over steps), statistic (entropy in nats,
      answer_rank, answer_logit, effect: answer − foil, in logits) and subject (role or contrast): value, low, high, 95 % over prompts.
    - `depth`: the same statistics of the residual stream, one row per depth, statistic and subject; the last depth is the prediction.
    - `ablation`: one row per step of the MDM whose tokens were masked again, set (or "whole model") and statistic: the change at later
      steps, with intervals; `reads` it is over. Empty for tasks of one step.
    - `largest`: whether one step matters more than the mean of the others: step, and the difference of |change| in the prediction's effect.
    - `components`: one row per component and model: set, top tokens, and the statistics.
    """

    KIND: ClassVar[str] = "lens_comparison"

    sets: dict[str, list[str]]
    table: pd.DataFrame = field(repr=False)
    depth: pd.DataFrame = field(repr=False)
    ablation: pd.DataFrame = field(repr=False)
    largest: dict[str, float]
    components: pd.DataFrame = field(repr=False)
    d_vocab: int
    n_examples: int
    n_ablated: int
    n_boot: int
    seed: int

    def of(self, statistic: str, subject: str, name: str, scope: str = TOGETHER) -> dict[str, float]:
        """Value, low and high of a set. Raises KeyError where there is no such row."""
        rows = self.table.query("set == @name and scope == @scope and statistic == @statistic and subject == @subject")
        if rows.empty:
            raise KeyError(f"no {statistic!r} of {subject!r} in set {name!r} at {scope!r}")
        return {column: float(rows[column].iloc[0]) for column in ("value", "low", "high")}

    @property
    def flatness(self) -> dict[str, float]:
        """By role: entropy of the prediction, the last depth, as a share of ln d_vocab, in [0, 1]."""
        rows = self.depth.query("depth == depth.iloc[-1] and statistic == 'entropy'").set_index("subject")
        return {role: float(rows.loc[[role], "value"].iloc[0]) / math.log(self.d_vocab) for role in self.roles}

    @property
    def roles(self) -> list[str]:
        """The models that were compared."""
        return [one for one in self.depth["subject"].unique() if "−" not in one]

    def finding(self) -> str:
        """The check against the final layer, whether the MDM's lens is flatter, sharpens over steps, and hangs on one step."""
        shares = ", ".join(f"{ROLE_NAMES[role]} {share:.2f}" for role, share in self.flatness.items())
        flat = max(self.flatness.values()) > FLAT
        check = f"Check at the last layer: entropy {shares} of ln(vocabulary): {'flat, a probing mistake' if flat else 'not flat'}."
        told = [check, *(self._flatter(name) for name in self.sets if name != "ARM only"), self._sharpens(), self._hangs()]
        return " ".join([f"n = {self.n_examples} prompts.", *(one for one in told if one)])

    def _flatter(self, name: str) -> str:
        subject = "MDM − control" if "control" in self.roles else "MDM − ARM"
        try:
            change = self.of("entropy", subject, name)
        except KeyError:
            return ""
        other = subject.split(" − ")[1]
        return (
            f"{judged(change['low'] > 0)}: {name} components say flatter things in the MDM than in the {other} ({spelled(change, 3)} nats)."
        )

    def _sharpens(self) -> str:
        name = "shared" if "shared" in self.sets else next(iter(self.sets), "")
        try:
            slope = self.of("entropy", "mdm", name, SLOPE)
        except KeyError:
            return ""
        if math.isnan(slope["value"]):
            return "One step: nothing can sharpen over steps."
        return f"{judged(slope['high'] < 0)}: the MDM's {name} components sharpen over steps ({spelled(slope, 4)} nats a step)."

    def _hangs(self) -> str:
        if not self.largest:
            return ""
        values = {name: self.largest[name] for name in ("value", "low", "high")}
        whole = self.ablation.query("set == @WHOLE and statistic == 'effect'")
        clear = int(((whole["low"] > 0) | (whole["high"] < 0)).sum())
        mean, step = f"{whole['value'].mean():+.2f}".replace("-", "−"), f"{self.largest['step']:.0f}"
        return (
            f"Masking one step again changes later answer − foil by {mean} logits on average ({clear} of {len(whole)} steps clear of 0, "
            f"{self.n_ablated} prompts). {judged(values['low'] > 0)}: the MDM's later predictions hang on one step more than on the mean "
            f"of the others (step {step}, {spelled(values)} logits more; chosen as the largest, so this errs to the supporting side)."
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per component and model: set, component, model, statistics, top tokens."""
        return self.components

    def figure(self) -> go.Figure:
        """Entropy by depth; entropy of each set over steps; what masking a step again changes in later predictions."""
        return lens_panels(self.depth, self.table, self.ablation, self.roles, math.log(self.d_vocab))

    def _repr_html_(self) -> str:
        return card("LensComparison", self.finding(), self.components)
