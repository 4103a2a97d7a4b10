"""Named spans: the share of every score that passes at some positions, against the definition, and patched alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_diffusion import load_pair
from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.readouts import Readouts, logit_shift, readouts
from mechshift_tl.tasks import IOI, Countdown


def rows_with(spans: dict[str, Any] | None, mask: Tensor | None = None) -> Readouts:
    """Three rows of seven tokens, the second and third of which change."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(3, 48, (3, 7), generator=generator)
    corrupt = clean.clone()
    corrupt[:, 1:3] = torch.randint(3, 48, (3, 2), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 3), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.tensor([6, 6, 5]), answers, foils, spans=spans, attention_mask=mask)


def slanted() -> Tensor:
    """A span that lies elsewhere in every row."""
    return torch.arange(7) == torch.tensor([3, 4, 5])[:, None]


COVERING: dict[str, Any] = {"before": (0, 1), "changed": (1, 3), "after": (3, 7)}
PARTLY: dict[str, Any] = {"changed": (1, 3), "slanted": slanted()}


def close(found: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    """Equal to within `share` of the largest entry."""
    assert (found - expected).abs().max() <= share * expected.abs().max()


@pytest.mark.parametrize("level", ["edges", "nodes", "neurons"])
@pytest.mark.parametrize("method", ["EAP", "EAP-IG-inputs", "EAP-IG-activations"])
def test_spans_that_cover_a_row_add_up_to_the_scores(bridged, level, method) -> None:
    scores = attribute(bridged("arm"), rows_with(COVERING), level=level, method=method, per_position=True)
    assert scores.spans == ["before", "changed", "after"] and scores.per_span is not None
    assert scores.per_span.shape == (3, *scores.matrix.shape)
    close(scores.per_span.sum(0), scores.matrix)
    assert (scores.span("before").matrix == 0).all(), "nothing differs before the first change, and no causal model looks ahead"


@pytest.mark.parametrize(
    ("level", "method"), [("edges", "EAP"), ("edges", "exact"), ("nodes", "EAP"), ("nodes", "exact"), ("neurons", "EAP")]
)
@pytest.mark.parametrize("keep", [False, True])
def test_the_scores_are_the_same_whether_spans_are_kept_or_not(bridged, level, method, keep) -> None:
    model, rows = bridged("mdm"), rows_with(PARTLY)
    plain, kept = (attribute(model, rows, level=level, method=method, per_position=p, keep_per_example=keep) for p in (False, True))
    close(kept.matrix, plain.matrix)
    close(kept.per_step, plain.per_step)
    if keep is True:
        close(kept.per_example, plain.per_example)
    assert (plain.spans, plain.per_span, kept.spans) == ([], None, ["changed", "slanted"])


@pytest.mark.parametrize("kind", ["arm", "mdm", "gpt2"])
def test_a_span_is_what_passes_at_its_positions(bridged, definition, kind) -> None:
    rows = rows_with(PARTLY)
    scores = attribute(bridged(kind), rows, ig_steps=2, per_position=True, keep_per_example=True)
    by_hand = definition(kind, [(0.25, 0.5), (0.75, 0.5)]).scores(rows)
    close(scores.span("changed").matrix, by_hand[:, 1:3].sum((0, 1)) / 3)
    close(scores.span("slanted").matrix, by_hand[slanted()].sum(0) / 3)
    close(scores.matrix, by_hand.sum((0, 1)) / 3)


def test_small_pieces_do_not_change_a_span(bridged, monkeypatch) -> None:
    from mechshift_tl.attribution import scoring

    rows = rows_with(PARTLY)
    whole = attribute(bridged("mdm"), rows, per_position=True)
    monkeypatch.setattr(scoring, "WRITER_BYTES", 1)
    monkeypatch.setattr(scoring, "LEAST_TOKENS", 1)
    groups = attribute(bridged("mdm"), rows, per_position=True)
    assert groups.per_span is not None and whole.per_span is not None
    close(groups.per_span, whole.per_span)
    close(groups.matrix, whole.matrix)


def test_exact_patching_of_a_span_patches_it_alone(bridged) -> None:
    """What the input puts out at a position is its token's: patched there alone, it is a canvas corrupt at that token alone."""
    rows, model = rows_with({"second": (1, 2), "third": (2, 3)}), bridged("mdm")
    scores, edges = (attribute(model, rows, level=level, method="exact", per_position=True) for level in ("nodes", "edges"))
    for name, column in (("second", 1), ("third", 2)):
        canvas = rows.clean.clone()
        canvas[:, column] = rows.corrupt[:, column]
        alone = attribute(model, dataclasses.replace(rows, corrupt=canvas), method="exact")
        assert scores.span(name).matrix[0].item() == pytest.approx(alone.effect, rel=1e-5)
        close(edges.span(name).matrix[0], alone.matrix[0])
    assert scores.per_span is not None
    assert (scores.per_span.sum(0) - scores.matrix).abs().max() > 1e-3 * scores.matrix.abs().max(), "effects do not add up"


def test_masked_positions_lie_in_no_span_s_share(bridged) -> None:
    mask = torch.arange(7) >= torch.tensor([0, 2, 1])[:, None]
    masked = attribute(bridged("mdm"), rows_with({"front": (0, 3), "back": (3, 7)}, mask), per_position=True)
    assert masked.per_span is not None
    close(masked.per_span.sum(0), masked.matrix)
    only_hidden = attribute(bridged("mdm"), rows_with({"first": (0, 1)}, torch.arange(7).expand(3, 7) >= 1), per_position=True)
    assert (only_hidden.span("first").matrix == 0).all()


def test_spans_travel_and_are_asked_for_by_name(bridged, tmp_path) -> None:
    scores = attribute(bridged("mdm"), rows_with(COVERING), method="EAP", per_position=True)
    scores.save(tmp_path / "scores.safetensors")
    again = EdgeScores.load(tmp_path / "scores.safetensors")
    assert again.spans == scores.spans and torch.equal(again.span("after").matrix, scores.span("after").matrix)
    assert again.span("after").made_by()["span"] == "after"
    with pytest.raises(KeyError, match=r"span 'middle' was not kept; spans are \['before', 'changed', 'after'\]"):
        scores.span("middle")
    with pytest.raises(KeyError, match="attribute with per_position=True"):
        attribute(bridged("mdm"), rows_with(COVERING), method="EAP").span("after")
    with pytest.raises(ValueError, match="per_position=True needs readouts with named spans"):
        attribute(bridged("mdm"), rows_with(None), per_position=True)


@pytest.mark.parametrize("task", [IOI(), Countdown()], ids=["ioi", "countdown"])
@pytest.mark.parametrize("role", ["arm", "mdm"])
def test_the_spans_of_a_task_cover_its_canvases(task, role) -> None:
    pair = load_pair("tiny")
    model = getattr(pair, role)
    examples = task.examples(pair.tokenizer, n=2, seed=0)
    rows = readouts(model, examples)
    assert rows.span is not None and rows.spans == ("read", "changed", "prompt", "answer", "tail")
    assert torch.equal(rows.span >= 0, rows.clean >= 0)
    shift = logit_shift(model)
    for i, example in enumerate(rows.example.tolist()):
        level = examples[example]
        for position, span in enumerate(rows.span[i, : int((rows.clean[i] >= 0).sum())].tolist()):
            expected = "tail" if position >= len(level.clean) else "answer"
            if position < level.answer_start:
                expected = "prompt" if level.clean[position] == level.corrupt[position] else "changed"
            if position + shift in rows.target_pos[i].tolist():
                expected = "read"
            assert rows.spans[span] == expected, (i, position)
    scores = attribute(model, rows, method="EAP", level="nodes", per_position=True)
    assert scores.per_span is not None
    close(scores.per_span.sum(0), scores.matrix)
