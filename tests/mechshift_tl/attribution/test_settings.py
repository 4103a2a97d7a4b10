"""`AttributionSettings`: defaults, contradictions, its dictionaries."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mechshift_tl.attribution.metrics import resolve
from mechshift_tl.attribution.settings import AttributionSettings


def test_a_path_has_defaults_only_where_there_is_one() -> None:
    assert (AttributionSettings().ig_steps, AttributionSettings().rule) == (5, "midpoint")
    assert AttributionSettings().points == [(pytest.approx((k + 0.5) / 5), 0.2) for k in range(5)]
    eap = AttributionSettings(method="EAP")
    assert (eap.ig_steps, eap.rule, eap.points) == (None, None, [(1.0, 1.0)])
    assert dataclasses.replace(AttributionSettings(ig_steps=3), kv="ungrouped").ig_steps == 3


@pytest.mark.parametrize(
    "settings",
    [
        AttributionSettings(),
        AttributionSettings(method="exact", kv="ungrouped", batch_tokens=8),
        AttributionSettings(level="neurons", metric=("logit_diff", "kl"), rule="right", keep_per_example=True, per_position=True),
    ],
)
def test_a_dictionary_brings_back_everything(settings) -> None:
    assert AttributionSettings.from_dict(settings.to_dict()) == settings
    free = dataclasses.replace(settings, batch_tokens=None, keep_per_example=False, per_position=False)
    assert AttributionSettings.from_dict(settings.defining()) == free and free.defining() == settings.defining()
    with pytest.raises(ValueError, match="attribute has no setting 'of'; its settings are backward, batch_tokens, "):
        AttributionSettings.from_dict(settings.to_dict() | {"of": "edges"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "ACDC"}, "method is 'ACDC'; choose 'EAP-IG-inputs', 'EAP', .* or 'gim'"),
        ({"level": 1}, "level is 1; choose 'edges'"),
        ({"keep_per_example": 1}, "keep_per_example is 1; choose False or True"),
        ({"per_position": "yes"}, "per_position is 'yes'; choose False or True"),
        ({"intervention": "noise"}, "intervention is 'noise'; choose 'counterfactual', 'zero'"),
        ({"ig_steps": True}, "ig_steps must be a whole number of at least 1, got True"),
        ({"ig_steps": 1001}, "ig_steps is 1001; a path takes at most 1000 points"),
        ({"ig_steps": 10**30, "rule": "gauss-legendre"}, "a path takes at most 1000 points"),
        ({"batch_tokens": 2.5}, "batch_tokens must be a whole number of at least 1, got 2.5"),
        ({"method": "EAP", "rule": "left"}, r"method 'EAP' takes no rule \(got left\)"),
        ({"intervention": "zero", "rule": "left"}, "at an embedding of zero"),
        ({"level": "neurons", "intervention": "mean"}, "neurons have no means"),
        ({"metric": ()}, "metric names nothing"),
    ],
)
def test_what_cannot_be_is_refused_when_made(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttributionSettings(**values)


def test_a_metric_without_a_gradient_at_the_clean_run_needs_another_point() -> None:
    for settings in (AttributionSettings(method="EAP"), AttributionSettings(ig_steps=1, rule="right")):
        with pytest.raises(ValueError, match="'kl' has no gradient at the clean run"):
            settings.check_metrics([resolve("kl")])
    AttributionSettings(method="exact").check_metrics([resolve("kl")])
    AttributionSettings().check_metrics([resolve("kl")])
