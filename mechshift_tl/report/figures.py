"""The figures of a report, each with its caption.

Every figure of a task shows its models in the same colours and markers; the ARM's numbers come from its first comparison (all share them),
every other model's from its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechshift_tl.compare.result import Statistic
from mechshift_tl.report.look import COLOURS, DASHES, DIVERGING, INK, QUIET, SYMBOLS, Drawing, faded, plain, style
from mechshift_tl.study.results import ROLE_NAMES, Study, TaskStudy

OVERLAPS = {"edge_jaccard": "edges", "component_jaccard": "components (top K)"}
FLOOR_LINE = {"color": "#cfd5db", "width": 14}
NEURONS_SHOWN = 40
BAND = "Bands: 95 % of bootstrap draws over prompts."
NO_BAND = "No intervals: prompts were not resampled."


def overlaps(study: Study) -> Drawing:
    """Edge and component overlap of every comparison as a dot with its interval, between floor and ceiling."""
    rows = [(task, role, c) for task, one in study.tasks.items() for role, c in one.comparisons.items()]
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, name in enumerate(OVERLAPS, 1):
        statistics = [(f"{plain(task)}  ARM → {ROLE_NAMES[role]}", role, c.statistics[name]) for task, role, c in rows]
        for label, role, statistic in statistics:
            _floor_bar(figure, label, statistic, column)
            _dot(figure, label, role, statistic, column)
        _ceilings(figure, statistics, column)
        figure.update_xaxes(title_text=f"Jaccard of {OVERLAPS[name]}", rangemode="tozero", col=column)
    _overlap_legend(figure)
    figure.update_yaxes(autorange="reversed")
    n = ", ".join(f"{task} {len(one.pool)}" for task, one in study.tasks.items())
    caption = (
        f"Overlap of the ARM's circuit with each other model's, in [0, 1]; prompts: {n}. Dot and line: value and 95 % bootstrap interval over "
        "prompts (the interval lies low by its nature). Grey bar: the floor, 95 % of random circuits with the same layer profiles, and its "
        "mean. Open triangle: the ceiling, a model with itself on disjoint halves of the prompts, the lower of the two models'."
    )
    return Drawing(style(figure, 110 + 46 * len(rows)), "Overlap between floor and ceiling", caption)


def _mark(figure: go.Figure, column: int, x: list[float], label: str, hover: str, **drawn: Any) -> None:
    """Points or a line in the row `label`."""
    figure.add_scatter(
        x=x, y=[label] * len(x), hovertemplate=f"{hover} %{{x:.3f}}<extra></extra>", showlegend=False, row=1, col=column, **drawn
    )


def _floor_bar(figure: go.Figure, label: str, statistic: Statistic, column: int) -> None:
    if floor := statistic.floor:
        _mark(figure, column, [floor.low, floor.high], label, "floor", mode="lines", line=FLOOR_LINE)
        tick = {"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": QUIET}}
        _mark(figure, column, [floor.mean], label, "floor, mean", mode="markers", marker=tick)


def _dot(figure: go.Figure, label: str, role: str, statistic: Statistic, column: int) -> None:
    if over := statistic.interval:
        line = {"color": COLOURS[role], "width": 2.5}
        _mark(figure, column, [over.low, over.high], label, "95 % over prompts", mode="lines", line=line)
    marker = {"color": COLOURS[role], "symbol": SYMBOLS[role], "size": 11, "line": {"color": "white", "width": 1.5}}
    _mark(figure, column, [statistic.value], label, "overlap", mode="markers", marker=marker)


def _ceilings(figure: go.Figure, statistics: list[tuple[str, str, Statistic]], column: int) -> None:
    known = [(label, one.ceiling) for label, _, one in statistics if one.ceiling is not None]
    marker = {"symbol": "triangle-left-open", "size": 11, "color": INK, "line": {"width": 1.6}}
    figure.add_scatter(
        x=[ceiling for _, ceiling in known], y=[label for label, _ in known], mode="markers", marker=marker, name="ceiling",
        showlegend=column == 1, hovertemplate="ceiling %{x:.3f}<extra></extra>", col=column, row=1,
    )  # fmt: skip


def _overlap_legend(figure: go.Figure) -> None:
    """Entries for what the rows draw without one."""
    for name, line in (("value and interval", {"color": COLOURS["mdm"], "width": 2.5}), ("floor", FLOOR_LINE)):
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, row=1, col=1)


def by_role(task: TaskStudy, frame: str) -> dict[str, pd.DataFrame]:
    """Role → its rows of the comparisons' frame `profiles` or `early`."""
    first = next(iter(task.comparisons.values()))
    frames = {"arm": getattr(first, frame).query("circuit == 'a'")}
    return frames | {role: getattr(c, frame).query("circuit == 'b'") for role, c in task.comparisons.items()}


