"""Masks and spans of your own tensors: what becomes of them, how they travel, and every way they can be wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from mechshift_tl.readouts import ABSENT, Batch, Readouts

CLEAN = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19]])
CORRUPT = CLEAN + 20
RIGHT = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
LEFT = RIGHT.flip(1)


def given(attention_mask: Any = None, spans: Any = None, target: Any = (3, 4, 2), **changes: Any) -> Readouts:
    ids = {"answer_ids": torch.tensor([1, 2, 3]), "foil_ids": torch.tensor([4, 5, 6])}
    tensors: dict[str, Any] = {"clean": CLEAN, "corrupt": CORRUPT, "target_pos": torch.tensor(target)} | ids | changes
    return Readouts.from_tokens(**tensors, attention_mask=attention_mask, spans=spans)


def test_rows_end_after_their_last_visible_token_and_target() -> None:
    made = given(RIGHT)
    assert made.clean.tolist() == [[5, 6, 7, 0, ABSENT], [10, 11, 12, 13, 14], [15, 16, 0, ABSENT, ABSENT]]
    assert made.clean_mask is not None and made.clean_mask.tolist() == RIGHT.bool().tolist()
    assert made.corrupt.tolist()[2] == [35, 36, 0, ABSENT, ABSENT]


def test_a_mask_that_hides_nothing_but_the_end_of_a_row_is_no_mask() -> None:
    """Such rows run as they would alone, without a mask."""
    for mask in (torch.ones(3, 5), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])):
        made = given(mask, target=(3, 4, 2))
        assert made.clean_mask is None and made.corrupt_mask is None
    assert given(torch.ones(3, 5)).clean.tolist() == CLEAN.tolist()
    assert given().clean_mask is None


def test_ids_under_the_mask_may_be_anything() -> None:
    wild = torch.where(RIGHT.bool(), CLEAN, -100)
    one, other = given(RIGHT), given(RIGHT, clean=wild)
    assert torch.equal(one.clean, other.clean)


def test_each_side_has_its_own_mask() -> None:
    made = given((LEFT, torch.ones(3, 5, dtype=torch.bool)))
    assert made.clean_mask is not None and made.clean_mask.tolist() == LEFT.bool().tolist()
    assert made.corrupt_mask is not None and made.corrupt_mask.all()
    assert made.clean.tolist()[0] == [0, 0, 7, 8, 9] and made.corrupt.tolist()[0] == [25, 26, 27, 28, 29]


def batch_of(made: Readouts, row: int) -> tuple[Batch, int]:
    return next((batch, batch.index.tolist().index(row)) for batch in made.batches(100) if row in batch.index.tolist())


def test_batches_carry_masks_only_where_something_is_hidden() -> None:
    made = given(RIGHT, spans={"front": (0, 2)})
    batches = list(made.batches(100))
    assert made.span is not None
    assert sorted(i for batch in batches for i in batch.index.tolist()) == [0, 1, 2]
    for batch in batches:
        length = batch.clean.shape[1]
        assert (batch.clean != ABSENT).all()
        assert batch.span is not None and torch.equal(batch.span, made.span[batch.index, :length])
    whole, at = batch_of(made, 1)
    assert whole.clean_mask is None and whole.mask("corrupt") is None
    padded, at = batch_of(made, 0)
    assert padded.clean_mask is not None and padded.clean_mask[at].tolist() == [True, True, True, False]
    mask = padded.mask("corrupt")
    assert mask is not None and padded.corrupt_mask is not None and torch.equal(mask, padded.corrupt_mask)


def test_parts_of_a_batch_keep_their_masks() -> None:
    (batch,) = given((LEFT, torch.ones(3, 5)), spans={"front": (0, 2)}, target=(4, 4, 4)).select([0, 2]).batches(100)
    for one in (batch.rows(slice(1, 2)), batch.to("cpu").rows(slice(1, 2))):
        assert len(one) == 1
        for name in ("clean", "clean_mask", "corrupt_mask", "span", "index"):
            assert torch.equal(getattr(one, name), getattr(batch, name)[1:2])
    both = batch.stacked()
    assert torch.equal(both.clean, torch.cat([batch.clean, batch.corrupt]))
    assert both.clean_mask is not None and batch.clean_mask is not None and batch.corrupt_mask is not None
    assert torch.equal(both.clean_mask, torch.cat([batch.clean_mask, batch.corrupt_mask]))


def test_masks_and_spans_are_selected_and_saved(tmp_path) -> None:
    made = given((LEFT, torch.ones(3, 5)), spans={"front": (0, 2), "slanted": torch.eye(3, 5).roll(2, 1).bool()}, target=(4, 4, 4))
    assert made.spans == ("front", "slanted")
    assert made.span is not None and made.span.tolist() == [[0, 0, 1, -1, -1], [0, 0, -1, 1, -1], [0, 0, -1, -1, 1]]
    chosen = made.select([2, 0])
    for name in ("clean", "clean_mask", "corrupt_mask", "span"):
        assert torch.equal(getattr(chosen, name), getattr(made, name)[[0, 2]]), "rows keep their order, examples are renumbered"
    assert chosen.example.tolist() == [1, 0] and chosen.spans == made.spans
    made.save(tmp_path / "rows.safetensors")
    again = Readouts.load(tmp_path / "rows.safetensors")
    for field in dataclasses.fields(made):
        one, other = getattr(made, field.name), getattr(again, field.name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other, field.name


def test_a_span_ends_with_its_row() -> None:
    made = given(RIGHT, spans={"all": (0, 5)})
    assert made.span is not None and made.span.tolist() == [[0, 0, 0, 0, -1], [0, 0, 0, 0, 0], [0, 0, 0, -1, -1]]


def test_spans_count_from_the_end_too() -> None:
    made = given(spans={"last": (-2, None), "first": (0, 1)})
    assert made.span is not None and made.span.tolist() == [[1, -1, -1, 0, 0]] * 3


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 4), r"attention_mask of the clean side has shape \(3, 4\); its tokens are \(3, 5\)"),
        ((RIGHT, torch.ones(2, 5)), r"attention_mask of the corrupt side has shape \(2, 5\); its tokens are \(3, 5\)"),
        ((RIGHT, RIGHT, RIGHT), r"attention_mask holds 3 masks; give one for both sides, or \(clean_mask, corrupt_mask\)"),
        (2 * RIGHT, r"attention_mask of the clean side holds \[0, 2\]; give 1 at visible tokens, 0 elsewhere"),
        ((RIGHT, RIGHT - 1), r"attention_mask of the corrupt side holds \[-1, 0\]"),
        (torch.full((3, 5), torch.nan), "attention_mask of the clean side holds"),
        (RIGHT * torch.tensor([[1], [0], [1]]), "attention_mask of the clean side hides the whole of row 1; drop that row"),
        ((RIGHT, RIGHT * torch.tensor([[1], [1], [0]])), "attention_mask of the corrupt side hides the whole of row 2"),
    ],
)
def test_masks_that_cannot_be_are_refused(mask, message) -> None:
    with pytest.raises(ValueError, match=message):
        given(mask)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"x": torch.ones(3, 4, dtype=torch.bool)}, r"span 'x' has shape \(3, 4\); its tokens are \(3, 5\)"),
        ({"x": (5, 9)}, r"span 'x' holds no position of rows of 5 tokens; got \(5, 9\)"),
        ({"x": (3, 2)}, r"span 'x' holds no position"),
        ({"x": torch.zeros(3, 5, dtype=torch.bool)}, "span 'x' holds no position"),
        ({"x": (0, 3), "y": (2, 4)}, "spans 'x' and 'y' share a position; a position lies in one span at most"),
        ({"x": (0, 3), "y": torch.eye(3, 5).bool()}, "spans 'x' and 'y' share a position"),
    ],
)
def test_spans_that_cannot_be_are_refused(spans, message) -> None:
    with pytest.raises(ValueError, match=message):
        given(spans=spans)


def test_a_visible_id_must_be_one() -> None:
    with pytest.raises(ValueError, match="clean holds id -100, outside every vocabulary; mask padding by attention_mask"):
        given(RIGHT, clean=torch.where(RIGHT.flip(0).bool(), CLEAN, -100))


def test_a_model_must_see_what_it_predicts_from(native) -> None:
    from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer

    arm = HookedDiffusionTransformer.from_hf(native())
    mdm = HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec("full", 0, 2))
    given(RIGHT).check(arm)
    with pytest.raises(
        ValueError, match="clean_mask hides position 3, from which this model predicts its target 3; unmask it, or pad on the l"
    ):
        given(RIGHT).check(mdm)
    with pytest.raises(ValueError, match="corrupt_mask hides position 3, from which this model predicts its target 4"):
        given((torch.ones(3, 5), RIGHT), target=(4, 4, 2)).check(arm)
    with pytest.raises(ValueError, match="target position 0 cannot be predicted"):
        given(LEFT, target=(0, 4, 4)).check(arm)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": CLEAN.float()}, "clean is torch.float32; give integers"),
        ({"corrupt": CORRUPT > 30}, "corrupt is torch.bool; give integers"),
        ({"target": (3.0, 4.0, 2.0)}, "target_pos is torch.float32; give integers"),
        ({"answer_ids": torch.ones(3)}, "answer_ids is torch.float32; give integers"),
        (
            {"attention_mask": [torch.ones(3, 5), torch.ones(3, 5)]},
            r"list of tensors; give a tensor, or a tuple \(clean_mask, corrupt_mask\)",
        ),
        ({"attention_mask": (torch.ones(3, 5), None)}, r"holds 1 masks; give one for both sides, or \(clean_mask, corrupt_mask\)"),
        ({"spans": {"x": (0, 4, 2)}}, r"span 'x' is \(0, 4, 2\); give \(start, stop\), or a mask"),
    ],
)
def test_what_is_no_id_no_mask_and_no_span_is_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        given(**changes)


def test_ids_of_any_integer_type_are_taken() -> None:
    assert given(clean=CLEAN.int(), answer_ids=torch.ones(3, dtype=torch.int16)).clean.dtype == torch.long


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corrupt": CORRUPT[:, :4]}, r"corrupt is \(3, 4\), but clean \(3, 5\)"),
        ({"foil_ids": torch.zeros(3, 2)}, r"foil_ids is \(3, 2\), but target_pos \(3, 1\)"),
        ({"clean_mask": torch.ones(3, 5, dtype=torch.bool)}, "one mask was given; give clean_mask and corrupt_mask, or neither"),
        ({"clean": CLEAN.masked_fill(CLEAN == 7, ABSENT)}, "clean holds -1 amid a row"),
        ({"corrupt": CORRUPT.masked_fill(CORRUPT == 29, ABSENT)}, "corrupt and clean are not filled up with -1 alike"),
        ({name: torch.tensor([[1], [ABSENT], [2]]) for name in ("target_pos", "answer_ids", "foil_ids")}, "row 1 reads no position; leave"),
        ({"step": torch.zeros(2)}, "step has 2 rows, but clean 3"),
        ({"groups": ("one", "two")}, "example 2 has no group; groups names 2 examples"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(given(), **changes)


def test_rows_that_are_not_there_are_refused(native) -> None:
    from hooked_diffusion import HookedDiffusionTransformer

    for chosen in ([0, 0], [-1], [3]):
        with pytest.raises(ValueError, match=r"are not distinct indices of 3 examples; resample scores instead"):
            given().select(chosen)
    with pytest.raises(ValueError, match="readouts hold no row"):
        given().select([]).check(HookedDiffusionTransformer.from_hf(native()))
    with pytest.raises(ValueError, match="batch_tokens must be a whole number of at least 1, got 0"):
        next(given().batches(0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clean": "abc"}, "clean is 'abc'; give integers, as a tensor or as lists of one length"),
        ({"clean": [["a"]]}, r"clean is \[\['a'\]\]; give integers"),
        ({"clean": [[1, 2], [3]]}, "clean is .*; give integers"),
        ({"corrupt": None}, "corrupt is None; give integers"),
        ({"clean": torch.zeros(1, 3, dtype=torch.complex64)}, "clean is torch.complex64; give integers"),
        ({"clean": torch.zeros(1, 3, dtype=torch.long, device="meta")}, "clean is a tensor without values in memory"),
        ({"clean": torch.zeros(1, 3, dtype=torch.long).to_sparse()}, "clean is a tensor without values in memory"),
        ({"groups": "x"}, "groups is 'x'; give a list with the name of each example's group"),
        ({"groups": [3]}, r"groups is \[3\]; give a list with the name"),
        ({"spans": ["x"]}, r"spans is \['x'\]; give a dictionary of names"),
        ({"spans": {"x": 3}}, r"span 'x' is 3; give \(start, stop\)"),
        ({"spans": {"x": (0.5, 2)}}, r"span 'x' is \(0.5, 2\); give \(start, stop\)"),
        ({"attention_mask": "x"}, "attention_mask is 'x'; give a tensor"),
    ],
)
def test_things_of_another_kind_are_named_with_what_is_wanted(given: dict[str, Any], message: str) -> None:
    ids, one = torch.tensor([[5, 6, 7]]), torch.tensor([1])
    good: dict[str, Any] = {"clean": ids, "corrupt": ids, "target_pos": one, "answer_ids": one, "foil_ids": one}
    with pytest.raises(ValueError, match=message):
        Readouts.from_tokens(**(good | given))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clean": torch.zeros(1, 3)}, r"clean is float32 \(1, 3\); give a tensor of torch.int64"),
        ({"step": torch.zeros(1, 1, dtype=torch.long)}, r"step is int64 \(1, 1\); give a tensor with 1 dimension$"),
        (
            {name: torch.ones(1, 3, dtype=torch.long) for name in ("clean_mask", "corrupt_mask")},
            "clean_mask is int64 .*; give a tensor of torch.bool",
        ),
        ({"clean": 3}, "clean is 3; give a tensor with 2 dimensions"),
        ({"target_pos": torch.tensor([[3]])}, "target_pos of row 0 is 3; the row has 3 tokens"),
        ({"target_pos": torch.tensor([[-2]])}, "target_pos of row 0 is -2; the row has 3 tokens"),
        ({"span": torch.tensor([[0, 1, -1]])}, "span holds 1; spans names 1 of them"),
    ],
)
def test_parts_that_cannot_be_read_are_refused_when_made(changed: dict[str, Any], message: str) -> None:
    ids, one = torch.tensor([[5, 6, 7]]), torch.tensor([1])
    good = Readouts.from_tokens(ids, ids, one, one, one, spans={"first": (0, 1)})
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **changed)
