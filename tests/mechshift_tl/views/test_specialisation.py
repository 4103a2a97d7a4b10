"""Specialisation statistics on lenses made by hand."""

from typing import Any

import pytest
import torch

from mechshift_tl.graph import Graph
from mechshift_tl.views import ComponentLens
from mechshift_tl.views.lens_table import LensSettings, Norm
from mechshift_tl.views.specialisation import explanatory_components, gini, participation_ratio, specialisation


def lens_of(effects, top_ids, ranks=None, components=None, norm: Norm = "run") -> ComponentLens:
    """A lens of `input`, two heads, an MLP and `bias` whose answers have logit `effects` at every one of four reads."""
    components = components or ["input", "a0.h0", "a0.h1", "m0", "bias"]
    top_id = torch.tensor(top_ids, dtype=torch.int32)
    answer = torch.tensor(effects)[:, None].expand(top_id.shape)
    rank = torch.ones(top_id.shape) if ranks is None else torch.tensor(ranks)
    return ComponentLens(
        components, Graph(1, 2, 2), answer, torch.zeros_like(answer), rank, rank, rank, top_id, torch.zeros(4), torch.arange(4),
        {}, 0.0, LensSettings(norm),
    )  # fmt: skip


@pytest.fixture
def lens() -> ComponentLens:
    tops = [[1, 1, 1, 1], [5, 5, 6, 7], [5, 6, 7, 8], [9, 9, 9, 9], [1, 1, 1, 1]]
    ranks = [[0.0] * 4, [0.0, 0, 0, 1], [0.0] * 4, [3.0] * 4, [0.0] * 4]
    return lens_of([100.0, 1.0, -3.0, 2.0, 50.0], tops, ranks)


def test_input_and_biases_do_not_count(lens):
    result = specialisation(lens)
    assert result.components == 3
    assert result.variance == pytest.approx(torch.tensor([1.0, -3, 2]).var(correction=0).item())
    assert result.participation_ratio == pytest.approx(36 / 14) and result.gini == pytest.approx(2 / 9)
    assert result.to_dataframe()["explanatory"].item() == 2 and "explanatory" in result._repr_html_()


def test_explanatory_components(lens):
    assert explanatory_components(lens) == ["a0.h0", "m0"]
    assert explanatory_components(lens, share=0.75) == ["m0"]
    assert explanatory_components(lens, share=0.75, names="answer") == ["a0.h0", "a0.h1"]
    assert explanatory_components(lens, share=1.0, names="answer") == ["a0.h1"]


@pytest.mark.parametrize(("effects", "ratio", "inequality"), [([2.0, -2, 2, -2], 4, 0), ([0.0, 0, 5, 0], 1, 0.75), ([1.0, 3.0], 1.6, 0.25)])
def test_participation_ratio_and_gini(effects, ratio, inequality):
    assert participation_ratio(torch.tensor(effects)) == pytest.approx(ratio)
    assert gini(torch.tensor(effects)) == pytest.approx(inequality)


def test_gini_is_the_mean_difference():
    effects = torch.randn(17, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    sizes = effects.abs()
    assert gini(effects) == pytest.approx(((sizes[:, None] - sizes).abs().sum() / (2 * 17 * sizes.sum())).item())


def test_refusals(lens):
    with pytest.raises(ValueError, match="every effect is 0"):
        gini(torch.zeros(3))
    with pytest.raises(ValueError, match="no head and no MLP"):
        specialisation(lens_of([1.0, 1.0], [[1] * 4] * 2, components=["input", "bias"]))
    with pytest.raises(ValueError, match="norm 'own'"):
        specialisation(lens_of([1.0] * 5, [[1] * 4] * 5, norm="own"))
    with pytest.raises(ValueError, match="share is 0"):
        explanatory_components(lens, share=0)
    unknown: Any = "foil"
    with pytest.raises(ValueError, match="names is 'foil'"):
        explanatory_components(lens, names=unknown)
