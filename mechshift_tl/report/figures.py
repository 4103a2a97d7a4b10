"""The figures of one task, each with its caption.

A model has the same colour and marker in all of them. The ARM's numbers come from its first comparison (all share them), every other
model's from its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechshift_tl.compare.result import CircuitComparison
from mechshift_tl.plotting import COLOURS, DASHES, DIVERGING, QUIET, ROLE_NAMES, SIZE, SYMBOLS, Drawing, faded, plain, style
from mechshift_tl.study.results import TaskStudy

HEIGHT = 340
TICKS = 16
NEURONS_SHOWN = 40
EDGES_DRAWN = 120
DASHED = {"color": QUIET, "width": 1.5, "dash": "dash"}
STEP_STATISTICS = {
    "components_shared": "share of components that the whole circuit has",
    "edge_jaccard": "edges: Jaccard with the whole circuit",
}

DEPTH_CAPTION = "Share of the circuit's |score| by the layer of each edge's reader; each model sums to 1. n = {n} prompts. {bands}"
EARLY_CAPTION = """\
Early share: the part of the layers' |score| that lies below each cut, by the edge's reader; edges into logits are left out. Dashed: the cut
used in tables, {cut}. n = {n} prompts. {bands}"""
CURVE_CAPTION = """\
Edge overlap over the circuit size; vertical: the size used in tables, {size:,}. By chance: expected of two sets of as many edges drawn from
all possible ones, a laxer floor than the table's. n = {n} prompts; no intervals are computed along the curve."""
FAITHFUL_CAPTION = """\
(m(circuit) − m(corrupt)) / (m(clean) − m(corrupt)) when every edge outside the circuit is patched from the corrupt run; by |score|.
1: as the model, 0: as no circuit. Bands: 95 % over {n} prompts that the circuits were not found on. Dashed, in a model's colour:
random circuits with the same layer profile, mean."""
PICTURE_CAPTION = """\
The {shown} edges of largest |score| of the {kept} in the circuit, from {n} prompts; colour: sign, width: |score|. Edges carry no intervals
here."""
STEP_CAPTION = """\
Each step's own circuit, of the same size, against the circuit over all steps. n = {n} prompts; a step reads those that have a position to
read there. An ARM's step is the answer token it writes, an MDM's the order in which it commits: the same step need not be the same position
in two models. No intervals or floors are computed per step."""
NEURON_CAPTION = """\
Layer {layer}: mean activation (in the model's unit; colours saturate at ±{limit:.2g}) of each model's {shown} neurons of largest η²
between prompt groups, over {groups} groups of {members} prompts; {left_out} in groups of one are left out. η² by chance: {null:.3f}. How
many neurons exceed chance is said above. Columns of two models are different neurons."""


def by_role(task: TaskStudy, frame: str) -> dict[str, pd.DataFrame]:
    """Role → its rows of the comparisons' frame `profiles` or `early`."""
    frames = {"arm": getattr(_first(task), frame).query("circuit == 'a'")}
    return frames | {role: getattr(c, frame).query("circuit == 'b'") for role, c in task.comparisons.items()}


