"""Padding does not leak: padded rows score as the rows without their padding, whatever stands under the mask, on every kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mechshift_tl import attribute
from mechshift_tl.interventions.replaced import writer_means
from mechshift_tl.readouts import ABSENT, Readouts

Settings = dict[str, Any]
KINDS = ["arm", "mdm", "gpt2", "plain llama", "plain qwen2"]
LENGTHS = (5, 7, 6)
LONGEST = 9


def shown_at(side: str, length: int) -> Tensor:
    """Which of `LONGEST` positions a row of `length` tokens shows."""
    place = torch.arange(LONGEST)
    if side == "holes":
        return (place >= 1) & ~torch.isin(place, torch.tensor([2, 3, 4])[: LONGEST - 1 - length])
    return place < length if side == "right" else place >= LONGEST - length


def short_and_padded(side: str, seed: int = 0) -> tuple[Readouts, Readouts]:
    """Three rows as they are, and in a rectangle with arbitrary tokens around or between theirs."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupt = torch.randint(3, 48, (2, 3, max(LENGTHS)), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 3, 2), generator=generator)
    lengths = torch.tensor(LENGTHS)
    targets = torch.stack([lengths - 2, lengths - 1], 1)
    beyond = torch.arange(max(LENGTHS)) >= lengths[:, None]
    index = torch.arange(3)
    short = Readouts(
        clean.masked_fill(beyond, ABSENT), corrupt.masked_fill(beyond, ABSENT), targets, answers, foils,
        step=torch.zeros_like(index), example=index, groups=("all",) * 3,
    )  # fmt: skip
    mask = torch.stack([shown_at(side, length) for length in LENGTHS])
    around = torch.randint(0, 48, (2, 3, LONGEST), generator=torch.Generator().manual_seed(seed))
    for canvas, tokens in zip(around, (clean, corrupt), strict=True):
        canvas[mask] = tokens[~beyond]
    at = torch.stack([shown.nonzero()[:, 0][target] for shown, target in zip(mask, targets, strict=True)])
    return short, Readouts.from_tokens(around[0], around[1], at, answers, foils, attention_mask=mask)


