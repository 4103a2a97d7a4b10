"""What numbers do not depend on (batches, pieces, the run), what little half precision loses, and where they stop being numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.attribution import check, scoring
from mechshift_tl.readouts import Readouts

SETTINGS: list[dict[str, Any]] = [
    {}, {"kv": "ungrouped"}, {"method": "EAP-IG-activations", "ig_steps": 2}, {"level": "nodes"}, {"level": "neurons", "method": "EAP"},
    {"level": "nodes", "method": "exact"}, {"intervention": "zero"},
]  # fmt: skip


def disagreement(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest score."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("settings", SETTINGS)
def test_batches_do_not_matter(bridged, rows, settings) -> None:
    model = bridged("gpt2" if settings.get("intervention") else "arm")
    few = rows.select([0, 1, 3])
    whole, alone = (attribute(model, few, batch_tokens=tokens, keep_per_example=True, **settings) for tokens in (10**6, 1))
    assert disagreement(alone.matrix, whole.matrix) < 1e-5
    assert disagreement(alone.per_example, whole.per_example) < 1e-5
    assert (alone.clean, alone.corrupt) == pytest.approx((whole.clean, whole.corrupt), rel=1e-5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_same_settings_write_the_same_bytes(bridged, rows, tmp_path, settings) -> None:
    few = rows.select([0, 1])
    files = [tmp_path / "one", tmp_path / "other"]
    for file in files:
        attribute(bridged("arm"), few, keep_per_example=True, **settings).save(file)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("method", "keep"), [("EAP", False), ("EAP", True), ("EAP-IG-activations", True)])
def test_the_pieces_in_which_tokens_are_scored_do_not_matter(bridged, rows, monkeypatch, keep, method) -> None:
    model, groups = bridged("arm"), []
    settings: Any = {"method": method, "keep_per_example": keep} | ({"ig_steps": 1} if "IG" in method else {})
    whole = attribute(model, rows, **settings)
    monkeypatch.setattr(scoring, "WRITER_BYTES", 1)
    monkeypatch.setattr(scoring, "LEAST_TOKENS", 3)
    add = scoring._add_piece
    monkeypatch.setattr(scoring, "_add_piece", lambda *args: (groups.append(len(torch.arange(10**3)[args[5]])), add(*args)))
    small = attribute(model, rows, **settings)
    assert max(groups) == 3 and len(groups) > 15
    assert disagreement(small.matrix, whole.matrix) < 1e-5


# Half precision.


@pytest.mark.parametrize("kind", ["arm", "mdm", "gpt2"])
@pytest.mark.parametrize(("dtype", "share"), [(torch.bfloat16, 0.15), (torch.float16, 0.05)])
def test_half_precision_weights_score_almost_alike_in_float32(bridged, rows, kind, dtype, share) -> None:
    """Measured: 3 to 9 % of the scores' norm in bfloat16, 0.3 to 2.4 % in float16, on random models with large weights."""
    few = rows.select([0, 1])
    expected, half = attribute(bridged(kind), few, ig_steps=2), bridged(kind).to(dtype)
    grouped, ungrouped = (attribute(half, few, ig_steps=2, kv=kv, keep_per_example=True) for kv in ("grouped", "ungrouped"))
    for scores in (grouped, ungrouped):
        for name in ("matrix", "per_step", "per_example", "ends_per_example"):
            assert getattr(scores, name).dtype == torch.float32 and getattr(scores, name).isfinite().all()
        assert (scores.matrix.sum(1) - expected.matrix.sum(1)).norm() < share * expected.matrix.sum(1).norm()
    assert (grouped.matrix - expected.matrix).norm() < share * expected.matrix.norm()


def test_many_small_sums_are_not_lost_in_bfloat16(bridged) -> None:
    """A thousand examples alike score what one does: nothing is accumulated in the model's precision."""
    clean, corrupt = torch.randint(3, 48, (2, 1, 6), generator=torch.Generator().manual_seed(0))
    model = bridged("arm").to(torch.bfloat16)
    ids = torch.tensor([5]), torch.tensor([7]), torch.tensor([9])
    one = attribute(model, Readouts.from_tokens(clean, corrupt, *ids), method="EAP")
    many = Readouts.from_tokens(clean.expand(1000, -1), corrupt.expand(1000, -1), *(i.expand(1000) for i in ids))
    assert disagreement(attribute(model, many, method="EAP").matrix, one.matrix) < 0.03


def test_a_residual_that_rounds_away_its_writers_is_still_a_sum_of_them(bridged, rows) -> None:
    """Real models have tokens of enormous norm; in bfloat16 their residual moves in steps larger than what is added."""
    model = bridged("arm").to(torch.bfloat16)
    model.W_E.data[rows.clean[0, 0]] *= 1e4
    attribute(model, rows, method="EAP")
    assert model in check.SUMMED


