"""Expected gradients and the completeness gap: the same rows get the same points in any batch, and points are added until few miss."""

from __future__ import annotations

import warnings
from typing import Any, cast

import pytest
import torch

from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.completeness import FewPoints, Incomplete
from mechshift_tl.attribution.drawn import drawn_points
from mechshift_tl.attribution.settings import AttributionSettings
from mechshift_tl.readouts import Readouts

EG: Any = "expected-gradients"


@pytest.fixture(scope="module")
def few(rows) -> Readouts:
    """Three rows: two lengths, two steps, one or two positions read."""
    return rows.select([0, 1])


@pytest.fixture
def calm(bridged) -> Any:
    """A model with small weights, so that few points do."""
    model = bridged("arm")
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name:
            parameter.data.mul_(0.4)
    return model


def test_a_row_has_its_own_points_in_any_batch_and_in_any_order(rows) -> None:
    def by_row(readouts: Readouts, batch_tokens: int, seed: int = 0) -> dict[tuple[int, ...], torch.Tensor]:
        found = {}
        for batch in readouts.batches(batch_tokens):
            alphas = torch.stack([torch.as_tensor(alpha) for alpha, _ in drawn_points(batch, 3, seed)], 1)
            found |= {tuple(row.tolist()): alpha for row, alpha in zip(batch.clean, alphas, strict=True)}
        return found

    together, alone, some = by_row(rows, 10_000), by_row(rows, 1), by_row(rows.select([3, 1]), 10_000)
    assert len(together) == len(rows) and together.keys() == alone.keys() and some.keys() < together.keys()
    assert all(torch.equal(together[row], alone[row]) for row in alone) and all(torch.equal(together[row], some[row]) for row in some)
    drawn = torch.stack(list(together.values()))
    assert drawn.unique().numel() == drawn.numel() and drawn.min() >= 0 and drawn.max() < 1
    assert all(not torch.equal(alpha, together[row]) for row, alpha in by_row(rows, 1, seed=1).items())


def test_it_is_the_mean_gradient_at_the_points_of_each_row(bridged, definition, few) -> None:
    one = few.select([0])
    scores = attribute(bridged("arm"), one, method=EG, ig_steps=2, seed=3)
    expected = torch.zeros_like(scores.matrix, dtype=torch.float64)
    # Every row of the definition has one α, so rows are taken one by one.
    for i, batch in enumerate(one.batches(1)):
        points = [(float(alpha), weight) for alpha, weight in drawn_points(batch, 2, 3)]
        row = int(batch.index[0])
        expected += definition("arm", points)._row(one, row).sum(0)
        assert i == row
    error = (scores.matrix - expected / int(one.n_read.sum())).abs().max() / expected.abs().max()
    assert error < 1e-5


def test_batches_and_restarts_leave_the_scores_as_they_are(bridged, rows, tmp_path) -> None:
    model, asked = bridged("mdm"), {"method": EG, "keep_per_example": True}
    whole = attribute(model, rows, batch_tokens=10_000, **asked)
    torch.testing.assert_close(attribute(model, rows, batch_tokens=1, **asked).matrix, whole.matrix, rtol=1e-4, atol=1e-5)
    first = attribute(model, rows, batch_tokens=8, journal=tmp_path / "journal", **asked)
    (tmp_path / "journal" / "0-of-1" / "000001.safetensors").unlink()
    again = attribute(model, rows, batch_tokens=8, journal=tmp_path / "journal", **asked)
    assert torch.equal(first.matrix, again.matrix) and first.per_example is not None and again.per_example is not None
    assert torch.equal(first.per_example, again.per_example)


def test_many_draws_tend_to_the_integral(calm, few) -> None:
    integral = attribute(calm, few, rule="gauss-legendre", ig_steps=16).matrix
    one, many = (attribute(calm, few, method=EG, ig_steps=passes).matrix for passes in (1, 48))
    assert (many - integral).norm() < 0.3 * (one - integral).norm()


def test_points_are_doubled_until_the_mean_example_misses_no_more_than_the_gap(calm, few, tmp_path) -> None:
    scores = attribute(calm, few, gap=0.05, rule="left", keep_per_example=True, journal=tmp_path / "journal")
    assert (
        scores.points is not None
        and scores.points % 5 == 0
        and scores.passes == sum(5 * 2**i for i in range(20) if 5 * 2**i <= scores.points)
    )
    by_count = attribute(calm, few, ig_steps=scores.points, rule="left")
    assert torch.equal(scores.matrix, by_count.matrix) and by_count.points is None
    # The same gap from the kept parts: the row `input` of each example, less its effect.
    assert scores.per_example is not None and scores.ends_per_example is not None and scores.example_gap is not None
    effect = scores.ends_per_example[0] - scores.ends_per_example[1]
    missed = (scores.per_example[:, 0].sum(1) - effect).abs().sum() / effect.abs().sum()
    assert scores.example_gap == pytest.approx(missed.item(), abs=1e-4) and scores.example_gap <= 0.05
    nodes, neurons = (attribute(calm, few, gap=0.05, rule="left", level=level) for level in ("nodes", "neurons"))
    assert nodes.points == neurons.points == scores.points
    scores.save(tmp_path / "scores.safetensors")
    loaded = EdgeScores.load(tmp_path / "scores.safetensors")
    assert (loaded.points, loaded.passes, loaded.settings) == (scores.points, scores.passes, scores.settings)


def test_a_gap_that_cannot_be_reached_is_told(bridged, few, monkeypatch) -> None:
    monkeypatch.setattr("mechshift_tl.attribution.completeness.DOUBLINGS", 1)
    with pytest.warns(Incomplete, match="over gap=1e-09, with 10 points"):
        scores = attribute(bridged("arm"), few, gap=1e-9)
    assert scores.points == 10 and scores.passes == 15


def test_node_scores_of_few_points_are_warned_of(bridged, few) -> None:
    model = bridged("mdm")
    with pytest.warns(FewPoints, match="node scores from 5 points; .* signs of strong nodes may be wrong: give ig_steps=10"):
        attribute(model, few, level="nodes")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FewPoints)
        attribute(model, few, level="nodes", ig_steps=10)
        attribute(model, few, level="nodes", method="eap")
        attribute(model, few, ig_steps=1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"gap": 0.02, "ig_steps": 5}, "gap=0.02 chooses the number of points; leave out ig_steps \\(got 5\\)"),
        ({"gap": 2}, "gap is 2; give a share of the effect between 0 and 1"),
        ({"gap": 0.02, "method": "EAP"}, "more points bring method 'EAP' no nearer"),
        ({"gap": 0.02, "method": "gim"}, "method 'gim' takes one gradient and no gap"),
        ({"gap": 0.02, "backward": "gim"}, "under backward rules scores do not add up"),
        ({"method": EG, "rule": "left"}, "method 'expected-gradients' takes no rule"),
        ({"seed": 1}, "takes no seed \\(got 1\\); leave it out, or choose expected-gradients"),
        ({"method": EG, "seed": -1}, "seed is -1; give a whole number"),
    ],
)
def test_contradictions_are_refused(asked, message) -> None:
    with pytest.raises(ValueError, match=message):
        AttributionSettings(**cast(Any, asked))


def test_settings_survive_a_file() -> None:
    for asked in ({"method": EG, "ig_steps": 3, "seed": 7}, {"gap": 0.05}, {"backward": ("qkv", "norms")}, {"method": "relp"}):
        settings = AttributionSettings(**cast(Any, asked))
        assert AttributionSettings.from_dict(settings.to_dict()) == settings
