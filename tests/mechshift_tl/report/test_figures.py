"""Figures draw the numbers of the results they are of."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from mechshift_tl import plotting as look
from mechshift_tl.report import figures
from mechshift_tl.report.overlap_figure import overlaps


def data(drawing) -> Any:  # plotly makes its attributes at run time
    return drawing.figure.data


def traces(drawing, name) -> list[Any]:
    return [trace for trace in data(drawing) if trace.name == name]


def test_overlaps_are_drawn_between_their_bounds(study, task_study):
    comparison = task_study.comparisons["mdm"]
    statistic = comparison.statistics["edge_jaccard"]
    drawn = [(trace.hovertemplate.split(" %{")[0], list(trace.x)) for trace in data(overlaps(study)) if trace.y[0] and "MDM" in trace.y[0]]
    edges = dict(drawn[:5])
    assert edges["floor"] == [statistic.floor.low, statistic.floor.high]
    assert edges["95 % over prompts"] == [statistic.interval.low, statistic.interval.high]
    assert edges["overlap"] == [statistic.value] and edges["ceiling"] == [statistic.ceiling]


@pytest.mark.parametrize(
    ("draw", "frame", "column"), [(figures.depth_profiles, "profiles", "readers"), (figures.early_shares, "early", "share")]
)
def test_depth_curves(task_study, draw, frame, column):
    drawing = draw(task_study)
    for role, name in (("mdm", "MDM"), ("control", "control")):
        rows = getattr(task_study.comparisons[role], frame).query("circuit == 'b'")
        rows = rows.query("depth != 'input'") if frame == "profiles" else rows
        (curve,) = traces(drawing, name)
        np.testing.assert_allclose(curve.y, rows[column])
        assert curve.line.color == look.COLOURS[role]
    (arm,) = traces(drawing, "ARM")
    assert len(arm.y) == len(curve.y)
    assert sum(trace.fill == "toself" for trace in data(drawing)) == 3


def test_the_curve_over_n_shows_chance(task_study):
    drawing = figures.overlap_curves(task_study)
    frame = task_study.comparisons["mdm"].curve
    np.testing.assert_allclose(traces(drawing, "ARM → MDM")[0].y, frame["jaccard"])
    np.testing.assert_allclose(traces(drawing, "by chance")[0].y, frame["expected"])


def test_bare_circuits_have_no_curve(task_study):
    bare = {role: dataclasses.replace(c, curve=None) for role, c in task_study.comparisons.items()}
    assert figures.overlap_curves(dataclasses.replace(task_study, comparisons=bare)) is None


def test_steps_are_drawn_where_there_are_several(task_study):
    drawing = figures.step_stability(task_study)
    whole = task_study.step_stability("mdm")
    components, edges = traces(drawing, "MDM")
    np.testing.assert_allclose(components.y, whole["components_shared"])
    np.testing.assert_allclose(edges.y, whole["edge_jaccard"])
    single = {role: scores.step(0) for role, scores in task_study.scores.items()}
    assert figures.step_stability(dataclasses.replace(task_study, scores=single)) is None


def test_neuron_maps_share_their_colours_and_escape_their_groups(task_study):
    drawing = figures.neurons(task_study)
    assert len(data(drawing)) == 3
    for one, heat in zip(task_study.neurons.values(), data(drawing), strict=True):
        np.testing.assert_allclose(heat.z, one.heatmap_frame(figures.NEURONS_SHOWN))
        assert heat.coloraxis == "coloraxis" and heat.customdata[0][0] == one.top(1)["neuron"].item()
        assert all(group.startswith("&lt;script&gt;") for group in heat.y)
    axis: Any = drawing.figure.layout.coloraxis
    assert axis.cmin == -axis.cmax


def test_colours():
    assert look.faded("arm", 0.5) == "rgba(35,98,159,0.5)"
    assert look.plain("<b>") == "&lt;b&gt;"
