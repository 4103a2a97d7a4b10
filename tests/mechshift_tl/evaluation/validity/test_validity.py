"""Methods against exact patching: the numbers by hand and by scipy, what is measured on a model, the note beside an overlap, files."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.evaluation.validity import METHODS, Validity, validity, validity_note
from mechshift_tl.evaluation.validity.measure import chosen
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=1)
M = 20


def made(noise: float, n: int = 12, seed: int = 1) -> Validity:
    """20 edges whose scores by method "a" are the exact ones and `noise` of each prompt's own; by "b" their negatives."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(n, M, generator=generator) + 3 * torch.randn(M, generator=generator)
    approximate = exact + noise * torch.randn(n, M, generator=generator.manual_seed(seed))
    return Validity(
        graph=GRAPH,
        edges=GRAPH.possible.nonzero()[:M],
        top=torch.arange(M) < 8,
        exact=exact,
        approximate=torch.stack([approximate, -approximate]),
        read=torch.arange(n) % 3 + 1,
        methods=["a", "b"],
        rank_by="a",
        n_boot=50,
        seed=0,
    )


@pytest.fixture(scope="module")
def model(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2))


@pytest.fixture(scope="module")
def rows() -> Readouts:
    """Four rows of six tokens, one target each."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupt = torch.randint(3, 48, (2, 4, 6), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 4), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.tensor([5, 4, 5, 3]), answers, foils)


def test_correlations_are_scipy_s() -> None:
    one = made(2.0)
    exact, approximate = one.mean().numpy(), one.mean("a").numpy()
    frame = one.table.set_index(["method", "edges"])
    for name, where in {"all": slice(None), "top": slice(0, 8), "random": slice(8, None)}.items():
        assert frame.loc[("a", name), "spearman"] == pytest.approx(spearmanr(exact[where], approximate[where])[0])
        assert frame.loc[("a", name), "pearson"] == pytest.approx(pearsonr(exact[where], approximate[where])[0])
        assert frame.loc[("b", name), "spearman"] == pytest.approx(-frame.loc[("a", name), "spearman"])
    assert frame["n_edges"].tolist() == [20, 8, 12] * 2 and (frame["n_examples"] == 12).all()


def test_a_mean_is_over_positions_read() -> None:
    one = made(2.0)
    for method, sums in ((None, one.exact), ("b", one.approximate[1])):
        torch.testing.assert_close(one.mean(method), sums.sum(0) / one.read.sum())


def test_a_draw_is_the_correlation_on_the_prompts_drawn() -> None:
    one = made(2.0)
    drawn = torch.randint(12, (50, 12), generator=torch.Generator().manual_seed(0))
    draws = one.draws("a")
    assert len(draws) == 51
    for value, prompts in zip(draws[1:4], drawn, strict=False):
        assert value == pytest.approx(spearmanr(one.exact[prompts].sum(0), one.approximate[0][prompts].sum(0))[0])
    low, high = one.table.loc[0, ["spearman_low", "spearman_high"]]
    assert (low, high) == pytest.approx(tuple(np.quantile(draws[1:], [0.025, 0.975])))


def test_what_has_no_correlation_is_nan() -> None:
    one = dataclasses.replace(made(0.0), approximate=torch.zeros(2, 12, M))
    assert np.isnan(one.draws("a")).all()
    few = made(0.0).draws("a", "pearson", torch.arange(M) < 2)
    assert np.isnan(few).all()


def test_top_and_random_edges(scored) -> None:
    matrix = GRAPH.possible * torch.randn(GRAPH.possible.shape, generator=torch.Generator().manual_seed(0))
    edges, top = chosen(scored(GRAPH, matrix), 5, 7, seed=0)
    found = matrix[tuple(edges.T)]
    assert len(edges) == 12 and int(top.sum()) == 5 and GRAPH.possible[tuple(edges.T)].all()
    strongest = matrix.abs().flatten().topk(5).values
    assert torch.equal(found[top].abs().sort(descending=True).values, strongest)
    assert len({tuple(edge) for edge in edges.tolist()}) == 12
    assert torch.equal(chosen(scored(GRAPH, matrix), 5, 7, seed=0)[0], edges)
    everything, _ = chosen(scored(GRAPH, matrix), 200, 200, seed=0)
    assert len(everything) == GRAPH.n_edges


def test_a_model_s_scores_are_attribute_s(model, rows) -> None:
    methods = {name: METHODS[name] for name in ("EAP", "EAP-IG midpoint")}
    one = validity(model, rows, n_top=10, n_random=10, methods=methods, ig_steps=3, kv="ungrouped", n_boot=20)
    place = tuple(one.edges.T)
    by_hand = {
        None: attribute(model, rows, method="exact", kv="ungrouped"),
        "EAP": attribute(model, rows, method="EAP", kv="ungrouped"),
        "EAP-IG midpoint": attribute(model, rows, ig_steps=3, kv="ungrouped"),
    }
    for method, scores in by_hand.items():
        expected = scores.matrix[place]
        assert (one.mean(method) - expected).abs().max() < 1e-5 * expected.abs().max(), method
    assert one.graph.kv == "ungrouped" and (len(one.top), int(one.top.sum())) == (20, 10)
    asked: Any = one.settings["methods"]
    assert asked["EAP-IG midpoint"]["ig_steps"] == 3 and "ig_steps" not in asked["EAP"]
    assert one.provenance == by_hand[None].provenance
    frame = one.to_dataframe()
    assert frame["exact"].abs().is_monotonic_decreasing and list(frame.columns) == ["writer", "reader", "top", "exact", *methods]


def test_the_note_says_only_what_is_lower_and_whether_that_is_supported() -> None:
    good, poor = made(0.1), made(20.0)
    assert validity_note(poor, good) is None and validity_note(good, good) is None
    note = validity_note(good, poor)
    assert note is not None and note.startswith("Supported: a follows exact patching less closely in the MDM than in the ARM: Spearman ")
    better, worse = sorted((made(9.0, seed=1), made(9.0, seed=2)), key=lambda one: -one.draws("a")[0])
    note = validity_note(better, worse)
    assert note is not None and note.startswith("Not supported: a follows") and note.endswith(").")
    with pytest.raises(ValueError, match="12 and 9 examples; measure both models on the same prompts"):
        validity_note(good, made(0.1, n=9))


def test_a_file_brings_back_everything(tmp_path) -> None:
    one = made(1.0)
    one.save(tmp_path / "validity.safetensors")
    loaded = Validity.load(tmp_path / "validity.safetensors")
    for field in dataclasses.fields(one):
        mine, theirs = getattr(one, field.name), getattr(loaded, field.name)
        assert torch.equal(mine, theirs) if isinstance(mine, Tensor) else mine == theirs, field.name
    assert loaded.table.equals(one.table)


def test_it_shows_and_draws_itself() -> None:
    one = made(1.0)
    html = one._repr_html_()
    assert "2 methods against exact patching of 20 edges (8 top by a), 12 examples" in html and html.count("<tr") == 7
    layout: Any = one.figure().layout  # plotly makes its attributes at run time
    data: Any = one.figure().data
    assert [note.text[:4] for note in layout.annotations] == ["a: ρ", "b: ρ"]
    assert sum(len(trace.x) for trace in data if trace.name) == 2 * M
    layout = one.figure(["b"]).layout
    assert len(layout.annotations) == 1


def test_what_cannot_be_is_refused_before_any_run(rows, model, monkeypatch) -> None:
    never_run, ran = model, []
    monkeypatch.setattr(type(model), "forward", lambda *given, **named: ran.append(given))
    with pytest.raises(ValueError, match="rank_by is 'SHAP'; choose one of the methods EAP, clean-corrupted"):
        validity(never_run, rows, rank_by="SHAP")
    with pytest.raises(ValueError, match="n_top is -1; it must be a whole number, 0 or more"):
        validity(never_run, rows, n_top=-1)
    with pytest.raises(ValueError, match="seed is 18446744073709551616; give a whole number from"):
        validity(never_run, rows, seed=2**64)
    with pytest.raises(ValueError, match="n_boot is 1000000000000: .* do not fit"):
        validity(never_run, rows, n_boot=10**12)
    with pytest.raises(ValueError, match="a correlation needs three edges"):
        validity(never_run, rows, n_top=1, n_random=1)
    with pytest.raises(ValueError, match="1 example; intervals over prompts need at least 2"):
        validity(never_run, rows.select([0]))
    with pytest.raises(ValueError, match=r"approximate is \(2, 12, 20\), not \(1, 12, 20\)"):
        dataclasses.replace(made(1.0), methods=["a"])
    with pytest.raises(KeyError, match="no method 'c' here; there are a, b"):
        made(1.0).mean("c")
    with pytest.raises(KeyError, match="unknown statistic 'kendall'"):
        made(1.0).draws("a", "kendall")
    assert not ran
