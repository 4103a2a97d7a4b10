"""What a writer's output is held against, in attribution: zero, its mean, its mean at each position, against the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mechshift_tl import attribute
from mechshift_tl.attribution.path import quadrature
from mechshift_tl.interventions.replaced import WriterMeans, writer_means
from mechshift_tl.readouts import Readouts

POINTS = quadrature("midpoint", 2)
CASES: list[tuple[Any, Any]] = [("zero", None), ("mean", False), ("mean_positional", True)]


def disagreement(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest score."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def few(rows) -> Readouts:
    """Two examples: four rows of two lengths in two steps."""
    return rows.select([0, 1])


@pytest.fixture(scope="module", params=["arm", "mdm", "gpt2"])
def kind(request) -> str:
    return request.param


def put(means: WriterMeans | None) -> Callable[[str, Tensor], Tensor]:
    """What stands at a hook instead `(pos, …)`."""

    def replacement(name: str, value: Tensor) -> Tensor:
        if means is None:
            return torch.zeros_like(value)
        layer = int(name.split(".")[1])
        mean = means.input if name.endswith("resid_pre") else (means.z if name.endswith("z") else means.mlp)[layer]
        return (mean[: len(value)] if means.positional else mean).double().expand_as(value)

    return replacement


@pytest.mark.parametrize(("intervention", "positional"), CASES)
def test_every_intervention_is_its_definition(bridged, definition, rows, few, kind, intervention, positional) -> None:
    model = bridged(kind)
    means = None if positional is None else writer_means(model, rows.select([0, 2, 3]), positional=positional)
    scores = attribute(model, few, ig_steps=2, intervention=intervention, means=means)
    by_hand = definition(kind, POINTS, replace=put(means))
    assert disagreement(scores.matrix, by_hand.matrix(few)) < 1e-5
    assert scores.settings is not None and scores.settings.intervention == intervention


@pytest.mark.parametrize(("intervention", "positional"), CASES[1:])
def test_along_each_layer_s_own_path_too(bridged, definition, rows, few, intervention, positional) -> None:
    one = few.select([1])
    means = writer_means(bridged("mdm"), rows.select([0, 2, 3]), positional=positional)
    scores = attribute(bridged("mdm"), one, method="EAP-IG-activations", ig_steps=2, intervention=intervention, means=means)
    assert disagreement(scores.matrix, definition("mdm", POINTS, replace=put(means), activations=True).matrix(one)) < 1e-5


@pytest.mark.parametrize(("intervention", "positional"), CASES)
def test_the_corrupt_end_is_the_run_from_the_embedding_put_in(bridged, definition, rows, few, intervention, positional) -> None:
    model, embed = bridged("gpt2"), "blocks.0.hook_resid_pre"
    means = None if positional is None else writer_means(model, rows.select([0, 2, 3]), positional=positional)
    scores = attribute(model, few, method="EAP", intervention=intervention, means=means)
    by_hand, expected = definition("gpt2", [], replace=put(means)), 0.0
    for i in range(len(few)):
        clean, other, logits = by_hand.ends(few, i)
        shown = (few.clean[i] >= 0).nonzero()[:, 0]
        with torch.no_grad():
            start = by_hand.run(few.clean[i, shown], {}, {embed: other[embed][shown]})
        expected += by_hand.metric(start, few, i, logits).item() * int(few.n_read[i]) / int(few.n_read.sum())
    assert scores.corrupt == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", [{"method": "clean-corrupted"}, {"rule": "left"}, {"method": "EAP-IG-activations", "rule": "left"}])
def test_gradients_at_an_embedding_of_zero_are_refused(bridged, few, settings) -> None:
    with pytest.raises(ValueError, match="at an embedding of zero norms have no direction.*leaves out the corrupt end: 'midpoint'"):
        attribute(bridged("arm"), few, intervention="zero", **settings)


def test_neurons_have_no_means(bridged, rows) -> None:
    model = bridged("mdm")
    for intervention, positional in CASES[1:]:
        means = writer_means(model, rows, positional=positional)
        with pytest.raises(ValueError, match=f"neurons have no means; choose 'counterfactual' or 'zero', not '{intervention}'"):
            attribute(model, rows, level="neurons", intervention=intervention, means=means)
    with pytest.raises(ValueError, match="intervention 'mean' needs means=writer_means"):
        attribute(model, rows, intervention="mean")
