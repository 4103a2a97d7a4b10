"""Specialisation on lenses made by hand, and on models rebuilt so that they compute the same in another way."""

from __future__ import annotations

import pytest
import torch

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts
from mechshift_tl.views import ComponentLens, component_lens
from mechshift_tl.views.lens_table import READINGS, LensSettings, Norm
from mechshift_tl.views.specialisation import (
    INVARIANCE,
    ExampleSums,
    Specialisation,
    SpecialisationSettings,
    gini,
    naming_components,
    participation_ratio,
    specialisation,
)


def lens_of(effects, ranks, components=None, norm: Norm = "run") -> ComponentLens:
    """A lens of `input`, two heads, an MLP and `bias` whose answers have logit `effects` at every one of four reads, spread effect²."""
    components = components or ["input", "a0.h0", "a0.h1", "m0", "bias"]
    rank = torch.tensor(ranks)
    answer = torch.tensor(effects)[:, None].expand(rank.shape)
    return ComponentLens(
        components, Graph(1, 2, 2), answer, torch.zeros_like(answer), rank, torch.full_like(rank, 40.0), rank, answer**2, rank.int(),
        torch.zeros(4, dtype=torch.long), torch.arange(4), {}, 0.0, LensSettings(norm),
    )  # fmt: skip


RANKS = [[0.0] * 4, [0.0, 2, 9, 9], [0.0] * 4, [9.0] * 4, [0.0] * 4]


def test_input_and_biases_do_not_count() -> None:
    result = specialisation(lens_of([100.0, 1.0, -3.0, 2.0, 50.0], RANKS))
    assert result.components == 3 and result.with_effect == 3
    assert result.effect_variance == pytest.approx(torch.tensor([1.0, -3, 2]).var(correction=0).item())
    assert result.logit_variance == pytest.approx(1 + 9 + 4)
    assert result.participation_ratio == pytest.approx(36 / 14) and result.gini == pytest.approx(2 / 9)
    assert result.to_dataframe()["least"].item() == 0.01 and "naming" in result._repr_html_()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, ["a0.h0", "a0.h1"]),
        ({"top": 1}, ["a0.h1"]),
        ({"share": 0.75}, ["a0.h1"]),
        ({"least": 0.2}, ["a0.h1"]),
        ({"top": 10}, ["a0.h0", "a0.h1", "m0"]),
    ],
)
def test_naming_needs_rank_share_and_effect(settings, named) -> None:
    assert naming_components(lens_of([100.0, 1.0, -3.0, 2.0, 50.0], RANKS), SpecialisationSettings(**settings)) == named


def test_the_foil_counts_as_related_to_the_answer() -> None:
    lens = lens_of([0.0, 1.0, -3.0, 2.0, 0.0], [[40.0] * 4] * 5)
    assert naming_components(lens) == []
    lens.foil_rank[3] = 1.0
    assert naming_components(lens) == ["m0"]


@pytest.mark.parametrize(("effects", "ratio", "inequality"), [([2.0, -2, 2, -2], 4, 0), ([0.0, 0, 5, 0], 1, 0.75), ([1.0, 3.0], 1.6, 0.25)])
def test_participation_ratio_and_gini(effects, ratio, inequality) -> None:
    effects = torch.tensor([effects, effects])
    torch.testing.assert_close(participation_ratio(effects), torch.full((2,), float(ratio)))
    torch.testing.assert_close(gini(effects), torch.full((2,), float(inequality)))


