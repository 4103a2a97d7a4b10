"""Standard errors from streamed moments, against the table they save keeping, the jackknife and the bootstrap."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mechshift_tl import attribute
from mechshift_tl.attribution import totals
from mechshift_tl.readouts import ABSENT, Readouts


@pytest.fixture(scope="module")
def many() -> Readouts:
    """Forty examples of one to three read positions, in one or two steps."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(3, 48, (2, 60, 6), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 60, 2), generator=generator)
    targets = torch.tensor([[3, 5]]).repeat(60, 1)
    unread = torch.stack([torch.zeros(60, dtype=torch.bool), torch.arange(60) % 3 > 0], 1)
    columns = {name: x.masked_fill(unread, ABSENT) for name, x in {"target_pos": targets, "answer_ids": answers, "foil_ids": foils}.items()}
    example = torch.arange(60) % 40
    return Readouts(clean, corrupt, **columns, step=(torch.arange(60) >= 40).long(), example=example, groups=("all",) * 40)


def test_the_example_s_own_scores_weigh_by_what_they_read(many) -> None:
    assert sorted(set(torch.zeros(40, dtype=torch.long).index_add(0, many.example, many.n_read).tolist())) == [1, 2, 3]


@pytest.mark.parametrize("level", ["edges", "nodes", "neurons"])
@pytest.mark.parametrize("in_memory", [10**9, 5, 1])
def test_moments_are_those_of_the_table_however_many_are_held_at_once(bridged, many, monkeypatch, level, in_memory) -> None:
    model = bridged("arm")
    many = many.select(range(8 if in_memory == 1 else 40))
    table = attribute(model, many, method="EAP", level=level, keep_per_example=True)
    monkeypatch.setattr(totals, "MOMENT_BYTES", 4 * table.matrix.numel() * in_memory)
    metrics: Any = ["logit_diff", "log_prob"]
    streamed = attribute(model, many, method="EAP", level=level, keep_per_example="moments", metric=metrics)["logit_diff"]
    assert streamed.per_example is None and streamed.moments is not None
    scale = table.matrix.abs().max()
    assert (streamed.matrix - table.matrix).abs().max() < 1e-5 * scale
    assert (streamed.standard_error - table.standard_error).abs().max() < 1e-5 * table.standard_error.max()
    assert torch.allclose(streamed.ends_per_example, table.ends_per_example, rtol=1e-5, atol=1e-5)
    assert (streamed.steps, streamed.n_read, streamed.n_examples) == (table.steps, table.n_read, table.n_examples)


@pytest.fixture(scope="module")
def scores(bridged, many) -> Any:
    return attribute(bridged("arm"), many, method="EAP", level="nodes", keep_per_example=True)


def test_the_standard_error_is_the_jackknife_s(scores) -> None:
    """Leaving out each example in turn; the two differ in the next order of 1/n."""
    left = torch.stack([scores.resample([e for e in range(40) if e != out]).matrix for out in range(40)]).double()
    jackknife = (39 / 40 * (left - left.mean(0)).square().sum(0)).sqrt()
    torch.testing.assert_close(scores.standard_error.double(), jackknife, rtol=0.05, atol=0)


def test_the_standard_error_is_the_bootstrap_s(scores) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randint(40, (40,), generator=generator) for _ in range(2000)]
    bootstrap = torch.stack([scores.resample(draw).matrix for draw in draws]).std(0)
    torch.testing.assert_close(scores.standard_error, bootstrap, rtol=0.08, atol=0)


def test_the_standard_error_is_that_of_a_mean_where_all_read_alike(bridged, many) -> None:
    one = many.select([e for e in range(40) if int((many.example == e).sum()) == 1 and e % 3 == 0])
    scores = attribute(bridged("arm"), one, method="EAP", level="nodes", keep_per_example=True)
    each = scores.per_example / one.n_read[0]
    assert (one.n_read == 2).all()
    torch.testing.assert_close(scores.standard_error, each.std(0, correction=0) / len(one) ** 0.5, rtol=1e-4, atol=1e-6)


def test_it_shrinks_with_the_root_of_the_examples(scores) -> None:
    twice = dataclasses.replace(
        scores, **{name: torch.cat([getattr(scores, name)] * 2) for name in ("per_example", "read_per_example")}, n_examples=80
    )
    torch.testing.assert_close(scores.standard_error / twice.standard_error, torch.full_like(scores.matrix, 2**0.5))


def test_what_holds_no_parts_has_no_error(bridged, many) -> None:
    few = many.select([0, 1])
    for scores in (
        attribute(bridged("arm"), few, method="EAP"),
        attribute(bridged("arm"), few, method="EAP", keep_per_example=True).step(0),
    ):
        with pytest.raises(ValueError, match="keep_per_example=True or 'moments'"):
            _ = scores.standard_error
    with pytest.raises(ValueError, match="keep_per_example=True to resample"):
        attribute(bridged("arm"), few, method="EAP", keep_per_example="moments").resample([0])


def test_a_table_past_its_bound_is_refused_before_any_run_and_moments_are_not(bridged, many, monkeypatch) -> None:
    monkeypatch.setattr(totals, "PER_EXAMPLE_BYTES", 40 * 11 * 4 - 1)
    model = bridged("arm")
    with pytest.raises(
        ValueError, match="keep_per_example would take 0.0 GiB, over 2 GiB; attribute fewer examples at a time, or keep 'mom"
    ):
        attribute(model, many, level="nodes", keep_per_example=True)
    attribute(model, many, level="nodes", method="EAP", keep_per_example="moments")
    with pytest.raises(ValueError, match="keep_per_example is 'table'; choose False, True or 'moments'"):
        attribute(model, many, keep_per_example="table")


def test_moments_are_saved(bridged, many, tmp_path) -> None:
    scores = attribute(bridged("arm"), many, level="nodes", method="EAP", keep_per_example="moments")
    scores.save(tmp_path / "nodes.safetensors")
    assert torch.equal(type(scores).load(tmp_path / "nodes.safetensors").standard_error, scores.standard_error)
