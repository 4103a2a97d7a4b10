"""The picture of a circuit: every edge from its writer to its reader, in the colour of its sign and the width of its score."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.picture import COLOURS, THICK
from mechshift_tl.graph import Graph

PLAIN = Graph(2, 2, 2)
GROUPED = Graph(3, 4, 2)
HAND = {("input", "a0.h0<q>"): 4.0, ("input", "a0.h0<v>"): 1.0, ("a0.h0", "m0"): -0.25, ("m0", "logits"): -4.0}


def layout(figure: go.Figure) -> Any:
    """Plotly makes the attributes of a layout at run time."""
    return figure.layout


def traces(figure: go.Figure) -> tuple[Any, ...]:
    return tuple(figure.data)


def boxes(figure: go.Figure) -> dict[str, Any]:
    return {box.text: box for box in layout(figure).annotations}


def curves(figure: go.Figure) -> dict[str, tuple[np.ndarray, Any]]:
    """Each drawn edge by the first line of its hover text: its points, and the line they are drawn with."""
    found = {}
    for trace in traces(figure):
        if trace.mode == "lines" and trace.text is not None:
            points = np.array([trace.x, trace.y], dtype=float).T
            for ends in np.split(np.arange(len(points)), np.flatnonzero(np.isnan(points[:, 0])) + 1):
                if len(ends):
                    found[trace.text[ends[0]].split("</b>")[0].removeprefix("<b>")] = (points[ends[:-1]], trace.line)
    return found


def random_circuit(scored, graph: Graph, n: int) -> Circuit:
    matrix = torch.randn(graph.possible.shape, generator=torch.Generator().manual_seed(0)) * graph.possible
    return Circuit.from_scores(scored(graph, matrix), n)


def test_signs_have_colours_and_scores_have_widths(scored):
    drawn = curves(Circuit.from_scores(scored(PLAIN, HAND), 4).figure())
    style = {name: (line.color, line.width) for name, (_, line) in drawn.items()}
    assert style == {
        "input → a0.h0&lt;q&gt;": (COLOURS[1], THICK),
        "input → a0.h0&lt;v&gt;": (COLOURS[1], THICK / 2),
        "a0.h0 → m0": (COLOURS[-1], pytest.approx(THICK / 3)),  # a quarter, in steps of a sixth
        "m0 → logits": (COLOURS[-1], THICK),
    }


@pytest.mark.parametrize("graph", [PLAIN, GROUPED, Graph(3, 4, 2, "ungrouped"), Graph(12, 12, 12)])
def test_every_edge_runs_from_its_writer_to_its_reader(graph, scored):
    circuit = random_circuit(scored, graph, min(graph.n_edges, 3000))
    figure = circuit.figure(200)
    place, drawn = boxes(figure), curves(figure)
    table = circuit.to_dataframe().head(200)
    assert len(drawn) == len(table)
    for writer, reader in zip(table["writer"], table["reader"], strict=True):
        points, _ = drawn[f"{writer} → {reader.replace('<', '&lt;').replace('>', '&gt;')}"]
        heads = [place[component] for component in graph.components_of(reader) or ["logits"]]
        assert 0 < points[0, 0] - place[writer].x < 30 and points[0, 1] == place[writer].y
        assert -60 < points[-1, 0] - heads[0].x < 30 and abs(points[-1, 1] - np.mean([box.y for box in heads])) <= 13


def test_components_without_edges_are_left_out_and_keep_their_place(scored):
    few, many = Circuit.from_scores(scored(PLAIN, HAND), 4).figure(), random_circuit(scored, PLAIN, 46).figure()
    assert boxes(few).keys() == {"input", "a0.h0", "m0", "logits"}
    assert all((box.x, box.y) == (boxes(many)[name].x, boxes(many)[name].y) for name, box in boxes(few).items())
    assert list(layout(few).xaxis.range) == list(layout(many).xaxis.range)


def test_columns_are_layers_and_rows_are_heads_with_the_mlp_below(scored):
    place = boxes(random_circuit(scored, GROUPED, 190).figure())
    for layer in range(3):
        column = [place[name] for name in (*(f"a{layer}.h{h}" for h in range(4)), f"m{layer}")]
        assert len({box.x for box in column}) == 1 and [box.y for box in column] == sorted(box.y for box in column)
    assert place["input"].x < place["a0.h0"].x < place["a1.h0"].x < place["a2.h0"].x < place["logits"].x


def test_a_group_is_a_bar_before_its_heads(scored):
    edges = {("input", "a0.g1<v>"): 1.0, ("input", "a0.g1<k>"): 1.0, ("a0.h3", "logits"): 1.0}
    figure = Circuit.from_scores(scored(GROUPED, edges), 3).figure()
    (bar,), place = layout(figure).shapes, boxes(figure)
    assert bar.y0 < place["a0.h2"].y < place["a0.h3"].y < bar.y1 and bar.x0 == bar.x1 < place["a0.h2"].x
    letters = next(trace for trace in traces(figure) if trace.mode == "markers+text")
    assert sorted(letters.text) == ["k", "v"] and all(x < bar.x0 for x in letters.x)


def test_hovering_tells_q_k_and_v_apart_and_sums_around_a_component(scored):
    figure = Circuit.from_scores(scored(PLAIN, HAND), 4).figure()
    texts = {text for trace in traces(figure) if trace.mode == "lines" and trace.text is not None for text in trace.text}
    assert "<b>input → a0.h0&lt;q&gt;</b> +4<br>input → a0.h0: q +4, v +1" in texts and "<b>m0 → logits</b> -4" in texts
    hover = boxes(figure)["a0.h0"].hovertext
    assert hover == "<b>a0.h0</b>, Σ|score|<br>sends 0.25<br>a0.h0&lt;q&gt; reads 4<br>a0.h0&lt;v&gt; reads 1"


def test_the_strongest_are_drawn_and_the_axis_says_of_how_many(scored):
    circuit = random_circuit(scored, GROUPED, 100)
    assert layout(circuit.figure(5)).xaxis.title.text == f"layer (the strongest 5 of {circuit.kept} edges drawn)"
    assert layout(circuit.figure()).xaxis.title.text == f"layer ({circuit.kept} edges drawn)"
    strongest = (circuit.to_dataframe()["writer"] + " → " + circuit.to_dataframe()["reader"]).head(5)
    assert {name.replace("&lt;", "<").replace("&gt;", ">") for name in curves(circuit.figure(5))} == set(strongest)


def test_edges_without_a_score_are_drawn_without_a_sign(scored):
    figure = (~random_circuit(scored, PLAIN, 40)).figure()
    assert {line.color for _, line in curves(figure).values()} == {COLOURS[0]}


def test_a_picture_of_nothing_is_refused(scored):
    circuit = Circuit.from_scores(scored(PLAIN, HAND), 4)
    with pytest.raises(ValueError, match="a picture of 0 of 4 edges shows nothing"):
        circuit.figure(0)
    with pytest.raises(ValueError, match="a picture of 200 of 0 edges shows nothing"):
        (circuit - circuit).figure()