def depth_profiles(task: TaskStudy) -> Drawing:
    """Where in depth each model's circuit sits: share of |score| by the layer of the edge's reader."""
    figure = go.Figure()
    labels: list[str] = []
    for role, frame in by_role(task, "profiles").items():
        frame = frame.query("depth != 'input'")  # nothing is read there
        labels = frame["depth"].tolist()
        _line(figure, role, list(range(len(labels))), frame.rename(columns={"readers": "share"}))
    every = max(1, len(labels) // 16)
    ticks = [i for i in range(len(labels) - 1) if i % every == 0] + [len(labels) - 1]
    figure.update_xaxes(title_text="layer of the edge's reader", tickvals=ticks, ticktext=[labels[i] for i in ticks])
    figure.update_yaxes(title_text="share of the circuit's |score|", rangemode="tozero")
    caption = f"Share of the circuit's |score| by the layer of each edge's reader; each model sums to 1. n = {len(task.pool)} prompts. {_bands(task)}"
    return Drawing(style(figure, 340), "Depth profile", caption)


def early_shares(task: TaskStudy) -> Drawing:
    """The early share of each model's circuit as a curve over the cut."""
    figure = go.Figure()
    for role, frame in by_role(task, "early").items():
        _line(figure, role, frame["cut"].tolist(), frame)
    cut = next(iter(task.comparisons.values())).settings["cut"]
    figure.add_vline(x=cut, line={"color": QUIET, "width": 1, "dash": "dash"})
    figure.update_xaxes(title_text="cut: layers below it count as early", rangemode="tozero")
    figure.update_yaxes(title_text="share of the layers' |score|", range=[0, 1.03])
    caption = (
        f"Early share: the part of the layers' |score| that lies below each cut, by the edge's reader; edges into logits are left out. "
        f"Dashed: the cut used in tables, {cut}. n = {len(task.pool)} prompts. {_bands(task)}"
    )
    return Drawing(style(figure, 340), "Early share over the cut", caption)


def _bands(task: TaskStudy) -> str:
    return BAND if all("low" in c.profiles for c in task.comparisons.values()) else NO_BAND


def _line(figure: go.Figure, role: str, x: list[int], frame: pd.DataFrame) -> None:
    """A role's `share` over x, above its band where `frame` has one."""
    if "low" in frame:
        band = frame["high"].tolist() + frame["low"].tolist()[::-1]
        figure.add_scatter(x=x + x[::-1], y=band, fill="toself", fillcolor=faded(role), line={"width": 0}, hoverinfo="skip", showlegend=False)
    figure.add_scatter(
        x=x, y=frame["share"].tolist(), mode="lines+markers", name=ROLE_NAMES[role], line={"color": COLOURS[role], "dash": DASHES[role]},
        marker={"symbol": SYMBOLS[role], "size": 8}, hovertemplate="%{y:.3f}",
    )  # fmt: skip


def overlap_curves(task: TaskStudy) -> Drawing | None:
    """Edge overlap over the circuit size, with what unconstrained random circuits would share; None for bare circuits."""
    curves = {role: c.curve for role, c in task.comparisons.items() if c.curve is not None}
    if not curves:
        return None
    figure = go.Figure()
    for role, curve in curves.items():
        _line(figure, role, curve["n"].tolist(), curve.rename(columns={"jaccard": "share"}))
        figure.data[-1].name = f"ARM → {ROLE_NAMES[role]}"
    sizes = next(iter(curves.values()))
    figure.add_scatter(
        x=sizes["n"].tolist(), y=sizes["expected"].tolist(), mode="lines", name="by chance", line={"color": QUIET, "dash": "dash", "width": 1.5},
        hovertemplate="%{y:.3f}",
    )  # fmt: skip
    n = next(iter(task.comparisons.values())).requested[0]
    figure.add_vline(x=n, line={"color": QUIET, "width": 1, "dash": "dash"})
    shown = sizes["n"].tolist()[:: max(1, len(sizes) // 6)]
    figure.update_xaxes(title_text="edges requested per circuit (log scale)", type="log", tickvals=shown, ticktext=[f"{s:,}" for s in shown])
    figure.update_yaxes(title_text="Jaccard of edges", rangemode="tozero")
    caption = (
        f"Edge overlap over the circuit size; vertical: the size used in tables, {n:,}. By chance: expected of two sets of as many edges drawn "
        f"from all possible ones, a laxer floor than the table's. n = {len(task.pool)} prompts; no intervals are computed along the curve."
    )
    return Drawing(style(figure, 340), "Overlap over circuit size", caption)


def step_stability(task: TaskStudy) -> Drawing | None:
    """How much of each step's circuit the whole circuit has; None for tasks of one step."""
    if all(len(scores.steps) < 2 for scores in task.scores.values()):
        return None
    titles = {"components_shared": "components that the whole circuit has", "edge_jaccard": "edges: Jaccard with the whole circuit"}
    figure = make_subplots(1, 2, subplot_titles=[f"share of {titles['components_shared']}", titles["edge_jaccard"]], horizontal_spacing=0.08)
    for role in task.scores:
        frame = task.step_stability(role)
        for column, name in enumerate(titles, 1):
            figure.add_scatter(
                x=frame["step"].tolist(), y=frame[name].tolist(), customdata=frame["n_read"].tolist(), mode="lines+markers",
                name=ROLE_NAMES[role], legendgroup=role, showlegend=column == 1, line={"color": COLOURS[role], "dash": DASHES[role]},
                marker={"symbol": SYMBOLS[role], "size": 8}, hovertemplate="step %{x}: %{y:.2f}, %{customdata} positions read", row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(range=[0, 1.05])
    figure.update_annotations(font_size=13)
    caption = (
        f"Each step's own circuit, of the same size, against the circuit over all steps. n = {len(task.pool)} prompts; a step reads one answer "
        "position of the prompts that have one to read there. An ARM's step is the answer token it writes, an MDM's the order in which it "
        "commits: the same step need not be the same position in two models. No intervals or floor are computed per step."
    )
    return Drawing(style(figure, 340, legend_y=1.1, margin_t=64), "Stability over steps", caption)


def neurons(task: TaskStudy) -> Drawing:
    """Mean activations of each model's most selective early-layer neurons by prompt group."""
    frames = {role: one.heatmap_frame(NEURONS_SHOWN) for role, one in task.neurons.items()}
    limit = max(float(np.quantile(frame.abs(), 0.98)) for frame in frames.values()) or 1.0
    figure = make_subplots(1, len(frames), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=[ROLE_NAMES[role] for role in frames])
    for column, frame in enumerate(frames.values(), 1):
        figure.add_heatmap(
            z=frame.to_numpy(), x=list(range(frame.shape[1])), y=[plain(group) for group in frame.index], customdata=[list(frame.columns)] * len(frame),
            coloraxis="coloraxis", hovertemplate="%{customdata}, %{y}: %{z:.3f}<extra></extra>", row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(showticklabels=False, showgrid=False, title_text="neurons, most selective first")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    bar = {"title": {"text": "mean<br>activation"}, "thickness": 12, "outlinewidth": 0}
    axis = {"colorscale": DIVERGING, "cmin": -limit, "cmax": limit, "colorbar": bar}
    one = next(iter(task.neurons.values()))
    caption = (
        f"Layer {one.layer}: mean activation (the model's own unit; colours saturate at ±{limit:.2g}) of each model's {next(iter(frames.values())).shape[1]} "
        f"neurons of largest η² between prompt groups, over {len(one.groups)} groups of {sum(one.sizes)} prompts "
        f"({one.settings.get('left_out', 0)} in groups of one are left out). Columns of two models are different neurons. "
        "How many exceed chance is said above the figure."
    )
    return Drawing(style(figure, 150 + 18 * max(6, len(one.groups)), coloraxis=axis), "Early-layer neurons", caption)
