"""Every method against its definition (float64, one row and one reader at a time), and against what its path must add up to."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from mechshift_tl import attribute
from mechshift_tl.attribution.path import quadrature
from mechshift_tl.readouts import Readouts

THREE = quadrature("midpoint", 3)
METHODS: dict[Any, tuple[dict[str, Any], list[tuple[float, float]]]] = {
    "EAP": ({}, [(1.0, 1.0)]),
    "clean-corrupted": ({}, [(0.0, 0.5), (1.0, 0.5)]),
    "EAP-IG-inputs": ({"ig_steps": 3}, THREE),
    "EAP-IG-activations": ({"ig_steps": 3}, THREE),
}


def disagreement(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest score."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def few(rows) -> Readouts:
    """Three rows: two lengths, two steps, one or two positions read."""
    return rows.select([0, 1])


@pytest.fixture(scope="module", params=["arm", "mdm", "gpt2"])
def kind(request) -> str:
    return request.param


def calmed(model: Any) -> Any:
    """Smaller weights, so that paths are smooth enough for few points."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name:
            parameter.data.mul_(0.5)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_its_definition(bridged, definition, few, kind, method) -> None:
    settings, points = METHODS[method]
    scores = attribute(bridged(kind), few, method=method, **settings)
    expected = definition(kind, points, activations=method == "EAP-IG-activations").matrix(few)
    assert disagreement(scores.matrix, expected) < 1e-5


@pytest.mark.parametrize("kind", ["mdm", "gpt2"])
def test_what_a_layer_s_own_path_moves_adds_up_to_its_effect(bridged, definition, few, kind) -> None:
    """Row or rows of one group, summed: what the metric loses when it alone is taken to its corrupt output, layer 0 included."""
    two = few.select([1])
    scores = attribute(calmed(bridged(kind)), two, method="EAP-IG-activations", rule="gauss-legendre", ig_steps=32)
    by_hand, rows_of = definition(calmed(bridged(kind)), []), scores.matrix.sum(1)
    groups = [[0], [1, 2, 3, 4], [5], [6, 7, 8, 9], [10]]
    for group, hook in zip(groups, by_hand.stands, strict=True):
        effect = 0.0
        for i in range(len(two)):
            clean, corrupt, logits = by_hand.ends(two, i)
            shown = (two.clean[i] >= 0).nonzero()[:, 0]
            with torch.no_grad():
                patched = by_hand.run(two.clean[i, shown], {}, {hook: corrupt[hook][shown]})
            lost = by_hand.metric(logits, two, i, logits) - by_hand.metric(patched, two, i, logits)
            effect += lost.item() * int(two.n_read[i]) / int(two.n_read.sum())
        assert rows_of[group].sum().item() == pytest.approx(effect, abs=1e-3 * abs(scores.effect)), hook


def test_a_method_takes_only_its_own_settings(bridged, few) -> None:
    model = bridged("mdm")
    for method in ("EAP", "clean-corrupted", "exact"):
        with pytest.raises(ValueError, match=f"method '{method}' takes no ig_steps \\(got 5\\); leave it out"):
            attribute(model, few, method=method, ig_steps=5)
        with pytest.raises(ValueError, match=f"method '{method}' takes no rule \\(got left\\); leave it out"):
            attribute(model, few, method=method, rule="left")
    with pytest.raises(ValueError, match="ig_steps must be a whole number of at least 1, got 2.5"):
        attribute(model, few, ig_steps=cast(Any, 2.5))
    with pytest.raises(ValueError, match="method is 'ACDC'; choose 'EAP-IG-inputs', 'EAP', 'EAP-IG-activations'"):
        attribute(model, few, method=cast(Any, "ACDC"))
    with pytest.raises(ValueError, match="level is 'layers'; choose 'edges', 'nodes' or 'neurons'"):
        attribute(model, few, level=cast(Any, "layers"))
    with pytest.raises(ValueError, match="batch_tokens must be a whole number of at least 1, got 0"):
        attribute(model, few, batch_tokens=0)


def test_settings_name_the_path_only_where_there_is_one(bridged, few) -> None:
    model = bridged("mdm")
    along, at_clean = attribute(model, few, ig_steps=2).settings, attribute(model, few, method="EAP").settings
    assert along is not None and along.ig_steps == 2
    assert at_clean is not None and not {"ig_steps", "rule"} & set(at_clean.to_dict())
