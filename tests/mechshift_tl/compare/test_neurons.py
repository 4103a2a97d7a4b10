"""Neurons of three models side by side: the same model, the same model with its neurons permuted, and statistics written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl.attribution import attribute
from mechshift_tl.compare.neuron_result import ALIKE, BY_CHANCE, NeuronComparison, NeuronComparisonSettings
from mechshift_tl.compare.neurons import compare_neurons, correlations
from mechshift_tl.readouts import Readouts
from mechshift_tl.views.neurons import example_activations

SETTINGS = NeuronComparisonSettings((0, 1), attributed=8, ig_steps=2, shuffles=40, shown=3, n_boot=30)


@pytest.fixture(scope="module")
def models(native):
    """The MDM is the ARM with the neurons of every MLP in reverse order; the control is the ARM."""
    moved = native()
    for layer in moved.model.layers:
        for part in (layer.mlp.gate_proj, layer.mlp.up_proj):
            part.weight.data = part.weight.data.flip(0)
        layer.mlp.down_proj.weight.data = layer.mlp.down_proj.weight.data.flip(1)
    bridge = HookedDiffusionTransformer.from_hf
    return {"arm": bridge(native()), "mdm": bridge(moved), "control": bridge(native())}


@pytest.fixture(scope="module")
def rows() -> Readouts:
    """Two groups, told apart by the last visible token; one prompt more that is alone in its group."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(10, 48, (17, 6), generator=generator)
    groups = [*(("even", "odd")[i % 2] for i in range(16)), "lone"]
    clean[:, [0, 1, 3]] = 7
    clean[:, 4] = torch.tensor([4 if group == "even" else 9 for group in groups])
    corrupt = clean.clone()
    corrupt[:, 2] = torch.randint(10, 48, (17,), generator=generator)
    answer = torch.randint(10, 48, (17,), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.full((17,), 5), answer, (answer + 1) % 48, groups=groups)


@pytest.fixture(scope="module")
def found(models, rows) -> NeuronComparison:
    return compare_neurons(models, {role: rows for role in models}, SETTINGS)


def test_the_same_neurons_are_found_and_permuted_ones_are_others(found):
    torch.testing.assert_close(found.correlation[1], torch.ones(128), rtol=1e-4, atol=1e-4)
    assert found.of(ALIKE, "control")["value"] == pytest.approx(1, abs=1e-4)
    assert found.of(ALIKE, "mdm")["high"] < 0.8 and found.of(ALIKE, "MDM − control")["high"] < 0
    assert abs(found.of(ALIKE, BY_CHANCE)["value"]) < 0.5


def test_what_does_not_depend_on_ids_is_as_it_was(found):
    for layer in range(2):
        own = slice(64 * layer, 64 * layer + 64)
        torch.testing.assert_close(found.selectivity[1, own].flip(0), found.selectivity[0, own], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.attribution[1, own].flip(0), found.attribution[0, own], rtol=1e-3, atol=1e-4)
    assert len(found.selective("mdm")) == len(found.selective("arm")) > 0
    for statistic, truth in (("mean η²", 0), ("attributed neurons", 1)):
        contrast = found.of(statistic, "MDM − control")
        assert [contrast["low"], contrast["high"]] == pytest.approx([truth, truth], abs=1e-3)


def test_attributions_are_those_of_the_first_grouped_prompts(models, rows, found):
    first = rows.select(range(8))
    whole = attribute(models["arm"], first, level="neurons", ig_steps=2)
    torch.testing.assert_close(found.attribution[0], whole.matrix, rtol=1e-4, atol=1e-5)
    even = attribute(models["arm"], rows.select([0, 2, 4, 6]), level="neurons", ig_steps=2)
    torch.testing.assert_close(found.attributed[0, found.groups.index("even")], even.matrix, rtol=1e-4, atol=1e-5)


def test_activations_and_groups(models, rows, found):
    assert found.groups == ["even", "odd"] and found.n_examples == 16
    values = example_activations(models["arm"], rows, 1)[1:16:2].mean(0)
    torch.testing.assert_close(found.means[0, 1, 64:], values)


def test_correlations_are_numpys():
    x, y = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    y[:, 3] = 2.0
    expected = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3)]
    assert correlations(x, y).tolist() == pytest.approx([*expected, 0.0], abs=1e-5)


def test_shown_saved_and_loaded(found, tmp_path):
    frame = found.to_dataframe()
    assert len(frame) == 3 * len(found.shown) and (frame["most_activating"].str.len() > 0).all()
    found.save(tmp_path / "one.safetensors")
    again = NeuronComparison.load(tmp_path / "one.safetensors")
    assert again.finding() == found.finding() and again.to_dataframe().equals(frame)
    assert "Supported: the MDM's early neurons moved farther" in found.finding()
    assert "Not supported: more neurons carry the behaviour in the MDM than in the control" in found.finding()
    assert len(found.figure().data) == 2 * 3


def test_refusals(models, rows):
    with pytest.raises(ValueError, match="layers are"):
        compare_neurons(models, {role: rows for role in models}, NeuronComparisonSettings((2,)))
    with pytest.raises(ValueError, match="give 'arm' and others"):
        compare_neurons({"mdm": models["mdm"]}, {"mdm": rows}, SETTINGS)
    with pytest.raises(ValueError, match="0 of 17 groups"):
        compare_neurons(models, {role: rows for role in models}, SETTINGS, groups=[str(i) for i in range(17)])