# Where numbers end.


def spoilt(native: Any, where: str, value: float = torch.nan) -> HookedDiffusionTransformer:
    """A Qwen2 with one entry of one weight replaced."""
    hf_model = native("qwen2")
    weight = hf_model.get_parameter(where)
    model = HookedDiffusionTransformer.from_hf(hf_model, name="spoilt")
    weight.data.view(-1)[0] = value
    return model


SPOILT = {
    "model.layers.0.input_layernorm.weight": "layer 0, hook blocks.0.attn.hook_q",
    "model.layers.1.self_attn.k_proj.weight": "layer 1, hook blocks.1.attn.hook_k",
    "model.layers.0.self_attn.v_proj.bias": "layer 0, hook blocks.0.attn.hook_v",
    "model.layers.1.self_attn.o_proj.weight": "layer 1, hook blocks.1.hook_attn_out",
    "model.layers.0.mlp.gate_proj.weight": "layer 0, hook blocks.0.mlp.hook_post",
    "model.layers.1.mlp.down_proj.weight": "layer 1, hook blocks.1.hook_mlp_out",
    "model.norm.weight": "hook unembed.hook_in",
}


@pytest.mark.parametrize(
    ("where", "level"), [*((where, "edges") for where in SPOILT), *((next(iter(SPOILT)), level) for level in ("nodes", "neurons"))]
)
def test_a_weight_that_is_no_number_is_named_by_layer_and_hook(native, rows, where, level) -> None:
    with pytest.raises(FloatingPointError, match=f"in the clean run the first such values are at {SPOILT[where]} \\(") as error:
        attribute(spoilt(native, where), rows.select([0]), level=level, method="EAP")
    assert str(error.value).count("first such values") == 1


def test_an_embedding_that_is_no_number_names_the_row_that_holds_its_token(native, rows) -> None:
    corrupt, token = rows.corrupt.clone(), 2  # which stands nowhere else
    corrupt[2, 1] = token
    model = spoilt(native, "model.embed_tokens.weight", 0.0)
    model.W_E.data[token] = torch.inf
    with pytest.raises(FloatingPointError, match=r"in the corrupt run .* layer 0, hook blocks.0.hook_resid_pre \(\d+ of them, row 2 "):
        attribute(model, replace(rows, corrupt=corrupt))


def test_half_precision_that_overflows_is_refused_and_float32_is_not(native, rows) -> None:
    hf_model = native("qwen2")
    hf_model.model.layers[1].mlp.down_proj.weight.data.mul_(3e4)
    model = HookedDiffusionTransformer.from_hf(hf_model)
    attribute(model, rows, method="EAP")
    with pytest.raises(FloatingPointError, match="first such values are at layer 1, hook blocks.1.hook_mlp_out"):
        attribute(model.to(torch.float16), rows, method="EAP")


def test_a_model_that_was_no_number_once_is_looked_at_again(native, rows) -> None:
    model = spoilt(native, "model.layers.0.mlp.gate_proj.weight")
    with pytest.raises(FloatingPointError):
        attribute(model, rows)
    assert model not in check.SUMMED


def test_a_metric_that_is_no_number_between_the_ends_says_so(bridged, rows) -> None:
    model = bridged("mdm")

    def sometimes(logits: Tensor, answers: Tensor, foils: Tensor) -> Tensor:
        return logits[:, 0, 0] * (torch.nan if logits.requires_grad else 1)

    with pytest.raises(FloatingPointError, match="'sometimes' is not finite for .*; both runs are finite, so it arose between them or in"):
        attribute(model, rows, metric=sometimes)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_an_interrupted_attribution_leaves_no_hook_behind(bridged, rows, monkeypatch) -> None:
    """Nothing of the path may stay on the model while the error is still being looked at."""
    from mechshift_tl.attribution import readers

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    interrupts: list[tuple[Any, str, Literal["edges", "nodes"]]] = [
        (readers.SingleReader, "add", "edges"),
        (scoring.TokenGroups, "of", "nodes"),
    ]
    for module, name, level in interrupts:
        model = bridged("mdm")
        before = model(rows.clean[:1])
        attribute(model, rows, level=level, method="EAP")
        monkeypatch.setattr(module, name, interrupted)
        with pytest.raises(KeyboardInterrupt) as kept:
            attribute(model, rows, level=level)
        assert kept.tb is not None and not any(point.fwd_hooks for point in model.hook_dict.values())
        assert torch.equal(model(rows.clean[:1]), before)
        monkeypatch.undo()
