"""Attention of two models' heads: the same model shows no difference, a mask alone shows the ones that it must."""

from __future__ import annotations

import pytest
import torch

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.compare.attention import BEYOND, OWN, AttentionComparison, compare_attention
from mechshift_tl.readouts import Readouts
from mechshift_tl.views.attention import attention_patterns

TOP = {"arm": ["a1.h0", "a0.h2"], "mdm": ["a1.h0", "a0.h1"], "control": ["a1.h0", "a0.h2"]}


@pytest.fixture(scope="module")
def models(native):
    """The MDM is the ARM with a full mask; the control is the ARM itself."""
    full = HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec("full", 1, 2))
    return {"arm": HookedDiffusionTransformer.from_hf(native()), "mdm": full, "control": HookedDiffusionTransformer.from_hf(native())}


@pytest.fixture(scope="module")
def rows() -> Readouts:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(3, 48, (12, 6), generator=generator)
    answer = torch.randint(3, 48, (12,), generator=generator)
    return Readouts.from_tokens(clean, clean, torch.full((12,), 5), answer, (answer + 1) % 48)


@pytest.fixture(scope="module")
def found(models, rows) -> AttentionComparison:
    return compare_attention(models, {role: rows for role in models}, TOP, n_boot=50)


def test_the_same_model_does_not_differ(found):
    same = found.table.query("subject == 'control − ARM'")
    assert (same[["value", "low", "high"]] == 0).all(axis=None) and found.moved("control − ARM", "evenness") == []


def test_a_full_mask_attends_to_what_follows(found):
    assert found.of("next", "arm")["high"] == 0 and found.of("next", "MDM − ARM")["low"] > 0
    assert set(found.moved("MDM − ARM", "next")) == set(found.heads) == {"a0.h1", "a0.h2", "a1.h0"}


def test_values_are_means_over_own_heads_and_prompts(models, rows, found):
    alone = attention_patterns(models["mdm"], rows)
    mean = alone.of("distance", "read")[[alone.heads.index(head) for head in TOP["mdm"]]].mean().item()
    assert found.of("distance", "mdm", OWN, "read")["value"] == pytest.approx(mean, rel=1e-5)
    one = alone.of("first")[alone.heads.index("a0.h1")]
    assert found.of("first", "mdm", "a0.h1")["value"] == pytest.approx(one.mean().item(), rel=1e-5)
    drawn = torch.randint(12, (50, 12), generator=torch.Generator().manual_seed(0))
    low = torch.quantile(one[drawn].mean(1).double(), 0.025).item()
    assert found.of("first", "mdm", "a0.h1")["low"] == pytest.approx(low, rel=1e-4)


def test_what_the_mask_alone_does_is_taken_off(found):
    value, even = (found.of("distance", subject)["value"] for subject in ("mdm", "uniform (mdm)"))
    assert found.of("distance", "mdm", BEYOND)["value"] == pytest.approx(value - even)


def test_finding_figure_and_file(found, tmp_path):
    said = found.finding()
    assert "own top 2 heads, n = 12 prompts" in said and "differs in" in said and "0 for control − ARM (0.15 by chance)" in said
    found.save(tmp_path / "one.safetensors")
    again = AttentionComparison.load(tmp_path / "one.safetensors")
    assert again.finding() == said and torch.equal(again.patterns, found.patterns)
    heatmaps = [one for one in found.figure().data if one.type == "heatmap"]
    assert len(heatmaps) == 2 * 3
    with pytest.raises(KeyError, match="no 'sink'"):
        found.of("sink", "arm")


def test_refusals(models, rows):
    with pytest.raises(ValueError, match="at least one head"):
        compare_attention(models, {role: rows for role in models}, {"arm": ["a0.h0"]})
    fewer = {role: rows if role == "arm" else rows.select(range(5)) for role in models}
    with pytest.raises(ValueError, match="different numbers of examples"):
        compare_attention(models, fewer, TOP)
