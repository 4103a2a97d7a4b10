"""The losses, against the model's own, hand-worked weights, and a plain float64 version that runs every text alone."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from hooked_diffusion.attention import attention_mask_4d
from hooked_diffusion.posttrain import PRESETS, Recipe, Rows, Text, pack, preset
from hooked_diffusion.posttrain.noise import add_noise
from hooked_diffusion.posttrain.objectives import asked_logits, averaged, cross_entropies, question
from hooked_diffusion.posttrain.optimizers import split_parameters

from .helpers import MASK, generator, make_gpt2, make_model, rows


def loss(model: PreTrainedModel, batch: Rows, recipe: Recipe, seed: int = 0) -> float:
    model.config.is_causal = recipe.attention == "causal"
    asked = question(batch, recipe, 0, MASK, generator(seed))
    return (cross_entropies(model, model, asked) * asked.weight).sum().item()


def test_the_causal_loss_is_the_model_s_own() -> None:
    model, batch = make_model(), rows(4)
    labels = torch.where(batch.is_answer, batch.tokens, -100)
    own = model(input_ids=batch.tokens, labels=labels).loss.item()
    assert loss(model, batch, preset("ar", 1)) == pytest.approx(own, rel=1e-5)


def test_averages_by_hand() -> None:
    """Two texts of 3 and 1 candidates, of which 2 and 1 are asked for with weights 2, 4 and 6."""
    batch = Rows(torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool))
    counted = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1]]).bool()
    asked = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]]).bool()
    weight = torch.tensor([[0.0, 2, 4, 0], [0, 0, 0, 6]])
    total = {name: averaged(weight, counted, asked, batch, preset("llada", 1, average=name)).sum() for name in ("rows", "tokens", "masks")}
    assert {name: round(value.item(), 6) for name, value in total.items()} == {"rows": 4.0, "tokens": 3.0, "masks": 4.0}


def test_only_logits_that_are_read_are_computed() -> None:
    model, batch = make_model(), rows(3)
    asked = question(batch, preset("llada", 1), 0, MASK, generator())
    logits = asked_logits(model, model, asked)
    whole = model(input_ids=asked.inputs).logits
    assert logits.shape == (len(asked.target), 20) and torch.allclose(logits, whole[asked.row, asked.column], atol=1e-6)
    assert model(input_ids=asked.inputs).logits.shape == (3, 8, 20)


def test_masks_need_a_mask_id() -> None:
    with pytest.raises(ValueError, match="pass mask_token_id"):
        question(rows(4), preset("llada", 1), 0, None, generator())


TEXTS = [(5, 2), (7, 3), (3, 1), (8, 4), (4, 0)]


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_preset_in_float64(name: str, family: str) -> None:
    """Packed rows in float32, against each text alone in float64: its own forward pass per block, loops for the sums."""
    model = make_model(2) if family == "llama" else make_gpt2()
    model.eval()
    special: dict[str, dict[str, object]] = {"block": {"block_length": 3}, "ar": {"prompt_weight": 0.1}}
    recipe = preset(name, 1, answer_only=0.5, **special.get(name, {}))
    texts = [Text(tuple((i * 7 + j) % 18 for j in range(n)), tuple(j >= k for j in range(n))) for i, (n, k) in enumerate(TEXTS)]
    batch = pack(texts, 12, 0)
    expected = _in_float64(model, batch, recipe)
    assert loss(model, batch, recipe) == pytest.approx(expected, rel=2e-4)


def _in_float64(model: PreTrainedModel, batch: Rows, recipe: Recipe) -> float:
    exact = copy.deepcopy(model).double()
    noised = add_noise(batch, MASK, recipe, generator()) if recipe.diffuses else None
    terms, n_texts, n_asked, n_counted = [], 0, 0, 0
    assert batch.segment is not None
    for row in range(len(batch)):
        for segment in range(int(batch.segment[row].max()) + 1):
            here = batch.segment[row] == segment
            tokens, answer = batch.tokens[row, here], batch.is_answer[row, here]
            n, per_text = len(tokens), []
            masked = noised.masked[row, here] if noised else (torch.arange(n) > 0) & (answer | (recipe.prompt_weight > 0))
            counted = int(noised.candidates[row, here].sum() if noised else answer.sum())
            for p in map(int, masked.nonzero()):
                inputs = torch.where(masked, MASK, tokens) if noised else tokens
                if recipe.block_length:  # what stands before the block is known by then, and nothing behind it is seen
                    inputs = torch.where(torch.arange(n) < p // recipe.block_length * recipe.block_length, tokens, inputs)
                visible = torch.ones(1, n, dtype=torch.bool)
                sees = attention_mask_4d(visible, recipe.attention, recipe.block_length)
                logits = exact(input_ids=inputs[None], attention_mask=sees, use_cache=False).logits[0, p - recipe.logit_shift]
                weight = noised.weight[row, here][p].item() if noised else (1.0 if answer[p] else recipe.prompt_weight)
                per_text.append(-weight * logits.log_softmax(-1)[tokens[p]].item())
            terms.append(sum(per_text) / max(1, counted) if recipe.average == "rows" else sum(per_text))
            n_texts, n_asked, n_counted = n_texts + 1, n_asked + int(masked.sum()), n_counted + counted
    by_tokens = n_counted if recipe.diffuses else n_asked
    return sum(terms) / {"rows": n_texts, "tokens": by_tokens, "masks": n_asked}[recipe.average]


def test_shares_of_processes_make_the_whole() -> None:
    model, batch = make_model(), rows(5)
    asked = question(batch, preset("llada", 1), 0, MASK, generator())
    parts = [asked.share(i, 2) for i in range(2)]
    total = torch.stack([(cross_entropies(model, model, part) * part.weight).sum() for part in parts]).mean()
    assert total.item() == pytest.approx((cross_entropies(model, model, asked) * asked.weight).sum().item(), rel=1e-5)


def test_embeddings_are_no_hidden_matrices() -> None:
    model = make_gpt2()
    hidden, rest = split_parameters(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)].split(".")[-2] for p in hidden} == {"c_attn", "c_proj", "c_fc"}
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= {names[id(p)] for p in rest}
