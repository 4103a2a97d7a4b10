"""Metrics: their gradients against the definition, their values by hand, and several in one sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.path import quadrature
from mechshift_tl.readouts import Readouts

THREE = quadrature("midpoint", 3)
Function = Callable[..., Tensor]


def prob_diff(logits: Tensor, answers: Tensor, foils: Tensor, clean: Tensor) -> Tensor:
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return torch.stack([p[:, j, answers[0, j]] - p[:, j, foils[0, j]] for j in range(answers.shape[1])]).mean(0)


def log_prob(logits: Tensor, answers: Tensor, foils: Tensor, clean: Tensor) -> Tensor:
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return torch.stack([p[:, j, answers[0, j]].log() for j in range(answers.shape[1])]).mean(0)


def kl(logits: Tensor, answers: Tensor, foils: Tensor, clean: Tensor) -> Tensor:
    """torch's own KL divergence, from the run to the clean one, with the sign that makes higher better."""
    from torch.nn.functional import kl_div

    return -kl_div(logits.log_softmax(-1), clean.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean(1)


def margin(logits: Tensor, answers: Tensor, foils: Tensor) -> Tensor:
    """A user's own: the answer over the mean of all tokens, squared."""
    return (logits.gather(2, answers[..., None])[..., 0] - logits.mean(-1)).square().mean(1)


BY_HAND: dict[str, Function] = {"prob_diff": prob_diff, "log_prob": log_prob, "kl": kl, "margin": lambda *args: margin(*args[:3])}
GIVEN: list[Any] = ["prob_diff", "log_prob", "kl", margin]


def disagreement(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest score."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def few(rows) -> Readouts:
    """Two examples: four rows of two lengths in two steps."""
    return rows.select([0, 1])


@pytest.fixture(scope="module", params=["arm", "gpt2"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def sweep(bridged, few, kind) -> dict[str, EdgeScores]:
    return attribute(bridged(kind), few, ig_steps=3, metric=["logit_diff", *GIVEN])


@pytest.mark.parametrize("name", BY_HAND)
def test_every_metric_is_differentiated_as_defined(definition, few, kind, sweep, name) -> None:
    expected = definition(kind, THREE, BY_HAND[name]).matrix(few)
    assert disagreement(sweep[name].matrix, expected) < 1e-5


@pytest.mark.parametrize("name", BY_HAND)
def test_both_ends_are_the_metric_s_values(definition, few, kind, sweep, name) -> None:
    by_hand, ends = definition(kind, [], BY_HAND[name]), torch.zeros(2, dtype=torch.float64)
    for i in range(len(few)):
        clean = by_hand.written(few, i, "clean")[1]
        for side, logits in enumerate((clean, by_hand.written(few, i, "corrupt")[1])):
            ends[side] += by_hand.metric(logits, few, i, clean) * int(few.n_read[i]) / int(few.n_read.sum())
    assert [sweep[name].clean, sweep[name].corrupt] == pytest.approx(ends.tolist(), rel=1e-5, abs=1e-6)
    if name == "kl":
        assert sweep[name].clean == pytest.approx(0, abs=1e-6) and sweep[name].corrupt < 0


@pytest.mark.parametrize("level", ["edges", "nodes", "neurons"])
def test_several_in_one_sweep_are_each_alone(bridged, few, level) -> None:
    model = bridged("arm")
    together = attribute(model, few, level=level, ig_steps=2, metric=["logit_diff", *GIVEN], kv="ungrouped", keep_per_example=True)
    assert list(together) == ["logit_diff", "prob_diff", "log_prob", "kl", "margin"]
    for name, metric in zip(together, ["logit_diff", *GIVEN], strict=True):
        alone = attribute(model, few, level=level, ig_steps=2, metric=metric, kv="ungrouped", keep_per_example=True)
        assert together[name].settings.metric == name == alone.settings.metric
        for field in ("matrix", "per_step", "per_example", "ends_per_example"):
            assert torch.equal(getattr(together[name], field), getattr(alone, field)), (name, field)


def test_one_metric_in_a_list_is_still_a_dict(bridged, few) -> None:
    (name, scores), *none = attribute(bridged("arm"), few, method="EAP", metric=["log_prob"]).items()
    assert name == "log_prob" and isinstance(scores, EdgeScores) and not none


def test_metrics_that_cannot_be_are_refused(bridged, few) -> None:
    model = bridged("arm")

    def accuracy(logits: Tensor, answers: Tensor, foils: Tensor) -> Tensor:
        return (logits.argmax(-1) == answers).float().mean(1)

    at_the_clean_run: list[dict[str, Any]] = [{"method": "EAP"}, {"ig_steps": 1, "rule": "right"}]
    for settings in at_the_clean_run:
        with pytest.raises(ValueError, match="'kl' has no gradient at the clean run, the only point that EAP takes; use EAP-IG"):
            attribute(model, few, metric=["logit_diff", "kl"], **settings)
    with pytest.raises(ValueError, match="metric 'accuracy' has no gradient; choose one that has, or method='exact'"):
        attribute(model, few, metric=accuracy)
    with pytest.raises(ValueError, match=r"metrics are \['kl', 'kl'\]; give at least one, each under its own name"):
        attribute(model, few, metric=["kl", "kl"])
    with pytest.raises(ValueError, match=r"metrics are \[\]"):
        attribute(model, few, metric=[])
    exact = attribute(model, few, level="nodes", method="exact", metric=[accuracy, "kl"])
    assert exact["accuracy"].matrix.shape == (11,) and (exact["kl"].matrix >= -1e-6).all()
