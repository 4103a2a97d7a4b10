"""Post-training: what is masked and how it is weighted, how attention opens, and that a killed run goes on as if it had not been."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save
from transformers import LlamaConfig, LlamaForCausalLM

from hooked_diffusion.posttrain import Recipe, Rows, train
from hooked_diffusion.posttrain.bf16 import bf16_products
from hooked_diffusion.posttrain.loop import learning_rate, make_optimizers
from hooked_diffusion.posttrain.muon import Muon, orthogonal
from hooked_diffusion.posttrain.objectives import annealed_attention, loss, mask_rows, shifted_cross_entropy

MASK = 19


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
    )
    return LlamaForCausalLM(config)


def rows(n: int = 64, pos: int = 8) -> Rows:
    tokens = torch.arange(n * pos).view(n, pos) % 18
    return Rows(tokens, torch.arange(pos).expand(n, -1) >= 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_only_the_answer_is_masked_when_asked():
    noised, weight = mask_rows(rows(), MASK, Recipe("masked_diffusion", 1, answer_only=1.0), generator())
    assert not (noised[:, :4] == MASK).any() and (noised[:, 4:] == MASK).any()
    assert torch.equal(weight > 0, noised == MASK)


def test_position_0_is_never_masked():
    noised, _ = mask_rows(rows(2000), MASK, Recipe("masked_diffusion", 1, answer_only=0.0), generator())
    assert not (noised[:, 0] == MASK).any() and (noised[:, 1] == MASK).any()


def test_weights_are_unbiased():
    """E[Σ weight] = 1 per row: each candidate is masked with probability t and then weighs 1 / (t · candidates)."""
    _, weight = mask_rows(rows(20_000), MASK, Recipe("masked_diffusion", 1, t_min=0.2), generator())
    assert weight.sum(1).mean().item() == pytest.approx(1, abs=0.02)


def test_attention_opens():
    assert annealed_attention(9, 10, 6, generator()) is None
    half = annealed_attention(499, 1000, 200, generator())
    assert half is not None and half[0, 0].tril().sum() == 200 * 201 / 2
    upper = half[0, 0][torch.triu(torch.ones(200, 200, dtype=torch.bool), 1)]
    assert upper.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_cross_entropy_reads_one_position_earlier():
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = 50.0  # row 0 predicts token 2 at position 1
    weight = torch.tensor([[0.0, 1.0, 0.0]])
    assert shifted_cross_entropy(logits, torch.tensor([[0, 2, 1]]), weight).item() == pytest.approx(0, abs=1e-6)


def test_causal_loss_is_the_models_own():
    model, batch = make_model(), rows(4)
    recipe = Recipe("next_token", 1, prompt_weight=0.0)
    mine = loss(model, batch, recipe, 0, None, generator())
    labels = torch.where(batch.is_answer, batch.tokens, -100)
    assert mine.item() == pytest.approx(model(input_ids=batch.tokens, labels=labels).loss.item(), rel=1e-5)


def test_learning_rate_warms_up_and_decays():
    recipe = Recipe("next_token", 100, learning_rate=1.0, warmup=10)
    assert [learning_rate(recipe, s) for s in (0, 9, 55, 99)] == pytest.approx([0.1, 1.0, 0.5, 1 / 90])


def test_a_killed_run_continues_bit_for_bit(tmp_path):
    recipe = Recipe("masked_diffusion", 6, anneal_steps=3, warmup=2)
    source = lambda g: [Rows(torch.randint(0, 18, (8, 8), generator=g), rows(8).is_answer)]  # noqa: E731
    whole = train(make_model(), source, recipe, folder=tmp_path / "whole", mask_token_id=MASK, save_every=2)

    class Killed(Exception):
        pass

    calls = iter(range(100))

    def dying(g):
        if next(calls) == 5:
            raise Killed
        return source(g)

    with pytest.raises(Killed):
        train(make_model(), dying, recipe, folder=tmp_path / "cut", mask_token_id=MASK, save_every=2)
    resumed = train(make_model(), source, recipe, folder=tmp_path / "cut", mask_token_id=MASK, save_every=2)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_recipe_does_not_continue_a_run(tmp_path):
    source = lambda g: [rows(4)]  # noqa: E731
    train(make_model(), source, Recipe("next_token", 2), folder=tmp_path)
    with pytest.raises(ValueError, match="belongs to another recipe"):
        train(make_model(), source, Recipe("next_token", 3), folder=tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    source = lambda g: [rows(4)]  # noqa: E731
    path = tmp_path / "checkpoint.safetensors"
    for content in (b"", b"nothing", save({"model.x": torch.ones(1)})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged, or no checkpoint of a training run"):
            train(make_model(), source, Recipe("next_token", 2), folder=tmp_path)


def test_masks_need_a_mask_id():
    with pytest.raises(ValueError, match="pass mask_token_id"):
        loss(make_model(), rows(4), Recipe("masked_diffusion", 1), 0, None, generator())


def test_training_learns(tmp_path):
    batch = rows(32)
    model = make_model()
    before = loss(model, batch, Recipe("next_token", 1), 0, None, generator()).item()
    train(model, lambda g: [batch], Recipe("next_token", 40, warmup=5, learning_rate=1e-2), folder=tmp_path)
    assert loss(model, batch, Recipe("next_token", 1), 0, None, generator()).item() < before / 2


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
    hidden, _ = make_optimizers(torch.nn.Sequential(torch.nn.Linear(4, 4)), Recipe("next_token", steps=1))
    assert type(hidden) is (torch.optim.Muon if native else Muon)


def test_orthogonal_moves_singular_values_near_1() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 12, 20)))
    assert values.min() > 0.6 and values.max() < 1.25


@pytest.mark.parametrize(
    "values", [{"objective": "x"}, {"steps": 0}, {"answer_only": 2.0}, {"t_min": 0.0}, {"seed": None}, {"seed": 2**64}]
)
def test_a_recipe_refuses(values):
    with pytest.raises(ValueError, match="Recipe"):
        Recipe(**{"objective": "next_token", "steps": 1, **values})