def test_gini_is_the_mean_difference() -> None:
    effects = torch.randn(17, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    sizes = effects.abs()
    assert gini(effects).item() == pytest.approx(((sizes[:, None] - sizes).abs().sum() / (2 * 17 * sizes.sum())).item())


def test_weights_are_resampled_prompts() -> None:
    """A row of counts gives what the lens of those very prompts gives, repeats and all."""
    generator = torch.Generator().manual_seed(0)
    whole = random_lens(generator, torch.arange(6))
    drawn = torch.tensor([0, 0, 3, 5, 5, 5])
    picked = {name: getattr(whole, name)[:, drawn] for name in READINGS}
    again = ComponentLens(**{**vars(whole), **picked, "example": torch.arange(6)})
    sums = ExampleSums.of(whole, SpecialisationSettings())
    counts = drawn.bincount(minlength=6).double()[None]
    expected = specialisation(again)
    for name, value in sums.statistics(counts).items():
        assert value.item() == pytest.approx(getattr(expected, name))


def random_lens(generator: torch.Generator, example: torch.Tensor) -> ComponentLens:
    n = len(example)
    answer, foil, spread = torch.randn(3, 5, n, generator=generator).unbind()
    ranks = torch.randint(0, 12, (2, 5, n), generator=generator).float()
    return ComponentLens(
        ["input", "a0.h0", "a0.h1", "m0", "bias"], Graph(1, 2, 2), answer, foil, ranks[0], ranks[1], spread, spread**2, ranks[0].int(),
        torch.zeros(n, dtype=torch.long), example, {}, 0.0, LensSettings(),
    )  # fmt: skip


def test_an_example_without_reads_weighs_nothing() -> None:
    lens = lens_of([0.0, 1.0, -3.0, 2.0, 0.0], RANKS)
    found = ExampleSums.of(lens, SpecialisationSettings(), 6).statistics(torch.eye(6, dtype=torch.double)[[0, 5]])
    assert all(one[0].isfinite() and one[1].isnan() for one in found.values())


# Models that compute the same in another way: 4 heads become 8 by silent ones or by halves; every output is scaled with its norm's scale.


def rebuilt(native, change: str) -> HookedDiffusionTransformer:
    """The model `native` with `n_heads` 4, its heads changed so that no logit changes."""
    old = native("llama", num_key_value_heads=4)
    if change == "as it is":
        return HookedDiffusionTransformer.from_hf(old)
    new = native("llama", num_attention_heads=8, num_key_value_heads=8, head_dim=8)
    new.load_state_dict({name: widened(name, value, change) for name, value in old.state_dict().items()})
    return HookedDiffusionTransformer.from_hf(new)


def widened(name: str, value: torch.Tensor, change: str) -> torch.Tensor:
    if any(f"{one}_proj" in name for one in "qkv"):
        return torch.cat([value, value])
    if "o_proj" in name:
        return torch.cat([value, torch.zeros_like(value)], 1) if change == "silent heads added" else torch.cat([value, value], 1) / 2
    return value


@pytest.fixture(scope="module")
def rows() -> Readouts:
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(3, 48, (12, 7), generator=generator)
    answer = torch.randint(3, 48, (12,), generator=generator)
    return Readouts.from_tokens(clean, clean, torch.full((12,), 6), answer, (answer + 5) % 48)


@pytest.fixture(scope="module")
def found(native, rows) -> dict[str, Specialisation]:
    settings = SpecialisationSettings(top=8, share=0.3, least=0.001)
    made = {change: component_lens(rebuilt(native, change), rows) for change in ("as it is", "silent heads added", "a head split in two")}
    torch.testing.assert_close(made["silent heads added"].answer.sum(0), made["as it is"].answer.sum(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made["a head split in two"].answer.sum(0), made["as it is"].answer.sum(0), rtol=1e-4, atol=1e-4)
    scaled = made["as it is"]
    made["all outputs scaled"] = ComponentLens(**{
        **vars(scaled), **{name: 3 * getattr(scaled, name) for name in ("answer", "foil")}, "spread": 9 * scaled.spread
    })  # fmt: skip
    return {change: specialisation(lens, settings) for change, lens in made.items()}


@pytest.mark.parametrize("change", next(iter(INVARIANCE.values())))
@pytest.mark.parametrize("statistic", INVARIANCE)
def test_what_each_statistic_is_invariant_to(found, statistic, change) -> None:
    same = getattr(found[change], statistic) == pytest.approx(getattr(found["as it is"], statistic), rel=1e-3)
    assert same is (INVARIANCE[statistic][change] == "stays")


def test_a_silent_head_has_no_effect_and_names_nothing(found) -> None:
    assert found["silent heads added"].components == found["as it is"].components + 8
    assert 0 < found["as it is"].naming == found["silent heads added"].naming


def test_save_and_load(tmp_path) -> None:
    result = specialisation(lens_of([100.0, 1.0, -3.0, 2.0, 50.0], RANKS))
    result.save(tmp_path / "one.json")
    assert Specialisation.load(tmp_path / "one.json") == result


def test_refusals() -> None:
    with pytest.raises(ValueError, match="every effect is 0"):
        specialisation(lens_of([1.0, 0, 0, 0, 1], RANKS))
    with pytest.raises(ValueError, match="no head and no MLP"):
        specialisation(lens_of([1.0, 1.0], [[1.0] * 4] * 2, components=["input", "bias"]))
    with pytest.raises(ValueError, match="norm 'own'"):
        specialisation(lens_of([1.0] * 5, [[1.0] * 4] * 5, norm="own"))
    with pytest.raises(ValueError, match="share 0"):
        SpecialisationSettings(share=0)
