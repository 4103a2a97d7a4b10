"""Neuron activations by prompt group, and the selectivity beside its null."""

import pandas as pd
import pytest
import torch
from scipy import stats
from transformer_lens.model_bridge.sources import build_bridge_from_module

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.readouts import Readouts
from mechshift_tl.views import NeuronActivations, neuron_activations
from mechshift_tl.views.neurons import example_activations, grouping
from mechshift_tl.views.selectivity import eta_squared, expected_by_chance, group_means, null_95, p_corrected, weighted_eta_squared

SPECS = {"causal": DiffusionSpec(), "full, shifted": DiffusionSpec("full", 1, 2), "full, aligned": DiffusionSpec("full", 0, 2)}


@pytest.fixture(scope="module", params=SPECS)
def model(request, native):
    return HookedDiffusionTransformer.from_hf(native("qwen2"), spec=SPECS[request.param])


def grouped_rows(n: int = 9, pos: int = 6) -> Readouts:
    """Two groups told apart by the token at position 2, and one group of a single example."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(10, 48, (n, pos), generator=generator)
    groups = ["even" if i % 2 else "odd" for i in range(n - 1)] + ["lone"]
    clean[:, 2] = torch.tensor([4 if group == "even" else 9 for group in groups])
    target = torch.stack([torch.tensor([3, 5])] * n)
    answer = torch.randint(48, (n, 2), generator=generator)
    return Readouts.from_tokens(clean, clean.clone(), target, answer, (answer + 1) % 48, groups=groups)


def test_activations_are_the_caches_at_the_predicting_positions(model):
    rows = grouped_rows()
    _, cache = model.run_with_cache(rows.clean)
    shift = model.spec.logit_shift
    expected = cache["blocks.1.mlp.hook_post"][:, [3 - shift, 5 - shift]].mean(1)
    torch.testing.assert_close(example_activations(model, rows, 1), expected.detach())
    torch.testing.assert_close(example_activations(model, rows, 1, batch_tokens=1), expected.detach())
    torch.testing.assert_close(example_activations(model, rows, 1, position=-2), cache["blocks.1.mlp.hook_post"][:, 4].detach())


def test_steps_of_an_example_are_averaged_read_by_read(model):
    rows = grouped_rows(4)
    twice = {name: getattr(rows, name)[[0, 0, 1, 2, 3]] for name in ("clean", "corrupt", "target_pos", "answer_ids", "foil_ids")}
    for name in ("target_pos", "answer_ids", "foil_ids"):
        twice[name] = twice[name].clone()
        twice[name][1, 1] = -1  # step 1 of example 0 reads its first target again
    stepped = Readouts(**twice, step=torch.tensor([0, 1, 0, 0, 0]), example=torch.tensor([0, 0, 1, 2, 3]), groups=rows.groups)
    _, cache = model.run_with_cache(rows.clean)
    at = torch.tensor([3, 5, 3]) - model.spec.logit_shift
    torch.testing.assert_close(example_activations(model, stepped, 0)[0], cache["blocks.0.mlp.hook_post"][0, at].mean(0).detach())


def test_groups_sizes_and_means(model):
    rows = grouped_rows()
    neurons = neuron_activations(model, rows, 0, shuffles=20)
    values = example_activations(model, rows, 0)
    assert neurons.groups == ["even", "odd"] and neurons.sizes == [4, 4] and neurons.left_out == 1
    torch.testing.assert_close(neurons.means[0], values[1:8:2].mean(0))
    torch.testing.assert_close(neurons.means[1], values[0:8:2].mean(0))
    assert neurons.selectivity.shape == (64,) and neurons.null_mean == pytest.approx(1 / 7)


def test_a_position_that_holds_the_group_is_perfectly_selective(native):
    causal = HookedDiffusionTransformer.from_hf(native())
    rows = grouped_rows()
    clean = rows.clean.clone()
    clean[:, :2] = 5  # nothing but the group's token reaches position 2 of a causal model
    rows = Readouts.from_tokens(clean, clean, rows.target_pos, rows.answer_ids, rows.foil_ids, groups=rows.groups)
    neurons = neuron_activations(causal, rows, 1, position=2)
    assert (neurons.selectivity > 0.9999).all()
    same = neuron_activations(causal, rows, 1, position=1)
    assert (same.selectivity == 0).all() and same.share_selective == 0


def test_frames(model):
    neurons = neuron_activations(model, grouped_rows(), 0)
    frame, heat = neurons.top(5), neurons.heatmap_frame(5)
    assert frame["selectivity"].is_monotonic_decreasing and len(neurons.to_dataframe()) == 64
    assert heat.shape == (2, 5) and list(heat.index) == ["even", "odd"] and list(heat.columns) == frame["neuron"].tolist()
    best = int(neurons.selectivity.argmax())
    assert frame["neuron"][0] == f"m0.n{best}" and heat.iloc[0, 0] == neurons.means[0, best].item()
    assert frame["peak_mean"][0] == heat.loc[frame["peak_group"][0], frame["neuron"][0]]
    assert "64 neurons, 2 groups of 8 examples" in neurons._repr_html_()


def test_plain_bridge_reads_as_an_arm(native):
    hf_model = native()
    hf_model.config.use_cache = False
    plain = build_bridge_from_module(hf_model, "LlamaForCausalLM", hf_config=hf_model.config, tokenizer=None, model_name="plain")
    mine = neuron_activations(HookedDiffusionTransformer.from_hf(native()), grouped_rows(), 1)
    theirs = neuron_activations(plain, grouped_rows(), 1)
    assert torch.equal(mine.means, theirs.means) and torch.equal(mine.selectivity, theirs.selectivity)


def test_save_and_load(model, tmp_path):
    neurons = neuron_activations(model, grouped_rows(), 1, groups=["a", "b", "c"] * 3, seed=3)
    neurons.save(tmp_path / "neurons.safetensors")
    loaded = NeuronActivations.load(tmp_path / "neurons.safetensors")
    pd.testing.assert_frame_equal(loaded.to_dataframe(), neurons.to_dataframe())
    for name in ("layer", "groups", "sizes", "null_mean", "null_max_95", "settings", "provenance"):
        assert getattr(loaded, name) == getattr(neurons, name)
    grouped_rows().save(tmp_path / "rows.safetensors")
    with pytest.raises(ValueError, match="holds no neuron activations"):
        NeuronActivations.load(tmp_path / "rows.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 2}, "layer 2 does not exist"),
        ({"layer": 0, "position": 6}, "position is 6"),
        ({"layer": 0, "position": "last"}, "position is 'last'"),
        ({"layer": 0, "shuffles": 3}, "3 shuffles are too few"),
        ({"layer": 0, "groups": ["a", "b"]}, "names 2 examples, the readouts have 9"),
        ({"layer": 0, "groups": [str(i) for i in range(9)]}, "0 of 9 groups have two or more"),
    ],
)
def test_bad_settings_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        neuron_activations(model, grouped_rows(), **arguments)


def test_grouping_leaves_single_examples_out():
    names, members, labels = grouping(["b", "a", "x", "a", "b"], 5)
    assert names == ["a", "b"] and members.tolist() == [0, 1, 3, 4] and labels.tolist() == [1, 0, 0, 1]


def test_eta_squared_by_hand_and_by_anova():
    values = torch.tensor([[0.0, 1, 5], [2, 1, 5], [4, 3, 5], [6, 3, 5]])
    labels = torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(eta_squared(values, labels), torch.tensor([16 / 20, 1.0, 0.0]))
    values, labels = torch.randn(30, 1, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 4
    f = stats.f_oneway(*(values[labels == g, 0].numpy() for g in range(4))).statistic
    assert eta_squared(values, labels).item() == pytest.approx(f * 3 / (f * 3 + 26), rel=1e-5)


def test_eta_squared_ignores_rounding():
    values = torch.full((6, 1), 0.1)
    values[3:] += 1e-8
    assert eta_squared(values, torch.tensor([0, 0, 0, 1, 1, 1])).item() == 0
    assert torch.equal(group_means(values, torch.tensor([0, 0, 0, 1, 1, 1])), values[[0, 3]])


def test_null_is_what_noise_does():
    values = torch.randn(40, 400, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 5
    each, largest = null_95(values, labels, 200, seed=0)
    eta = eta_squared(values, labels)
    assert eta.mean().item() == pytest.approx(expected_by_chance(labels), abs=0.01) and expected_by_chance(labels) == pytest.approx(4 / 39)
    assert 0.02 < (eta > each).float().mean().item() < 0.09
    assert largest > each.max() * 0.9 and largest > eta.quantile(0.99)
    again, _ = null_95(values, labels, 200, seed=0)
    assert torch.equal(each, again)


def test_corrected_p_is_the_share_of_shuffles_that_reach_it():
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.randn(20, 30, generator=generator), torch.arange(20) % 4
    values[:, 0] += 5 * labels  # one column that depends on the group
    p = p_corrected(values, labels, 60, seed=1)
    assert p[0].item() == pytest.approx(1 / 61)
    generator = torch.Generator().manual_seed(1)
    largest = [eta_squared(values, labels[torch.randperm(20, generator=generator)]).max().item() for _ in range(60)]
    eta = eta_squared(values, labels).tolist()
    assert p.tolist() == pytest.approx([(1 + sum(one >= own for one in largest)) / 61 for own in eta], abs=2 / 61)


def test_corrected_p_holds_its_level_where_nothing_depends_on_the_group():
    """In 100 worlds of noise, 40 columns each: some column below 0.05 in about five; uncorrected it would be in nearly all."""
    labels, generator = torch.arange(24) % 3, torch.Generator().manual_seed(0)
    worlds = [p_corrected(torch.randn(24, 40, generator=generator), labels, 39, seed=i).min().item() for i in range(100)]
    assert sum(one <= 0.05 for one in worlds) <= 11


def test_weighted_eta_squared_is_that_of_repeated_examples():
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.randn(12, 5, generator=generator), torch.arange(12) % 3
    drawn = torch.tensor([0, 0, 1, 2, 5, 5, 5, 7, 9, 10, 11, 11])
    weights = torch.stack([torch.ones(12), drawn.bincount(minlength=12)]).double()
    found = weighted_eta_squared(values, labels, weights)
    torch.testing.assert_close(found[0].float(), eta_squared(values, labels))
    torch.testing.assert_close(found[1].float(), eta_squared(values[drawn], labels[drawn]), rtol=1e-4, atol=1e-5)