def depth_profiles(task: TaskStudy) -> Drawing:
    """Where in depth each model's circuit sits: share of |score| by the layer of the edge's reader."""
    figure = go.Figure()
    labels: list[str] = []
    for role, frame in by_role(task, "profiles").items():
        frame = frame.query("depth != 'input'")  # nothing is read there
        labels = frame["depth"].tolist()
        _line(figure, role, range(len(labels)), frame["readers"], frame)
    last = len(labels) - 1
    ticks = [*range(0, last, max(1, last // TICKS)), last]
    figure.update_xaxes(title_text="layer of the edge's reader", tickvals=ticks, ticktext=[labels[i] for i in ticks])
    figure.update_yaxes(title_text="share of the circuit's |score|", rangemode="tozero")
    return Drawing(style(figure, HEIGHT), "Depth profile", DEPTH_CAPTION.format(n=len(task.pool), bands=_bands(task)))


def early_shares(task: TaskStudy) -> Drawing:
    """The early share of each model's circuit as a curve over the cut."""
    figure = go.Figure()
    for role, frame in by_role(task, "early").items():
        _line(figure, role, frame["cut"], frame["share"], frame)
    cut = _first(task).settings.cut
    figure.add_vline(x=cut, line=DASHED)
    figure.update_xaxes(title_text="cut: layers below it count as early", rangemode="tozero")
    figure.update_yaxes(title_text="share of the layers' |score|", range=[0, 1.03])
    caption = EARLY_CAPTION.format(cut=cut, n=len(task.pool), bands=_bands(task))
    return Drawing(style(figure, HEIGHT), "Early share over the cut", caption)


def overlap_curves(task: TaskStudy) -> Drawing | None:
    """Edge overlap over the circuit size, with what unconstrained random circuits would share; None for bare circuits."""
    curves = {role: c.curve for role, c in task.comparisons.items() if c.curve is not None}
    if not curves:
        return None
    figure = go.Figure()
    for role, curve in curves.items():
        _line(figure, role, curve["n"], curve["jaccard"], name=f"ARM → {ROLE_NAMES[role]}")
    chance = next(iter(curves.values()))
    sizes = chance["n"].tolist()
    figure.add_scatter(x=sizes, y=chance["expected"].tolist(), mode="lines", name="by chance", line=DASHED, hovertemplate="%{y:.3f}")
    size = _first(task).requested[0]
    figure.add_vline(x=size, line=DASHED)
    shown = sizes[:: max(1, len(sizes) // TICKS)]
    labels = [f"{one:,}" for one in shown]
    figure.update_xaxes(title_text="edges requested per circuit (log scale)", type="log", tickvals=shown, ticktext=labels)
    figure.update_yaxes(title_text="Jaccard of edges", rangemode="tozero")
    caption = " ".join([CURVE_CAPTION.format(size=size, n=len(task.pool)), *validity_notes(task)])
    return Drawing(style(figure, HEIGHT), "Overlap over circuit size", caption)


def validity_notes(task: TaskStudy) -> list[str]:
    """What every figure of this task's overlaps must say of the method that found the circuits."""
    notes = [task.evidence.validity_note(role) for role in task.comparisons] if task.evidence else []
    return [note for note in notes if note]


def faithfulness_curves(task: TaskStudy) -> Drawing | None:
    """Faithfulness over the share of edges kept, by |score|, with random circuits; None where no circuit was run."""
    curves = {} if task.evidence is None else task.evidence.curves
    if not curves:
        return None
    figure = go.Figure()
    for role, curve in curves.items():
        rows = curve.table.query("rank == 'magnitude'")
        _line(figure, role, rows["share"], rows["faithfulness"], rows)
        dashed = {"color": COLOURS[role], "width": 1, "dash": "dash"}
        figure.add_scatter(
            x=rows["share"].tolist(), y=rows["random"].tolist(), mode="lines", line=dashed, showlegend=False, hoverinfo="skip"
        )
    for height in (0, 1):
        figure.add_hline(y=height, line=DASHED)
    figure.update_xaxes(title_text="edges kept, share of the possible (log scale)", type="log")
    figure.update_yaxes(title_text="faithfulness")
    n = next(iter(curves.values())).n_examples
    return Drawing(style(figure, HEIGHT), "Faithfulness over circuit size", FAITHFUL_CAPTION.format(n=n))


def circuit_pictures(task: TaskStudy) -> dict[str, Drawing]:
    """The strongest edges of each model's circuit, from input to logits."""
    drawings = {}
    for role, circuit in task.circuits.items():
        shown = min(EDGES_DRAWN, circuit.kept)
        caption = PICTURE_CAPTION.format(shown=shown, kept=circuit.kept, n=len(task.pool))
        drawings[role] = Drawing(circuit.figure(EDGES_DRAWN), f"The circuit of the {ROLE_NAMES[role]}", caption)
    return drawings


def step_stability(task: TaskStudy) -> Drawing | None:
    """How much of each step's circuit the whole circuit has; None for tasks of one step."""
    if all(len(scores.steps) < 2 for scores in task.scores.values()):
        return None
    figure = make_subplots(1, 2, subplot_titles=list(STEP_STATISTICS.values()), horizontal_spacing=0.08)
    for role in task.scores:
        steps = task.step_stability(role)
        for column, name in enumerate(STEP_STATISTICS, 1):
            _line(
                figure, role, steps["step"], steps[name], customdata=steps["n_read"].tolist(), legendgroup=role, showlegend=column == 1,
                hovertemplate="step %{x}: %{y:.2f}, %{customdata} positions read", row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(range=[0, 1.05])
    style(figure, HEIGHT, legend_y=1.1, margin_t=64)
    return Drawing(figure, "Stability over steps", STEP_CAPTION.format(n=len(task.pool)))


def neurons(task: TaskStudy) -> Drawing:
    """Mean activations of each model's most selective early-layer neurons by prompt group."""
    frames = {role: one.heatmap_frame(NEURONS_SHOWN) for role, one in task.neurons.items()}
    limit = max(float(np.quantile(frame.abs(), 0.98)) for frame in frames.values()) or 1.0
    figure = make_subplots(1, len(frames), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=[ROLE_NAMES[role] for role in frames])
    for column, frame in enumerate(frames.values(), 1):
        ids, groups = [list(frame.columns)] * len(frame), [plain(group) for group in frame.index]
        hover = "%{customdata}, %{y}: %{z:.3f}<extra></extra>"
        figure.add_heatmap(z=frame.to_numpy(), y=groups, customdata=ids, coloraxis="coloraxis", hovertemplate=hover, row=1, col=column)
    figure.update_xaxes(showticklabels=False, showgrid=False, title_text="most selective first")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    bar = {"title": {"text": "mean<br>activation", "font": {"size": SIZE}}, "thickness": 12, "outlinewidth": 0}
    one = next(iter(task.neurons.values()))
    style(figure, 150 + 18 * max(6, len(one.groups)), coloraxis={"colorscale": DIVERGING, "cmin": -limit, "cmax": limit, "colorbar": bar})
    shown, left_out = min(NEURONS_SHOWN, len(one.selectivity)), one.left_out
    caption = NEURON_CAPTION.format(
        layer=one.layer, limit=limit, shown=shown, groups=len(one.groups), members=sum(one.sizes), left_out=left_out, null=one.null_mean
    )
    return Drawing(figure, "Early-layer neurons", caption)


def _first(task: TaskStudy) -> CircuitComparison:
    return next(iter(task.comparisons.values()))


def _bands(task: TaskStudy) -> str:
    known = all("low" in c.profiles for c in task.comparisons.values())
    return "Bands: 95 % of bootstrap draws over prompts." if known else "No intervals: prompts were not resampled."


def _line(figure: go.Figure, role: str, x: Iterable[int], y: pd.Series, bounds: pd.DataFrame | None = None, **drawn: Any) -> None:
    """A role's curve, above its band where `bounds` has `low` and `high`."""
    x = list(x)
    if bounds is not None and "low" in bounds:
        edge = bounds["high"].tolist() + bounds["low"].tolist()[::-1]
        band: dict[str, Any] = {"fill": "toself", "fillcolor": faded(role), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=x + x[::-1], y=edge, mode="lines", **band)
    look = {
        "name": ROLE_NAMES[role],
        "line": {"color": COLOURS[role], "dash": DASHES[role]},
        "marker": {"symbol": SYMBOLS[role], "size": 8},
        "hovertemplate": "%{y:.3f}",
    }
    figure.add_scatter(x=x, y=y.tolist(), mode="lines+markers", **look | drawn)
