"""The smallest circuit that keeps a behaviour: how many of the best-ranked edges a circuit needs to be faithful.

1. A size is enough when the circuit of so many edges recovers at least `recovers` of the behaviour.
2. The largest size is tried first. Where it is not enough, no size is.
3. Then the range between the smallest and the largest size is halved, on a log scale, until no size is left between. Recovery need not grow
   with every edge: the size found is enough, and the next smaller one that was tried is not.

Without a null, unlike `evaluation.size`, which asks for it before circuits of several models are compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from math import exp, log
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import Unpack

from hooked_diffusion.artefact import JsonArtefact
from hooked_diffusion.html import card
from mechshift_tl.attribution.scores import EdgeScores
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.circuits.select import Selection
from mechshift_tl.evaluation.faithfulness import N_BOOT, Faithfulness
from mechshift_tl.evaluation.run import RunSettings, run_circuit
from mechshift_tl.plotting import COLOURS, QUIET, style
from mechshift_tl.readouts import Readouts


@dataclass(frozen=True)
class SmallestCircuit(JsonArtefact):
    """The fewest edges that recover at least `recovers`.

    - `n`: how many edges to ask for; None where the largest size is not enough.
    - `requested`, `tried`: every size that was run, in the order of the search: edges asked for, and the faithfulness of their circuit.
    """

    KIND: ClassVar[str] = "smallest circuit"

    n: int | None
    recovers: float
    requested: tuple[int, ...] = field(repr=False)
    tried: tuple[Faithfulness, ...] = field(repr=False)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per size tried, smallest first: requested, then the columns of `Faithfulness`."""
        frame = pd.DataFrame([asdict(one) for one in self.tried])
        frame.insert(0, "requested", self.requested)
        return frame.sort_values("requested", kind="stable", ignore_index=True)

    def figure(self) -> go.Figure:
        """Faithfulness over the edges asked for, with its intervals over prompts; what is asked of it as a dotted line."""
        table, figure = self.to_dataframe(), go.Figure()
        over = {"array": (table["high"] - table["value"]).tolist(), "arrayminus": (table["value"] - table["low"]).tolist()}
        x, y = table["requested"].tolist(), table["value"].tolist()
        figure.add_scatter(x=x, y=y, error_y=over | {"symmetric": False}, mode="lines+markers", line_color=COLOURS["arm"], name="circuit")
        figure.add_hline(y=self.recovers, line={"color": QUIET, "width": 1, "dash": "dot"})
        figure.update_xaxes(title_text="edges asked for (log scale)", type="log")
        figure.update_yaxes(title_text="faithfulness")
        return style(figure, 340)

    def _repr_html_(self) -> str:
        found = "no size is enough" if self.n is None else f"{self.n} edges"
        return card("SmallestCircuit", f"{found} to recover {self.recovers:.2f}", self.to_dataframe())


def smallest_circuit(
    model: HookedModel,
    readouts: Readouts,
    scores: EdgeScores,
    *,
    recovers: float = 0.8,
    chosen: Selection | None = None,
    n_boot: int = N_BOOT,
    seed: int = 0,
    **settings: Unpack[RunSettings],
) -> SmallestCircuit:
    """The smallest number of edges of `scores`, chosen as `chosen` says, whose circuit recovers at least `recovers` in `model`.

    - `chosen`: how edges are chosen; its size, where it has one, is the largest that is tried, by default all possible edges.
    - `settings`: those of `run_circuit`.

    Give readouts of other prompts than those that were scored. Cost: some log2(edges) runs. Raises ValueError unless `recovers` lies in
    (0, 1], and where `run_circuit` does; `NoGap` where clean and base metric do not differ beyond chance.
    """
    if not 0 < recovers <= 1:
        raise ValueError(f"smallest_circuit: recovers is {recovers}; give a share of the behaviour in (0, 1]")
    how, tried = chosen or Selection(), dict[int, Faithfulness]()
    sized = how != Selection(by=how.by, greedy=how.greedy, zeros=how.zeros, prune=how.prune, choose=how.choose)
    largest = how.size(scores.graph) if sized else scores.graph.n_edges

    def enough(n: int) -> bool:
        circuit = Circuit.select(scores, replace(how, n=n, fraction=None, threshold=None))
        found = Faithfulness.of(run_circuit(model, readouts, circuit, **settings), n_boot=n_boot, seed=seed)
        tried[n] = found
        return found.value >= recovers

    if not largest or not enough(largest):
        return SmallestCircuit(None, recovers, tuple(tried), tuple(tried.values()))
    low, high = 0, largest
    while high - low > 1:
        middle = min(high - 1, max(low + 1, round(exp((log(low or 1) + log(high)) / 2))))
        low, high = (low, middle) if enough(middle) else (middle, high)
    return SmallestCircuit(high, recovers, tuple(tried), tuple(tried.values()))
