"""Figures draw the numbers of the results they are of."""

import dataclasses
from typing import Any

import numpy as np

from mechshift_tl import plotting as look
from mechshift_tl.report import figures
from mechshift_tl.report.headline import overlaps


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


def test_the_curve_over_n_shows_chance(task_study):
    drawing = figures.overlap_curves(task_study)
    frame = task_study.comparisons["mdm"].curve
    np.testing.assert_allclose(traces(drawing, "ARM → MDM")[0].y, frame["jaccard"])
    np.testing.assert_allclose(traces(drawing, "by chance")[0].y, frame["expected"])


def test_bare_circuits_have_no_curve(task_study):
    bare = {role: dataclasses.replace(c, curve=None) for role, c in task_study.comparisons.items()}
    assert figures.overlap_curves(dataclasses.replace(task_study, comparisons=bare)) is None


def test_colours():
    assert look.faded("arm", 0.5) == "rgba(35,98,159,0.5)"
    assert look.plain("<b>") == "&lt;b&gt;"
