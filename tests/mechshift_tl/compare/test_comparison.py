"""`compare`: what it prints on attributions made by hand, what it refuses, and its file."""

import math
import time
from typing import Any

import pandas as pd
import pytest
import torch

from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.settings import AttributionSettings
from mechshift_tl.circuits import Circuit
from mechshift_tl.compare import CircuitComparison, compare
from mechshift_tl.compare.bounds import ceiling
from mechshift_tl.graph import Graph

GRAPH = Graph(3, 4, 2)
FEW: dict[str, Any] = {"n_boot": 20, "n_random": 20}


@pytest.fixture(scope="module")
def make(scored):
    """`make(kinship, seed)`: scores of 30 prompts; two of kinship 1 share their signal, of kinship 0 they share none."""

    def model(kinship: float, seed: int, graph: Graph = GRAPH, n: int = 30, noise: float = 1.0) -> EdgeScores:
        generator = torch.Generator().manual_seed(seed)
        shared = torch.randn(graph.possible.shape, generator=torch.Generator().manual_seed(99)) ** 3
        own = torch.randn(shared.shape, generator=generator) ** 3
        signal = kinship * shared + (1 - kinship) * own
        return scored(graph, (signal + noise * torch.randn(n, *signal.shape, generator=generator)) * graph.possible)

    return model


@pytest.fixture(scope="module")
def kin(make) -> CircuitComparison:
    return compare(make(0.9, 1), make(0.9, 2), n=60, **FEW)


def test_a_model_compared_with_itself_overlaps_fully(make):
    scores = make(1.0, 1)
    same = compare(scores, scores, n=60, **FEW)
    assert (same.edge_jaccard, same.component_jaccard) == (1.0, 1.0)
    assert same.weighted_jaccard == pytest.approx(1.0) and same.spearman == pytest.approx(1.0)
    assert same.curve is not None and (same.curve["jaccard"].dropna() == 1.0).all()
    edges = same.intervals["edge_jaccard"]
    assert (edges.low, edges.high) == (1.0, 1.0)
    assert same.statistics["early_share_shift"].value == 0.0
    assert same.supported and same.verdict.startswith("Supported")


def test_kin_clear_the_floor_and_strangers_do_not(make, kin):
    strangers = compare(make(0.0, 1), make(0.0, 2), n=60, **FEW)
    assert kin.supported and kin.edge_jaccard > kin.floor["edge_jaccard"].high
    assert not strangers.supported and strangers.verdict.startswith("Not supported")
    assert kin.spearman > strangers.spearman


def test_every_statistic_is_one_row_with_its_bounds(kin):
    table = kin.to_dataframe().set_index("name")
    assert list(table.columns) == ["value", "low", "high", "floor", "floor_low", "floor_high", "ceiling", "n"]
    assert (table["n"] == 30).all()
    assert table[["value", "low", "high"]].notna().all(axis=None)
    overlaps = ["edge_jaccard", "component_jaccard", "weighted_jaccard", "rank_biased_overlap"]
    assert table.index[table["floor"].notna()].tolist() == overlaps
    assert table.index[table["ceiling"].notna()].tolist() == [*overlaps, "spearman"]
    shift = table.loc["early_share_b", "value"] - table.loc["early_share_a", "value"]
    assert table.loc["early_share_shift", "value"] == pytest.approx(shift)
    assert kin.early_share == tuple(table.loc[["early_share_a", "early_share_b"], "value"])


def test_the_ceiling_is_the_lower_of_the_two_models(make):
    steady, loud = make(1.0, 1, noise=0.1), make(1.0, 2, noise=3.0)
    both = compare(steady, loud, n=60, n_boot=0, n_random=5)
    assert both.ceiling == ceiling(loud, n=60)
    assert both.notes == ("No intervals over prompts: n_boot is 0.",)
    assert both.intervals == {} and not both.supported and "no interval" in both.verdict


def test_shared_edges_are_counted_and_said(make, kin):
    a, b = (Circuit.from_scores(make(0.9, seed), 60) for seed in (1, 2))
    shared, either = len(a.edge_set() & b.edge_set()), len(a.edge_set() | b.edge_set())
    assert kin.shared_edges == (shared, either)
    assert f"({shared} of {either} edges shared; 95 % over prompts" in kin.finding


def test_the_curve_has_the_interval_of_the_overlap_at_n(make, kin):
    assert kin.curve is not None
    row, edges = kin.curve.set_index("n").loc[60], compare(make(0.9, 1), make(0.9, 2), n=60, n_boot=5, n_random=5).intervals["edge_jaccard"]
    assert (row["jaccard"], row["low"], row["high"]) == (kin.edge_jaccard, edges.low, edges.high)


def test_the_figure_shows_each_statistic_with_its_bounds(kin):
    drawn = {trace.y[0]: trace.x[0] for trace in kin.figure().data if trace.hovertemplate.startswith("overlap")}
    assert drawn["edges, Jaccard"] == kin.edge_jaccard and len(drawn) == 7