def assert_same(padded: Any, short: Any) -> None:
    """Scores, each example's own, and both ends, to 1e-5 of the largest."""
    for name in ("matrix", "per_example", "ends_per_example"):
        found, expected = getattr(padded, name), getattr(short, name)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max(), name
    assert [padded.clean, padded.corrupt] == pytest.approx([short.clean, short.corrupt], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left", "holes"])
def test_padded_rows_score_as_they_do_without(bridged, kind, side) -> None:
    short, padded = short_and_padded(side)
    model = bridged(kind)
    every: list[Settings] = [{"kv": "ungrouped", "ig_steps": 2}, {"level": "nodes", "method": "EAP"}, {"level": "neurons", "method": "EAP"}]
    for settings in every:
        assert_same(*(attribute(model, rows, keep_per_example=True, **settings) for rows in (padded, short)))


@pytest.mark.parametrize("kind", ["arm", "gpt2"])
@pytest.mark.parametrize("settings", [{"method": "exact"}, {"method": "EAP-IG-activations", "ig_steps": 2}, {"intervention": "zero"}])
def test_other_methods_and_interventions_too(bridged, kind, settings) -> None:
    short, padded = short_and_padded("left")
    model = bridged(kind)
    assert_same(*(attribute(model, rows, keep_per_example=True, **settings) for rows in (padded, short)))


@pytest.mark.parametrize("kind", ["arm", "mdm"])
def test_means_are_of_visible_tokens(bridged, kind) -> None:
    short, padded = short_and_padded("left")
    model = bridged(kind)
    means = [writer_means(model, rows) for rows in (padded, short)]
    assert means[0].count == means[1].count == sum(LENGTHS)
    torch.testing.assert_close(means[0].z, means[1].z, rtol=1e-5, atol=1e-6)
    scores = (attribute(model, rows, intervention="mean", means=means[1], keep_per_example=True) for rows in (padded, short))
    assert_same(*scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_what_stands_under_the_mask_does_not_matter(bridged, kind, side) -> None:
    model = bridged(kind)
    one, other = (attribute(model, short_and_padded(side, seed)[1], method="EAP") for seed in (0, 1))
    assert torch.equal(one.matrix, other.matrix) and (one.clean, one.corrupt) == (other.clean, other.corrupt)


def unequal(kind: str) -> Readouts:
    """Prompts of different lengths on the two sides, padded on the left so that both end alike; some positions only one side shows."""
    generator = torch.Generator().manual_seed(4)
    clean, corrupt = torch.randint(3, 48, (2, 3, 8), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 3), generator=generator)
    place = torch.arange(8)
    clean_mask, corrupt_mask = (torch.stack([place >= 8 - n for n in lengths]) for lengths in ((8, 5, 6), (6, 8, 6)))
    return Readouts.from_tokens(clean, corrupt, torch.tensor([7, 7, 6]), answers, foils, attention_mask=(clean_mask, corrupt_mask))


@pytest.mark.parametrize("kind", ["arm", "mdm", "gpt2"])
@pytest.mark.parametrize("activations", [False, True])
def test_sides_of_different_lengths_are_each_run_as_they_are(bridged, definition, kind, activations) -> None:
    """Each side's writers come from its own run; where a side hides a position its writers count as nothing there."""
    rows = unequal(kind)
    method: Any = "EAP-IG-activations" if activations else "EAP-IG-inputs"
    scores = attribute(bridged(kind), rows, method=method, ig_steps=2, keep_per_example=True)
    by_hand = definition(kind, [(0.25, 0.5), (0.75, 0.5)], activations=activations)
    expected = by_hand.scores(rows).sum(1)
    assert (scores.per_example - expected).abs().max() < 1e-5 * expected.abs().max()
    assert by_hand.written(rows, 0, "corrupt")[1].shape[1] == 6, "the corrupt side runs its own six tokens"
    ends = [[by_hand.metric(by_hand.ends(rows, i)[2], rows, i, by_hand.ends(rows, i)[2]).item() for i in range(3)]]
    assert scores.ends_per_example is not None
    assert scores.ends_per_example[0].tolist() == pytest.approx(ends[0], rel=1e-5)


def test_the_target_s_own_slot_may_be_masked(bridged) -> None:
    """An ARM does not see it; an MDM predicts from it, so there it must be visible."""
    clean, corrupt = torch.randint(3, 48, (2, 2, 6), generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([7, 8]), torch.tensor([9, 10])
    shown = torch.arange(6) < torch.tensor([5, 4])[:, None]
    slots = Readouts.from_tokens(clean, corrupt, torch.tensor([5, 4]), *ids, attention_mask=shown)
    seen = Readouts.from_tokens(clean, corrupt, torch.tensor([5, 4]), *ids, attention_mask=torch.arange(6) < torch.tensor([6, 5])[:, None])
    for kind in ("arm", "plain llama", "gpt2"):
        assert_same(*(attribute(bridged(kind), rows, keep_per_example=True, method="EAP") for rows in (slots, seen)))
    with pytest.raises(ValueError, match="clean_mask hides position 5, from which this model predicts its target 5; unmask it"):
        attribute(bridged("mdm"), slots)


def test_a_row_alone_scores_as_among_others(bridged) -> None:
    _, padded = short_and_padded("left")
    together = attribute(bridged("mdm"), padded, keep_per_example=True)
    for i in range(3):
        alone = attribute(bridged("mdm"), padded.select([i]), batch_tokens=1)
        assert (together.resample([i]).matrix - alone.matrix).abs().max() < 1e-5 * alone.matrix.abs().max()


def test_a_path_does_not_start_at_tokens_that_the_corrupt_run_does_not_see(bridged) -> None:
    """There the corrupt embedding is zero: its norm made the scores of the left rule dozens of times what the others agree on."""
    clean, corrupt = torch.randint(3, 48, (2, 3, 8), generator=torch.Generator().manual_seed(0))
    all_seen, one_hidden = torch.ones(3, 8), torch.ones(3, 8).index_fill(1, torch.tensor([2]), 0)
    columns = torch.full((3,), 7), torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])
    rows = Readouts.from_tokens(clean, corrupt, *columns, attention_mask=(all_seen, one_hidden))
    refused: list[Settings] = [{"method": "clean-corrupted"}, {"rule": "left"}, {"rule": "left", "level": "nodes"}]
    for settings in refused:
        with pytest.raises(ValueError, match="tokens that the corrupt mask alone hides, choose EAP"):
            attribute(bridged("mdm"), rows, **settings)
    other = Readouts.from_tokens(clean, corrupt, *columns, attention_mask=(one_hidden, all_seen))
    taken: list[tuple[Readouts, Settings]] = [(rows, {"method": "EAP"}), (rows, {}), (other, {"rule": "left"})]
    for readouts, settings in taken:
        assert attribute(bridged("mdm"), readouts, **settings).matrix.isfinite().all()
