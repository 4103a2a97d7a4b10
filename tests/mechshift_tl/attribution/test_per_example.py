"""Each example's own scores: what they add up to, and the error over prompts that follows from them, by three ways that must agree.

The linearised standard error of a ratio of sums, √Σ(s − r·mean)² / Σr over examples of sums s and positions read r, is computed here by
hand; the jackknife and the bootstrap come from `resample`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores, NodeScores, totals
from mechshift_tl.readouts import ABSENT, Readouts


@pytest.fixture(scope="module")
def many() -> Readouts:
    """Forty examples of one to three read positions, in one or two steps."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(3, 48, (2, 60, 6), generator=generator)
    answers, foils = torch.randint(3, 48, (2, 60, 2), generator=generator)
    targets = torch.tensor([[3, 5]]).repeat(60, 1)
    unread = torch.stack([torch.zeros(60, dtype=torch.bool), torch.arange(60) % 3 > 0], 1)
    columns = [x.masked_fill(unread, ABSENT) for x in (targets, answers, foils)]
    example = torch.arange(60) % 40
    return Readouts(clean, corrupt, *columns, step=(torch.arange(60) >= 40).long(), example=example, groups=("all",) * 40)


def test_the_example_s_own_scores_weigh_by_what_they_read(many) -> None:
    assert sorted(set(torch.zeros(40, dtype=torch.long).index_add(0, many.example, many.n_read).tolist())) == [1, 2, 3]


def standard_error(scores: EdgeScores | NodeScores) -> Tensor:
    """The linearised error of each score over prompts, in its unit."""
    assert scores.read_per_example is not None and scores.per_example is not None
    read, mean, sums = scores.read_per_example.double(), scores.matrix.double(), scores.per_example.double()
    residuals = sums - read.view(-1, *[1] * mean.ndim) * mean
    return (residuals.square().sum(0).sqrt() / read.sum()).float()


@pytest.mark.parametrize("level", ["edges", "nodes", "neurons"])
@pytest.mark.parametrize("batch_tokens", [10**6, 30, 1])
def test_the_examples_own_sums_are_the_scores_however_many_run_at_once(bridged, many, level, batch_tokens) -> None:
    model = bridged("arm")
    many = many.select(range(8 if batch_tokens == 1 else 40))
    metrics: Any = ["logit_diff", "log_prob"]
    plain = attribute(model, many, method="EAP", level=level)
    table = attribute(model, many, method="EAP", level=level, keep_per_example=True, metric=metrics, batch_tokens=batch_tokens)[
        "logit_diff"
    ]
    scale = table.matrix.abs().max()
    assert (plain.matrix - table.matrix).abs().max() < 1e-5 * scale
    assert plain.per_example is None
    assert (table.per_example.sum(0) / table.read_per_example.sum() - table.matrix).abs().max() < 1e-5 * scale
    assert torch.allclose(plain.ends_per_example, table.ends_per_example, rtol=1e-5, atol=1e-5)
    assert (plain.steps, plain.n_read, plain.n_examples) == (table.steps, table.n_read, table.n_examples)


@pytest.fixture(scope="module")
def scores(bridged, many) -> Any:
    return attribute(bridged("arm"), many, method="EAP", level="nodes", keep_per_example=True)


def test_the_standard_error_is_the_jackknife_s(scores) -> None:
    """Leaving out each example in turn; the two differ in the next order of 1/n."""
    left = torch.stack([scores.resample([e for e in range(40) if e != out]).matrix for out in range(40)]).double()
    jackknife = (39 / 40 * (left - left.mean(0)).square().sum(0)).sqrt()
    torch.testing.assert_close(standard_error(scores).double(), jackknife, rtol=0.05, atol=0)


def test_the_standard_error_is_the_bootstrap_s(scores) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randint(40, (40,), generator=generator) for _ in range(2000)]
    bootstrap = torch.stack([scores.resample(draw).matrix for draw in draws]).std(0)
    torch.testing.assert_close(standard_error(scores), bootstrap, rtol=0.08, atol=0)


def test_the_standard_error_is_that_of_a_mean_where_all_read_alike(bridged, many) -> None:
    one = many.select([e for e in range(40) if int((many.example == e).sum()) == 1 and e % 3 == 0])
    scores = attribute(bridged("arm"), one, method="EAP", level="nodes", keep_per_example=True)
    each = scores.per_example / one.n_read[0]
    assert (one.n_read == 2).all()
    torch.testing.assert_close(standard_error(scores), each.std(0, correction=0) / len(one) ** 0.5, rtol=1e-4, atol=1e-6)


def test_it_shrinks_with_the_root_of_the_examples(scores) -> None:
    twice = dataclasses.replace(
        scores, **{name: torch.cat([getattr(scores, name)] * 2) for name in ("per_example", "read_per_example")}, n_examples=80
    )
    torch.testing.assert_close(standard_error(scores) / standard_error(twice), torch.full_like(scores.matrix, 2**0.5))


def test_what_holds_no_parts_is_not_resampled(bridged, many) -> None:
    few = many.select([0, 1])
    for scores in (
        attribute(bridged("arm"), few, method="EAP"),
        attribute(bridged("arm"), few, method="EAP", keep_per_example=True).step(0),
    ):
        with pytest.raises(ValueError, match="keep_per_example=True to resample"):
            scores.resample([0])


def test_a_table_past_its_bound_is_refused_before_any_run_and_scores_alone_are_not(bridged, many, monkeypatch) -> None:
    monkeypatch.setattr(totals, "PER_EXAMPLE_BYTES", 40 * 11 * 4 - 1)
    model = bridged("arm")
    with pytest.raises(ValueError, match="keep_per_example would take 0.0 GiB, over 2 GiB; attribute fewer examples at a time"):
        attribute(model, many, level="nodes", keep_per_example=True)
    attribute(model, many, level="nodes", method="EAP")
    with pytest.raises(ValueError, match="keep_per_example is 'table'; choose False or True"):
        attribute(model, many, keep_per_example=cast(Any, "table"))


def test_a_file_keeps_the_table(bridged, many, tmp_path) -> None:
    scores = attribute(bridged("arm"), many, level="nodes", method="EAP", keep_per_example=True)
    scores.save(tmp_path / "nodes.safetensors")
    assert torch.equal(standard_error(type(scores).load(tmp_path / "nodes.safetensors")), standard_error(scores))
