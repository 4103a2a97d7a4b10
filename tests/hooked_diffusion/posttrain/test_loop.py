"""The loop: a killed run goes on as if it had not been killed, states that do not fit are refused, and training learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from hooked_diffusion.posttrain import Recipe, Rows, preset, train
from hooked_diffusion.posttrain.bf16 import bf16_products
from hooked_diffusion.posttrain.muon import Muon, orthogonal
from hooked_diffusion.posttrain.optimizers import learning_rates, make_optimizers

from .helpers import MASK, make_model, rows


def recipe(name: str, steps: int, **changes: object) -> Recipe:
    return preset(name, steps, **{"optimizer": "muon", "learning_rate": 2e-3, **changes})


def test_the_learning_rate_is_transformers_schedule() -> None:
    rate = learning_rates(preset("ar", 99, learning_rate=1.0, warmup=10))
    assert [rate(s) for s in (0, 9, 54, 98)] == pytest.approx([0.1, 1.0, 0.5, 1 / 90])
    assert learning_rates(preset("ar", 99, learning_rate=1.0, warmup=0, schedule="cosine"))(49) == pytest.approx(0.5)


def test_a_killed_run_continues_bit_for_bit(tmp_path):
    settings = recipe("diffullama", 6, anneal_steps=3, warmup=2)
    source = lambda g: [Rows(torch.randint(0, 18, (8, 8), generator=g), rows(8).is_answer)]  # noqa: E731
    whole = train(make_model(), source, settings, folder=tmp_path / "whole", mask_token_id=MASK, save_every=2)

    class Killed(Exception):
        pass

    calls = iter(range(100))

    def dying(g):
        if next(calls) == 5:
            raise Killed
        return source(g)

    with pytest.raises(Killed):
        train(make_model(), dying, settings, folder=tmp_path / "cut", mask_token_id=MASK, save_every=2)
    resumed = train(make_model(), source, settings, folder=tmp_path / "cut", mask_token_id=MASK, save_every=2)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_recipe_does_not_continue_a_run(tmp_path):
    source = lambda g: [rows(4)]  # noqa: E731
    train(make_model(), source, recipe("ar", 2), folder=tmp_path)
    with pytest.raises(ValueError, match="belongs to another recipe"):
        train(make_model(), source, recipe("ar", 3), folder=tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    source = lambda g: [rows(4)]  # noqa: E731
    path = tmp_path / "checkpoint.safetensors"
    for content in (b"", b"nothing", save({"model.x": torch.ones(1)})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged, or no checkpoint of a training run"):
            train(make_model(), source, recipe("ar", 2), folder=tmp_path)


def test_training_learns(tmp_path: Path) -> None:
    losses: list[float] = []
    settings = recipe("ar", 40, warmup=5, learning_rate=1e-2)
    train(make_model(), lambda _: [rows(32)], settings, folder=tmp_path, on_step=lambda step: losses.append(step.loss))
    assert losses[-1] < losses[0] / 2


def test_bf16_products_are_close_and_undone():
    model = make_model()
    kinds = [type(m) for m in model.modules()]
    tokens = rows(4).tokens
    exact = model(input_ids=tokens).logits
    with bf16_products(model):
        near = model(input_ids=tokens).logits
        near.sum().backward()
    assert [type(m) for m in model.modules()] == kinds
    assert 0 < (near - exact).abs().max() < 0.02 and near.dtype == torch.float32


@pytest.mark.parametrize("shape", [(16, 16), (24, 16), (16, 24)])
def test_muon_takes_torch_s_steps(shape: tuple[int, int]) -> None:
    """Torch's multiplies in bfloat16, so the two agree to its precision."""
    torch.manual_seed(0)
    mine, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    optimizers = [
        Muon([mine], lr=0.1, weight_decay=0.3),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        gradient = torch.randn(shape)
        for parameter, optimizer in zip((mine, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert (mine - theirs).abs().max() < 0.02 < (mine - 1).abs().max()


@pytest.mark.parametrize("native", [True, False])
def test_torch_s_muon_is_used_wherever_bfloat16_is_fast(monkeypatch, native: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    hidden, _ = make_optimizers(torch.nn.Sequential(torch.nn.Linear(4, 4)), recipe("ar", 1))
    assert type(hidden) is (torch.optim.Muon if native else Muon)


def test_orthogonal_moves_singular_values_near_1() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 12, 20)))
    assert values.min() > 0.6 and values.max() < 1.25


@pytest.mark.parametrize(
    "values",
    [
        {"objective": "x"}, {"steps": 0}, {"answer_only": 2.0}, {"t_min": 0.0}, {"seed": None}, {"seed": 2**64}, {"weighting": "x"},
        {"average": "x"}, {"learning_rate": 0.0}, {"clip": -1.0}, {"stop": 0}, {"attention": "block"}, {"objective": "next_token"},
        {"attention": "causal", "anneal_steps": 3}, {"warmup": 1.5},
    ],
)  # fmt: skip
def test_a_recipe_refuses(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"Recipe|DiffusionSpec"):
        Recipe(**{"objective": "masked_diffusion", "steps": 1, **values})


def test_a_preset_refuses() -> None:
    with pytest.raises(ValueError, match="unknown recipe 'x'; choose diffullama"):
        preset("x", 3)
    with pytest.raises(ValueError, match="has no field speed"):
        preset("ar", 3, speed=1)


def test_a_short_run_opens_attention_in_its_first_tenth() -> None:
    assert preset("diffullama", 500).anneal_steps == 50 and preset("diffullama", 10**6).anneal_steps == 10_000
