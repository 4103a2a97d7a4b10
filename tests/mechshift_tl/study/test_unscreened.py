"""The headline without the screen: against attributions of the whole draw at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hooked_diffusion import load_pair
from mechshift_tl.attribution.attribute import attribute_edges
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard
from mechshift_tl.circuits.select import Selection
from mechshift_tl.compare.headline import early_of_all_edges, headline
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import readouts
from mechshift_tl.readouts.pool import Pool
from mechshift_tl.study import StudyConfig
from mechshift_tl.study.parts import TaskParts
from mechshift_tl.study.unscreened import Unscreened, unscreened
from mechshift_tl.tasks import IOI

OUT = (1, 4)
CONFIG = StudyConfig(n=8, ig_steps=1, edges=60, n_boot=12)


@pytest.fixture(scope="module")
def drawn():
    """Readouts and scores by role of the first ten prompts, all of which were tried."""
    pair = load_pair("tiny")
    assert pair.tokenizer is not None
    examples = IOI().examples(pair.tokenizer, 10)
    rows = {role: readouts(model, examples) for role, model in pair.models.items()}
    return pair, examples, rows, {role: attribute_edges(pair.models[role], one, CONFIG.attribution) for role, one in rows.items()}


@pytest.fixture(scope="module")
def parts(drawn) -> TaskParts:
    """A task whose screen has left out the prompts `OUT`."""
    pair, examples, rows, scores = drawn
    kept = [i for i in range(10) if i not in OUT]
    pool = Pool("ioi", examples.select(kept), {role: one.select(kept) for role, one in rows.items()}, 10, {}, {})
    own = {role: one.select(kept) for role, one in scores.items()}
    return TaskParts(IOI(), pair.models, pair.tokenizer, CONFIG, pool, None, own, {}, {}, lambda step: None)


def test_the_screened_out_join_the_pool(parts, drawn):
    found, scores = unscreened(parts), drawn[3]
    assert (found.n, found.n_out) == (10, 2)
    table = found.to_dataframe().set_index(["role", "figure"])
    for role in ("mdm", "control"):
        whole = edge_jaccard(*(Circuit.from_scores(scores[one], 60) for one in ("arm", role)))
        screened = edge_jaccard(*(Circuit.from_scores(parts.scores[one], 60) for one in ("arm", role)))
        row = table.loc[(role, "jaccard")]
        assert (row["unscreened"], row["screened"], row["change"]) == (whole, screened, whole - screened)
        early = early_of_all_edges(scores[role]) - early_of_all_edges(scores["arm"])
        assert table.loc[(role, "early_shift"), "unscreened"] == pytest.approx(early, abs=1e-5)


def test_a_screen_that_leaves_nothing_out_is_said(parts, drawn):
    _, examples, rows, scores = drawn
    pool = replace(parts.pool, examples=examples, readouts=rows)
    found = unscreened(replace(parts, pool=pool, scores=scores))
    assert found.rows == () and "leaves nothing out" in found.finding() and not found.figure().to_dict()["data"]


def test_it_says_what_moves_and_comes_back_from_its_file(parts, tmp_path):
    found = unscreened(parts)
    assert "2 of 10 prompts" in found.finding() and len(found.figure().to_dict()["data"]) == 4
    moved = replace(found, rows=(replace(found.rows[0], over=replace(found.rows[0].over, low=0.1, high=0.2)),))
    assert moved.finding().startswith("Supported: the screen moves")
    found.save(tmp_path / "unscreened.json")
    assert Unscreened.load(tmp_path / "unscreened.json") == found


def test_the_early_share_of_all_edges_is_a_sum_over_reader_layers(scored):
    graph = Graph(3, 2, 2)
    matrix = torch.randn(graph.shape, generator=torch.Generator().manual_seed(0)) * graph.possible
    strength, layers = matrix.abs().sum(0), graph.reader_layers
    share = strength[layers < 1].sum() / strength[layers < 3].sum()
    scores = scored(graph, matrix)
    assert early_of_all_edges(scores, 1) == pytest.approx(share.item())
    assert headline(scores, scores, Selection(20)).early_shift == 0.0 and headline(scores, scores, Selection(20)).jaccard == 1.0


def test_scores_are_selected_and_joined_example_by_example(scored):
    graph = Graph(2, 2, 2)
    per_example = torch.randn(6, *graph.shape, generator=torch.Generator().manual_seed(0)) * graph.possible
    scores = scored(graph, per_example)
    part = scores.select([4, 1])
    assert torch.allclose(part.matrix, per_example[[4, 1]].mean(0)) and part.n_examples == 2
    again = part.joined(scores.select([0, 2, 3, 5]))
    assert torch.allclose(again.matrix, scores.matrix, atol=1e-6) and again.ends_per_example.shape == (2, 6)
    with pytest.raises(ValueError, match="joined needs scores"):
        scores.joined(scored(graph, per_example[0]))
