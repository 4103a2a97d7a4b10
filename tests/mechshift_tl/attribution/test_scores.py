"""`EdgeScores`: its table, its files, its parts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.settings import AttributionSettings
from mechshift_tl.graph import Graph

GRAPH = Graph(n_layers=1, n_heads=2, n_kv_heads=1)


@pytest.fixture
def scores() -> EdgeScores:
    """Two steps of three examples on a one-layer graph; |score| rises along the rows and signs alternate."""
    count = torch.arange(1.0, 1 + len(GRAPH.writers) * len(GRAPH.readers)).reshape(len(GRAPH.writers), -1)
    per_step = torch.stack([count, -3 * count]) * torch.where(count % 2 == 0, 1, -1) * GRAPH.possible
    per_example = torch.stack([per_step[0], 2 * per_step[1], per_step[1]])
    return EdgeScores(
        matrix=(2 * per_step[0] + 6 * per_step[1]) / 8,
        graph=GRAPH,
        per_step=per_step,
        steps=[1, 4],
        n_read=[2, 6],
        clean=1.5,
        corrupt=-0.5,
        n_examples=3,
        settings=AttributionSettings(ig_steps=5),
        provenance={"model": {"name": "x"}},
        per_example=per_example,
        ends_per_example=torch.tensor([[2.0, 4.0, 6.0], [0.0, 1.0, -5.0]]),
        read_per_example=torch.tensor([2, 2, 4]),
    )


def test_the_table_has_every_possible_edge_strongest_first(scores) -> None:
    frame = scores.to_dataframe()
    assert list(frame.columns) == ["writer", "reader", "score", "writer_layer", "reader_layer"]
    assert len(frame) == GRAPH.n_edges
    assert frame["score"].abs().is_monotonic_decreasing
    assert frame.iloc[0].tolist() == ["m0", "logits", pytest.approx(scores.matrix[-1, -1].item()), 0, 1]
    for edge in frame.itertuples():
        row, column = scores.writers.index(edge.writer), scores.readers.index(edge.reader)
        assert scores.matrix[row, column] == edge.score
    tied = dataclasses.replace(scores, matrix=scores.matrix.div(20).round() * GRAPH.possible)
    for one in (scores, tied):
        for n in (0, 1, 3, GRAPH.n_edges, 10**6):
            assert one.top(n).equals(one.to_dataframe().head(n)), n


def test_effect_and_gap(scores) -> None:
    assert scores.effect == 2.0
    assert scores.completeness_gap == pytest.approx((scores.matrix[0].sum().item() - 2) / 2)
    assert dataclasses.replace(scores, clean=0.0, corrupt=2.0).completeness_gap == pytest.approx((scores.matrix[0].sum().item() + 2) / 2)


def test_one_step(scores) -> None:
    last = scores.step(4)
    assert torch.equal(last.matrix, scores.per_step[1]) and last.n_read == [6] and last.settings == scores.settings
    assert last.made_by() == scores.settings.defining() | {"step": 4}
    with pytest.raises(KeyError, match=r"step 0 was not read; steps are \[1, 4\]"):
        scores.step(0)
    with pytest.raises(ValueError, match="keep_per_example=True"):
        last.resample([0])


def test_a_resample_divides_sums_by_the_positions_drawn(scores) -> None:
    drawn = scores.resample([2, 2, 0])
    torch.testing.assert_close(drawn.matrix, (2 * scores.per_example[2] + scores.per_example[0]) / 10)
    assert (drawn.clean, drawn.corrupt, drawn.n_examples, drawn.n_read) == (pytest.approx(1.4), pytest.approx(-1.0), 3, [10])
    for examples in ([], [3], [0, -1]):
        with pytest.raises(ValueError, match="are not indices of 3 examples; give at least one"):
            scores.resample(examples)


@pytest.mark.parametrize("per_example", [True, False])
def test_a_file_brings_back_everything(scores, tmp_path, per_example: bool) -> None:
    if not per_example:
        scores = dataclasses.replace(scores, per_example=None, ends_per_example=None, read_per_example=None)
    scores.save(tmp_path / "scores.safetensors")
    loaded = EdgeScores.load(tmp_path / "scores.safetensors")
    for field in dataclasses.fields(scores):
        one, other = getattr(scores, field.name), getattr(loaded, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, field.name


def test_a_foreign_file_is_refused(tmp_path) -> None:
    from safetensors.torch import save_file

    save_file({"matrix": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds no edge scores; give a file written by EdgeScores.save"):
        EdgeScores.load(tmp_path / "x.safetensors")


def test_a_notebook_shows_the_strongest_edges(scores) -> None:
    html = scores._repr_html_()
    assert "11 edges, 3 examples, effect 2.000" in html and html.count("<tr") == 11


def test_scores_that_do_not_fit_their_graph_are_refused(scored) -> None:
    """Whatever its size: nothing of the size that a header names is made."""
    scores = scored(Graph(2, 2, 2), {("input", "m0"): 1.0})
    for other in (Graph(3, 2, 2), Graph(10**6, 10**6, 10**6)):
        with pytest.raises(ValueError, match=r"matrix is \(7, 15\); its graph is .* writers × readers"):
            dataclasses.replace(scores, graph=other)
