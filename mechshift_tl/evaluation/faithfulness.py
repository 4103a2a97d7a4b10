"""Faithfulness: how much of what the model does, a circuit does alone.

    faithfulness = (m(C) − m(base)) / (m(clean) − m(base))

m(C) is the metric when only the circuit's edges are live; m(clean) is the whole model's; m(base) is the metric when no edge is live. Under
counterfactual patches, the base is the corrupt run. Each m is a mean over all read positions, so faithfulness is a ratio of means, not a
mean of ratios. 0 is the base and 1 is the model. A circuit that leaves out edges that work against the behaviour exceeds 1.

Intervals come from drawing examples with replacement, the same ones in all three runs. Where 0 lies inside the interval of
m(clean) − m(base), the ratio would divide by noise: it has no meaning and is refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from hooked_diffusion.html import card
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.evaluation.run import CircuitRun, RunSettings, run_circuit
from mechshift_tl.intervals import Interval, check_draws, draw_counts, interval
from mechshift_tl.plotting import COLOURS, QUIET, plain, style
from mechshift_tl.readouts import Readouts

N_BOOT = 1000


class NoGap(ValueError):
    """The clean and the base metric do not differ beyond chance, so faithfulness has no meaning on these readouts."""


@dataclass(frozen=True)
class Faithfulness:
    """A circuit's faithfulness on a set of examples.

    - `value`: 1 = as the model, 0 = as the base; values below 0 and above 1 occur. `low`, `high`: its 95 % interval over examples, NaN
      for a single example.
    - `circuit`, `clean`, `base`: the metric's means, in its unit.
    - `accuracy`: share of examples, in [0, 1], whose answer ranks first at every read position under the circuit; `clean_accuracy`: the
      same in the whole model. `above_foil`, `clean_above_foil`: share of examples whose answer beats the foil at every read position.
    - `kept` of `n_edges` edges, on `n_examples` examples; `intervention`, `metric`: as `run_circuit` was asked.
    """

    value: float
    low: float
    high: float
    circuit: float
    clean: float
    base: float
    accuracy: float
    clean_accuracy: float
    above_foil: float
    clean_above_foil: float
    kept: int
    n_edges: int
    n_examples: int
    intervention: str
    metric: str

    @classmethod
    def of(cls, run: CircuitRun, *, n_boot: int = N_BOOT, seed: int = 0) -> Faithfulness:
        """The faithfulness of a circuit that was run. Raises `NoGap` where it has no meaning (see the module docstring)."""
        counts = draw_counts(len(run.read), n_boot, seed)
        check_gap(run, counts)
        spread = spread_of(run, recovered(run, counts))
        return cls(
            recovered(run)[0].item(), spread.low, spread.high,
            *(run.mean(outcome) for outcome in (run.circuit, run.clean, run.base)),
            *(share(run, getattr(outcome, kind)) for kind in ("first", "above_foil") for outcome in (run.circuit, run.clean)),
            kept=run.kept, n_edges=run.n_edges, n_examples=int((run.read > 0).sum()), intervention=run.intervention, metric=run.metric,
        )  # fmt: skip

    def to_dataframe(self) -> pd.DataFrame:
        """One row with every field as a column."""
        return pd.DataFrame([asdict(self)])

    def figure(self) -> go.Figure:
        """Faithfulness with its interval, between the base (0) and the model (1)."""
        text = f"faithfulness %{{x:.3f}} [{self.low:.3f}, {self.high:.3f}]<extra></extra>"
        bars = {"array": [self.high - self.value], "arrayminus": [self.value - self.low], "symmetric": False}
        marker = {"size": 12, "color": COLOURS["arm"]}
        label = f"{self.kept:,} of<br>{self.n_edges:,} edges"
        figure = go.Figure(go.Scatter(x=[self.value], y=[label], error_x=bars, mode="markers", marker=marker, hovertemplate=text))
        for at, name in {0: f"base {self.base:.2f}", 1: f"model {self.clean:.2f}"}.items():
            figure.add_vline(x=at, line={"color": QUIET, "width": 1, "dash": "dot"}, annotation_text=name, annotation_position="top")
        figure.update_xaxes(title_text=f"faithfulness, 95 % over {self.n_examples} examples ({plain(self.metric)} at the lines)")
        return style(figure, 190)

    def _repr_html_(self) -> str:
        return card(
            "Faithfulness",
            f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.kept} of {self.n_edges} edges on "
            f"{self.n_examples} examples ({self.intervention}); {self.metric} {self.circuit:.3f} between {self.base:.3f} and "
            f"{self.clean:.3f}; answer first in {self.accuracy:.0%}, in the whole model in {self.clean_accuracy:.0%}",
        )


def faithfulness(
    model: HookedModel, readouts: Readouts, circuit: Circuit, *, n_boot: int = N_BOOT, seed: int = 0, **settings: Unpack[RunSettings]
) -> Faithfulness:
    """Faithfulness of `circuit` in `model` on `readouts`; `settings` are those of `run_circuit`, which also says what it costs and raises.

    Raises `NoGap` (a ValueError) where clean and base metric do not differ beyond chance, ValueError unless `n_boot` is at least 1.
    """
    check_draws(n_boot)
    return Faithfulness.of(run_circuit(model, readouts, circuit, **settings), n_boot=n_boot, seed=seed)


def recovered(run: CircuitRun, counts: Float[Tensor, "draws n_examples"] | None = None) -> Float[Tensor, " draws"]:
    """Faithfulness of a run on each draw, float64. `counts` says how often each example is drawn; by default once, in one draw."""
    counts = torch.ones(1, len(run.read), dtype=torch.float64) if counts is None else counts
    circuit, clean, base = (outcome.metric.double() * run.read for outcome in (run.circuit, run.clean, run.base))
    # A ratio of sums. The mean of ratios would weigh prompts with a small gap most.
    return (counts @ (circuit - base)) / (counts @ (clean - base))


def spread_of(run: CircuitRun, draws: Float[Tensor, " draws"]) -> Interval:
    """The interval of `draws`; NaN throughout where fewer than two examples were read, since drawing one example anew says nothing."""
    return interval(draws.tolist() if int((run.read > 0).sum()) > 1 else [])


def share(run: CircuitRun, kind: Tensor) -> float:
    """The share in [0, 1] of examples for which `kind` is true, among those that are read at least once."""
    return kind[run.read > 0].double().mean().item()


def check_gap(run: CircuitRun, counts: Float[Tensor, "draws n_examples"], where: str = "these readouts") -> None:
    """Raise `NoGap` when 0 lies inside the bootstrap interval of m(clean) − m(base): the ratio's denominator would be noise."""
    read = run.read.double()
    # `metric` is a mean over an example's positions; times `read` it is their sum.
    gap = (run.clean.metric.double() - run.base.metric.double()) * read
    draws = counts @ gap / (counts @ read)
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    if low <= 0 <= high:
        clean, base = run.mean(run.clean), run.mean(run.base)
        raise NoGap(
            f"faithfulness has no meaning on {where}: {run.metric} is {clean:.3g} clean and {base:.3g} at the base, and the 95 % interval "
            f"of their difference over {len(read)} examples, [{low:.3g}, {high:.3g}], holds 0; read examples that the model solves "
            "(mechshift_tl.readouts.pool), or more of them"
        )
