"""What `attribute` promises beside the scores themselves: batching, steps, examples, metrics, errors, and a model left as it was."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.attribution import totals
from mechshift_tl.attribution.metrics import logit_diff
from mechshift_tl.readouts import Readouts

MDM = DiffusionSpec(attention="full", logit_shift=0, mask_token_id=2)


@pytest.fixture(scope="module")
def model(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(), spec=MDM)


def assert_same(one: Tensor, other: Tensor, share: float = 1e-5) -> None:
    """Equal to within `share` of the largest entry."""
    assert (one - other).abs().max() <= share * other.abs().max()


def simple_rows(n: int = 3, target: int = 5) -> Readouts:
    generator = torch.Generator().manual_seed(1)
    clean, corrupt = torch.randint(3, 48, (2, n, 6), generator=generator)
    answers, foils = torch.randint(3, 48, (2, n), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.full((n,), target), answers, foils)


def only(rows: Readouts, chosen: Tensor) -> Readouts:
    """The chosen rows, of the same examples."""
    tensors = {f.name: getattr(rows, f.name)[chosen] for f in dataclasses.fields(rows) if isinstance(getattr(rows, f.name), Tensor)}
    return dataclasses.replace(rows, **tensors)


@pytest.mark.parametrize("kv", ["grouped", "ungrouped"])
def test_scores_do_not_depend_on_batching(model, rows, kv) -> None:
    whole = attribute(model, rows, kv=kv, batch_tokens=10_000)
    for batch_tokens in (1, 16, None):
        scores = attribute(model, rows, kv=kv, batch_tokens=batch_tokens)
        assert_same(scores.matrix, whole.matrix)
        assert_same(scores.per_step, whole.per_step)
        assert (scores.clean, scores.corrupt) == pytest.approx((whole.clean, whole.corrupt), rel=1e-5)


def test_the_matrix_is_the_mean_over_read_positions_of_the_steps(model, rows) -> None:
    scores = attribute(model, rows)
    assert (scores.steps, scores.n_read) == ([0, 2], [6, 6])
    uneven = attribute(model, only(rows, torch.tensor([0, 1, 4, 5, 6])))
    assert (uneven.steps, uneven.n_read) == ([0, 2], [3, 4])
    for made in (scores, uneven):
        weights = torch.tensor(made.n_read) / sum(made.n_read)
        assert_same(torch.tensordot(weights, made.per_step, 1), made.matrix)


def test_one_step_is_what_its_rows_score_alone(model, rows) -> None:
    both = attribute(model, rows)
    for step in both.steps:
        alone = attribute(model, only(rows, rows.step == step))
        assert_same(both.step(step).matrix, alone.matrix)
        assert both.step(step).steps == [step]


def test_a_position_weighs_the_same_wherever_it_is_read(model) -> None:
    """Two positions read in one row, or in two rows of the same canvas: the same mean."""
    clean, corrupt = torch.randint(3, 48, (2, 1, 6), generator=torch.Generator().manual_seed(2))
    together = Readouts.from_tokens(clean, corrupt, torch.tensor([[3, 5]]), torch.tensor([[7, 8]]), torch.tensor([[9, 10]]))
    apart = Readouts.from_tokens(
        clean.repeat(2, 1), corrupt.repeat(2, 1), torch.tensor([3, 5]), torch.tensor([7, 8]), torch.tensor([9, 10])
    )
    one, two = attribute(model, together), attribute(model, apart)
    assert_same(one.matrix, two.matrix)
    assert one.effect == pytest.approx(two.effect, rel=1e-4)


def test_every_example_once_is_the_whole(model, rows) -> None:
    scores = attribute(model, rows, keep_per_example=True, batch_tokens=16)
    assert_same(scores.matrix, attribute(model, rows).matrix)
    resampled = scores.resample(range(rows.n_examples))
    assert_same(resampled.matrix, scores.matrix)
    assert (resampled.clean, resampled.corrupt) == pytest.approx((scores.clean, scores.corrupt), rel=1e-5)


def test_a_resample_is_what_the_drawn_examples_score(model, rows) -> None:
    scores = attribute(model, rows, keep_per_example=True)
    assert_same(scores.resample([1, 3]).matrix, attribute(model, rows.select([1, 3])).matrix)
    once, twice = (attribute(model, rows.select([e])) for e in (0, 3))
    weights = [sum(once.n_read), 2 * sum(twice.n_read)]
    expected = (weights[0] * once.matrix + weights[1] * twice.matrix) / sum(weights)
    drawn = scores.resample([3, 0, 3])
    assert_same(drawn.matrix, expected)
    assert drawn.n_examples == 3 and drawn.n_read == [sum(weights)]


def test_impossible_edges_are_exactly_zero(model, rows) -> None:
    for kv in ("grouped", "ungrouped"):
        scores = attribute(model, rows, kv=kv, keep_per_example=True)
        assert scores.matrix.dtype == torch.float32 and scores.matrix.isfinite().all()
        assert (scores.matrix[~scores.graph.possible] == 0).all()
        assert scores.per_example is not None and (scores.per_example[:, ~scores.graph.possible] == 0).all()
        assert (scores.matrix[scores.graph.possible] != 0).all()


def test_nothing_differs_nothing_scores(model, rows) -> None:
    scores = attribute(model, dataclasses.replace(rows, corrupt=rows.clean))
    assert (scores.matrix == 0).all() and scores.effect == 0


def test_both_kv_modes_are_one_without_groups(native, rows) -> None:
    model = HookedDiffusionTransformer.from_hf(native(num_key_value_heads=4), spec=MDM)
    grouped, ungrouped = (attribute(model, rows, kv=kv) for kv in ("grouped", "ungrouped"))
    assert grouped.readers == ungrouped.readers and "a1.h3<k>" in grouped.readers
    assert torch.equal(grouped.matrix, ungrouped.matrix)


@pytest.mark.parametrize("kv", ["grouped", "ungrouped"])
def test_a_plain_bridge_scores_as_the_hooked_model(native, rows, kv) -> None:
    hooked = attribute(HookedDiffusionTransformer.from_hf(native("qwen2")), rows, kv=kv)
    hf_model = native("qwen2")
    plain = build_bridge_from_module(hf_model, "Qwen2ForCausalLM", hf_config=hf_model.config, tokenizer=None, model_name="plain")
    scores = attribute(plain, rows, kv=kv)
    assert_same(scores.matrix, hooked.matrix)
    assert scores.provenance["spec"] is None and cast(dict, hooked.provenance["spec"])["attention"] == "causal"


def test_a_callable_metric_scores_as_the_named_one(model, rows) -> None:
    def difference(logits: Tensor, answers: Tensor, foils: Tensor) -> Tensor:
        return logit_diff(logits, answers, foils)

    named, called = attribute(model, rows), attribute(model, rows, metric=difference)
    assert torch.equal(named.matrix, called.matrix)
    assert named.settings is not None and called.settings is not None
    assert (named.settings.metric, called.settings.metric) == ("logit_diff", "difference")


def test_a_metric_that_is_not_linear_explains_its_own_effect(model, rows) -> None:
    def log_probability(logits: Tensor, answers: Tensor, foils: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(2, answers[..., None]).mean((1, 2))

    scores = attribute(model, rows, metric=log_probability, rule="gauss-legendre", ig_steps=16)
    assert abs(scores.completeness_gap) < 0.05


def test_swapping_answer_and_foil_flips_the_sign(model, rows) -> None:
    swapped = dataclasses.replace(rows, answer_ids=rows.foil_ids, foil_ids=rows.answer_ids)
    assert_same(attribute(model, swapped).matrix, -attribute(model, rows).matrix)


def test_the_model_is_left_as_it_was(native, rows) -> None:
    model = HookedDiffusionTransformer.from_hf(native(), spec=MDM)
    tokens = rows.clean[:1]
    before = model(tokens)
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
    wanted = [p.requires_grad for p in model.parameters()]
    with torch.no_grad():
        attribute(model, rows)
    with pytest.raises(FloatingPointError):
        attribute(model, rows, metric=lambda logits, answers, foils: logits[:, 0, 0] / 0)
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(model(tokens), before)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_provenance_travels(model, rows) -> None:
    scores = attribute(model, rows, ig_steps=3, rule="left")
    how = {"method": "EAP-IG-inputs", "level": "edges", "ig_steps": 3, "rule": "left", "intervention": "counterfactual"}
    assert scores.settings is not None and scores.settings.defining() == how | {"kv": "grouped", "metric": "logit_diff"}
    assert scores.provenance["spec"] == MDM.to_dict() and scores.provenance["readouts"] == {"task": "random"}
    assert set(cast(dict, scores.provenance["versions"])) == {"mechshift-tl", "torch", "transformer-lens", "transformers"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "trapezoid"}, "unknown rule 'trapezoid'.*midpoint"),
        ({"ig_steps": 0}, "ig_steps must be a whole number of at least 1, got 0"),
        ({"kv": "native"}, "kv is 'native'; choose 'grouped' or 'ungrouped'"),
        ({"metric": "accuracy"}, "unknown metric 'accuracy'; choose one of logit_diff"),
    ],
)
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_unknown_settings_are_refused(native, kv_heads, settings: dict[str, Any], message: str) -> None:
    model = HookedDiffusionTransformer.from_hf(native(num_key_value_heads=kv_heads))
    with pytest.raises(ValueError, match=message):
        attribute(model, simple_rows(), **settings)


def test_rows_that_do_not_fit_the_model_are_refused(model, native) -> None:
    good = simple_rows()
    for name in ("clean", "corrupt", "answer_ids", "foil_ids"):
        ids = getattr(good, name).clone()
        ids[-1, -1] = 48
        with pytest.raises(ValueError, match=f"readouts.{name} holds id 48, outside the vocabulary of 48"):
            attribute(model, dataclasses.replace(good, **{name: ids}))
    attribute(model, simple_rows(target=0))
    arm = HookedDiffusionTransformer.from_hf(native())
    with pytest.raises(ValueError, match="target position 0 cannot be predicted"):
        attribute(arm, simple_rows(target=0))


def test_a_metric_must_give_one_finite_value_per_row(model) -> None:
    with pytest.raises(ValueError, match=r"returned shape \(3, 1\) for 3 rows"):
        attribute(model, simple_rows(), metric=lambda logits, answers, foils: logits[..., 0])
    with pytest.raises(FloatingPointError, match="not finite for 3 of 3 rows"):
        attribute(model, simple_rows(), metric=lambda logits, answers, foils: logits[:, 0, 0] * torch.nan)


def test_per_example_scores_are_bounded(model, monkeypatch) -> None:
    monkeypatch.setattr(totals, "PER_EXAMPLE_BYTES", 100)
    with pytest.raises(ValueError, match="keep_per_example would take .* attribute fewer examples"):
        attribute(model, simple_rows(), keep_per_example=True)


def test_graphs_that_are_not_known_are_refused() -> None:
    """An MLP beside the heads reads other edges."""
    neox = GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    ).eval()
    bridge = build_bridge_from_module(neox, "GPTNeoXForCausalLM", hf_config=neox.config, tokenizer=None, model_name="neox-tiny")
    with pytest.raises(ValueError, match="neox-tiny: attention and MLP run in parallel"):
        attribute(bridge, simple_rows())
