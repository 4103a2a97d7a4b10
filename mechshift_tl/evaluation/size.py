"""How large a circuit must be to explain a behaviour: the smallest size at which the circuits of all compared models do.

A comparison of circuits that explain little compares noise. At a size in doubt, every model's own circuit runs in its model, on prompts
that it was not found on. The size will do when, in every model:

1. the circuit recovers enough: the lower end of its faithfulness interval is at least `recovers`;
2. it stands clear of its null: its faithfulness exceeds, by at least `clear`, the mean of the same circuit with heads permuted inside
   layers (`circuits.permuted`). In a large circuit the heads no longer matter, and nothing could be told from what they do.

Recovery grows with size, as a rule, so its smallest size is found by bisection, over shares of the possible edges on a log scale. Where the
largest circuit recovers too little, smaller ones are tried before that is the result. Clearance shrinks with size; it is looked at where
recovery begins, and at a few larger sizes. "Not faithful at any size" and "never clear of the null" are results.

A size is chosen on the prompts that it is judged on, so the recovery there is, by a little, too good. τ (`evaluation.carried`) is a ratio
to it, which makes τ smaller, not larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log, nan
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.permuted import n_permutations, permuted_heads
from mechshift_tl.evaluation.faithfulness import N_BOOT, Faithfulness, NoGap, recovered
from mechshift_tl.evaluation.run_once import CircuitRuns
from mechshift_tl.intervals import check_draws
from mechshift_tl.plotting import COLOURS, QUIET, ROLE_NAMES, style


@dataclass(frozen=True)
class SizeSearch:
    """What is asked of a size, and where it is sought.

    - `recovers`: the least lower end of a circuit's faithfulness; `clear`: how far it exceeds its null, at least.
    - `smallest`, `largest`: shares of the possible edges, in (0, 1], between which a size is sought.
    - `halvings`: of the range between them, on a log scale; 4 find a size to within 1.28 times between 1 % and 50 %.
    - `larger`: how many larger sizes, each 1.25 times the one before, are tried where the smallest faithful one is not clear of its null.
    - `n_null`: permutations of each circuit's heads. `n_boot`: draws of the prompts.

    Raises ValueError on values outside their ranges.
    """

    recovers: float = 0.7
    clear: float = 0.15
    smallest: float = 0.01
    largest: float = 0.5
    halvings: int = 4
    larger: int = 2
    n_null: int = 8
    n_boot: int = N_BOOT

    def __post_init__(self) -> None:
        if not 0 < self.smallest < self.largest <= 1:
            raise ValueError(f"SizeSearch: sizes run from {self.smallest} to {self.largest}; give shares with 0 < smallest < largest <= 1")
        if not 0 < self.recovers <= 1 or not self.clear < self.recovers:
            raise ValueError(f"SizeSearch: recovers is {self.recovers}, clear {self.clear}; give recovers in (0, 1] and a smaller clear")
        if self.halvings < 1 or self.larger < 0 or self.n_null < 1:
            raise ValueError(
                f"SizeSearch: halvings is {self.halvings}, larger {self.larger}, n_null {self.n_null}; give 1, 0 and 1 or more"
            )
        check_draws(self.n_boot)


@dataclass(frozen=True)
class SizeTried:
    """One model's own circuit at one size.

    `share`: of the possible edges, as asked for; `kept`: its edges. `value`, `low`, `high`: its faithfulness with its 95 % interval over
    prompts; `null`: the mean faithfulness of the same circuit with heads permuted, NaN where it was not run. `accuracy`: share of the
    prompts, in [0, 1], whose answer the whole model ranks first.
    """

    role: str
    share: float
    kept: int
    value: float
    low: float
    high: float
    null: float
    accuracy: float


@dataclass(frozen=True)
class FaithfulSize(JsonArtefact):
    """The smallest size at which all circuits are faithful and clear of their null.

    - `share`: of the possible edges; None where there is none, and then `reason` says why.
    - `tried`: every circuit that was run on the way.
    """

    KIND: ClassVar[str] = "faithful size"

    share: float | None
    reason: str
    tried: tuple[SizeTried, ...] = field(repr=False)
    search: SizeSearch = SizeSearch()

    @property
    def chosen(self) -> dict[str, SizeTried]:
        """The circuits of the size found, by role; empty where there is none."""
        return {one.role: one for one in self.tried if one.share == self.share and one.null == one.null}

    def to_dataframe(self) -> pd.DataFrame:
        """One row per circuit run, smallest first: the columns of `SizeTried`."""
        frame = pd.DataFrame([vars(one) for one in self.tried], columns=list(SizeTried.__dataclass_fields__))
        return frame.sort_values(["share", "role"], kind="stable", ignore_index=True)

    def figure(self) -> go.Figure:
        """Faithfulness over size, one line per model with its intervals; null means as crosses; what is asked for as a dotted line."""
        figure, table = go.Figure(), self.to_dataframe()
        for role, rows in table.groupby("role", sort=False):
            colour = COLOURS.get(str(role), QUIET)
            bars = {
                "array": (rows["high"] - rows["value"]).tolist(),
                "arrayminus": (rows["value"] - rows["low"]).tolist(),
                "symmetric": False,
            }
            x = rows["share"].tolist()
            figure.add_scatter(x=x, y=rows["value"].tolist(), error_y=bars, name=str(role), mode="lines+markers", line_color=colour)
            cross = {"symbol": "x", "color": colour}
            figure.add_scatter(x=x, y=rows["null"].tolist(), name=f"{role}, heads permuted", mode="markers", marker=cross)
        figure.add_hline(y=self.search.recovers, line={"color": QUIET, "width": 1, "dash": "dot"})
        figure.update_xaxes(title_text="edges, share of the possible (log scale)", type="log")
        figure.update_yaxes(title_text="faithfulness")
        return style(figure, 340)

    def _repr_html_(self) -> str:
        found = self.reason if self.share is None else f"{self.share:.1%} of the possible edges"
        return card("FaithfulSize", found, self.to_dataframe())


def faithful_size(runs: CircuitRuns, scores: Mapping[str, EdgeScores], search: SizeSearch | None = None, *, seed: int = 0) -> FaithfulSize:
    """The size of `SizeSearch`, for the circuits of `scores`, each in the model of its role.

    Give runs on other prompts than those that were scored. Cost: a run of every model's circuit per halving, and `n_null` more at each
    size that recovers enough. A model with one head per layer has no null, so no size: that is a result. Raises ValueError where
    `run_circuits` does.
    """
    looked = _Search(runs, scores, search or SizeSearch(), seed, [])
    try:
        share, reason = looked.smallest()
    except NoGap as error:
        share, reason = None, str(error)
    return FaithfulSize(share, reason, tuple(looked.tried), looked.search)


@dataclass(frozen=True)
class _Search:
    runs: CircuitRuns
    scores: Mapping[str, EdgeScores]
    search: SizeSearch
    seed: int
    tried: list[SizeTried]

    def smallest(self) -> tuple[float | None, str]:
        asked = self.search
        if n_permutations(next(iter(self.scores.values())).graph) == 1:
            return None, "layers have one head each, so no circuit on other heads says what recovery is worth"
        high = self._smallest_faithful()
        if high is None:
            return None, f"not faithful at any size: at {asked.largest:.0%} of the edges {self._said(asked.largest)}"
        sizes = [high * 1.25**i for i in range(asked.larger + 1) if high * 1.25**i <= asked.largest]
        for share in sizes:
            if self._clear(share):
                return share, ""
        return None, f"never clear of the null: at {sizes[0]:.1%} of the edges {self._said(sizes[0])}"

    def _smallest_faithful(self) -> float | None:
        low, high = self.search.smallest, self.search.largest
        if not self._recovers(high):
            steps = range(1, self.search.halvings + 1)
            smaller = [exp(log(high) + (log(low) - log(high)) * i / len(steps)) for i in steps]
            return next((share for share in smaller if self._recovers(share)), None)
        if self._recovers(low):
            return low
        for _ in range(self.search.halvings):
            middle = exp((log(low) + log(high)) / 2)
            low, high = (low, middle) if self._recovers(middle) else (middle, high)
        return high

    def _recovers(self, share: float) -> bool:
        return all([self._run(role, share, 0).low >= self.search.recovers for role in self.scores])

    def _clear(self, share: float) -> bool:
        found = [self._run(role, share, self.search.n_null) for role in self.scores]
        return all(one.low >= self.search.recovers and one.value - one.null >= self.search.clear for one in found)

    def _run(self, role: str, share: float, n_null: int) -> SizeTried:
        circuit = Circuit.from_scores(self.scores[role], fraction=share)
        others = [one.circuit(circuit) for one in permuted_heads(circuit.graph, n_null, self.seed)] if n_null else []
        own, *null = self.runs.of(role, [circuit, *others])
        found = Faithfulness.of(own, n_boot=self.search.n_boot, seed=self.seed)
        mean = sum(recovered(one)[0].item() for one in null) / len(null) if null else nan
        tried = SizeTried(role, share, circuit.kept, found.value, found.low, found.high, mean, found.clean_accuracy)
        self.tried.append(tried)
        return tried

    def _said(self, share: float) -> str:
        """What the last circuits of this size recover, in words."""
        last = {one.role: one for one in self.tried if one.share == share}.values()
        nulls = {one.role: f", heads permuted {one.null:.2f}" if one.null == one.null else "" for one in last}
        told = ((ROLE_NAMES.get(one.role, one.role), one) for one in last)
        return "; ".join(f"the circuit of the {name} recovers {one.value:.2f} (from {one.low:.2f}){nulls[one.role]}" for name, one in told)
