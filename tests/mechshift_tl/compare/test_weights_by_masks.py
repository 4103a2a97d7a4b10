"""Models under masks: a switched model scores as one built with that mask, hidden answers change no causal score, and contrasts by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.attribution import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.circuits.overlap import edge_jaccard
from mechshift_tl.compare.weights_by_masks import weights_by_masks
from mechshift_tl.compare.weights_by_masks_result import Key, WeightsByMasks
from mechshift_tl.graph import Graph

GRAPH = Graph(2, 2, 2)
KEYS: tuple[Key, ...] = (("arm", "causal"), ("arm", "full"), ("mdm", "causal"), ("mdm", "full"))


def test_a_masked_mdm_scores_as_a_causal_model_of_its_weights(native, rows):
    mdm = HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec("full", mask_token_id=2))
    twin = HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec("causal", mask_token_id=2))
    with mdm.attention("causal"):
        masked = attribute(mdm, rows, ig_steps=2)
    torch.testing.assert_close(masked.matrix, attribute(twin, rows, ig_steps=2).matrix, atol=1e-5, rtol=1e-4)
    assert masked.clean == pytest.approx(attribute(twin, rows, ig_steps=2).clean, abs=1e-5)
    assert (masked.matrix - attribute(mdm, rows, ig_steps=2).matrix).abs().max() > 1e-3  # as it was before, and unlike the masked one


def test_what_follows_the_read_can_be_hidden_from_a_causal_model(models, rows):
    one_read = rows.target_pos.clone()
    hidden = rows.hiding_what_follows()
    for row, (seen, last) in enumerate(zip(hidden.visible("clean"), one_read.amax(1), strict=True)):
        assert seen.tolist() == [place < last and bool(rows.clean[row, place] >= 0) for place in range(rows.clean.shape[1])]
    arm = models["arm"]
    torch.testing.assert_close(attribute(arm, hidden, ig_steps=2).matrix, attribute(arm, rows, ig_steps=2).matrix, atol=1e-5, rtol=1e-4)


def test_under_full_attention_a_hidden_answer_cannot_be_read(models, rows):
    hidden = rows.hiding_what_follows()
    told = hidden.clean.clone()
    last = hidden.target_pos.amax(1)
    told[torch.arange(len(rows)), last] = (told[torch.arange(len(rows)), last] + 1) % 40 + 3
    other = replace(hidden, clean=told)
    with models["arm"].attention("full"):
        for a, b in zip(hidden.batches(1000), other.batches(1000), strict=True):
            torch.testing.assert_close(a.logits(models["arm"]), b.logits(models["arm"]), atol=1e-5, rtol=1e-5)


def test_selected_scores_are_those_of_the_examples_alone(scored):
    per_example = torch.randn(6, *GRAPH.shape, generator=torch.Generator().manual_seed(0)) * GRAPH.possible
    some = scored(GRAPH, per_example).select([4, 1, 2])
    assert some.n_examples == 3
    torch.testing.assert_close(some.matrix, per_example[[4, 1, 2]].mean(0))
    torch.testing.assert_close(some.resample([0, 0]).matrix, per_example[4])


def made(scored, **settings: int) -> WeightsByMasks:
    """The MDM is the ARM plus what the full mask adds to it: under the causal mask they are one."""
    generator = torch.Generator().manual_seed(1)
    base, other = (torch.randn(GRAPH.shape, generator=generator) * GRAPH.possible for _ in range(2))
    noise = 0.05 * torch.randn(4, 10, *GRAPH.shape, generator=generator) * GRAPH.possible
    means = (base, other, base, base + 2 * other)
    scores = {key: scored(GRAPH, mean + one) for key, mean, one in zip(KEYS, means, noise, strict=True)}
    return weights_by_masks(scores, dict.fromkeys(KEYS, 0.5), n=20, task="made", **{"n_boot": 20, "n_random": 5, **settings})


def test_overlaps_are_those_of_two_circuits_and_contrasts_are_paired(scored):
    found = made(scored)
    assert found.overlaps.shape == (21, 4, 4)
    generator = torch.Generator().manual_seed(1)
    base, other = (torch.randn(GRAPH.shape, generator=generator) * GRAPH.possible for _ in range(2))
    noise = 0.05 * torch.randn(4, 10, *GRAPH.shape, generator=generator) * GRAPH.possible
    alone = [Circuit.from_scores(scored(GRAPH, mean + one), 20) for mean, one in ((base, noise[0]), (base + 2 * other, noise[3]))]
    assert found.overlap(KEYS[0], KEYS[3]).value == pytest.approx(edge_jaccard(*alone))
    by_hand = found.draws(KEYS[0], KEYS[2]) - found.draws(KEYS[0], KEYS[3])
    assert found.of_the_mask.value == pytest.approx(by_hand[0].item())
    assert found.mask_matters and "Supported: part of the shift is the mask" in found.finding()


def test_without_draws_nothing_is_claimed(scored):
    assert not made(scored, n_boot=0).mask_matters


def test_table_figure_file_and_unknown_cells(scored, tmp_path):
    found = made(scored)
    assert len(found.to_dataframe()) == 6 and len(list(found.figure().data)) == 1
    found.save(tmp_path / "masks.safetensors")
    again = WeightsByMasks.load(tmp_path / "masks.safetensors")
    assert again.finding() == found.finding() and again.cells == found.cells
    with pytest.raises(ValueError, match="no 'control' under 'full'; there are ARM, causal"):
        found.index("control", "full")