def test_depth_tables_hold_both_circuits_with_bounds(kin):
    assert kin.profiles["depth"].tolist() == ["input", "0", "1", "2", "logits"] * 2
    sums = kin.profiles.groupby("circuit")[["readers", "writers", "edges"]].sum()
    assert sums.to_numpy() == pytest.approx(1.0)
    assert (kin.profiles["low"] <= kin.profiles["high"]).all()
    early = kin.early.set_index(["circuit", "cut"])["share"]
    assert (early["a", 0], early["b", 3]) == (0.0, pytest.approx(1.0))
    assert early["a", kin.settings.cut] == pytest.approx(kin.early_share[0])


def test_components_tell_shared_from_own(make):
    comparison = compare(make(0.5, 1), make(0.5, 2), n=60, k=5, **FEW)
    frame = comparison.components
    tops = frame["top"].value_counts()
    both, only_a, only_b = (int(tops.get(name) or 0) for name in ("both", "a", "b"))
    assert both + only_a == 5 == both + only_b
    assert comparison.component_jaccard == tops["both"] / (tops["both"] + tops["a"] + tops["b"])
    assert frame["score_a"].to_numpy() == pytest.approx((frame["source_a"] + frame["sink_a"]).to_numpy())


def test_bare_circuits_get_overlap_floor_and_depth(make):
    a, b = (Circuit.from_scores(make(0.9, seed), 60) for seed in (1, 2))
    bare = compare(a, b, n_random=20)
    assert bare.edge_jaccard == compare(make(0.9, 1), make(0.9, 2), n=60, **FEW).edge_jaccard
    assert bare.floor.keys() == {"edge_jaccard", "component_jaccard", "weighted_jaccard", "rank_biased_overlap"}
    assert bare.ceiling is None and bare.curve is None and math.isnan(bare.spearman)
    assert "bare circuits" in bare.notes[0] and bare.n_examples == (30, 30)
    assert (bare.requested, bare.kept) == ((60, 60), (len(a), len(b)))


def test_scores_without_examples_say_what_is_missing(make, scored):
    a, b = (scored(GRAPH, make(0.9, seed).matrix, settings=AttributionSettings(ig_steps=seed)) for seed in (1, 2))
    comparison = compare(a, b, n=60, n_random=5)
    assert comparison.ceiling is None and comparison.intervals == {} and comparison.curve is not None
    assert "keep_per_example=True" in comparison.notes[0]
    assert comparison.notes[1] == "a and b were attributed with different settings: ig_steps 1 and 2."


@pytest.mark.parametrize("kind", ["scores", "circuits"])
def test_save_and_load_return_the_same_comparison(make, kin, kind, tmp_path):
    saved = kin if kind == "scores" else compare(*(Circuit.from_scores(make(0.9, seed), 60) for seed in (1, 2)), n_random=5)
    saved.save(tmp_path / "comparison.json")
    again = CircuitComparison.load(tmp_path / "comparison.json")
    pd.testing.assert_frame_equal(again.to_dataframe(), saved.to_dataframe())
    for name in ("profiles", "early", "components"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(saved, name))
    assert (again.curve is None) == (saved.curve is None)
    for name in ("requested", "kept", "full_cells", "n_examples", "settings", "notes", "verdict", "floor"):
        assert getattr(again, name) == getattr(saved, name), name
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no circuit_comparison"):
        CircuitComparison.load(tmp_path / "other.json")


def test_a_notebook_shows_verdict_and_caveat(kin):
    html = kin._repr_html_()
    assert kin.verdict in html and "does not prove a different mechanism" in html and "edge_jaccard" in html


def test_what_cannot_be_compared_is_refused(make, scored):
    a, b = make(0.9, 1), make(0.9, 2)
    with pytest.raises(ValueError, match="n_heads 4 and 2"):
        compare(a, make(0.9, 1, Graph(3, 2, 2)))
    with pytest.raises(TypeError, match="EdgeScores and Circuit"):
        compare(a, Circuit.from_scores(b))
    with pytest.raises(ValueError, match="bare circuits have their own size"):
        compare(Circuit.from_scores(a, 60), Circuit.from_scores(b, 60), n=50)
    with pytest.raises(ValueError, match="circuit b is empty: of 60 requested edges"):
        compare(a, scored(GRAPH, {("input", "m0"): 1.0}), n=60)
    with pytest.raises(ValueError, match="cut is 9"):
        compare(a, b, n=60, cut=9)
    with pytest.raises(ValueError, match="k is 99"):
        compare(a, b, n=60, k=99)
    with pytest.raises(ValueError, match="n is 5000"):
        compare(a, b, n=5000)
    with pytest.raises(ValueError, match="the same examples"):
        compare(a, make(0.9, 2, n=29), n=60)


def test_a_comparison_takes_seconds(make):
    graph = Graph(6, 4, 4)
    a, b = (make(0.9, seed, graph, n=200) for seed in (1, 2))
    start = time.process_time()
    compare(a, b, n=200)
    assert time.process_time() - start < 20
