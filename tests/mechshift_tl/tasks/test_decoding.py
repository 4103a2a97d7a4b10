"""Free decoding, against a loop written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.bridge.decode import decode
from mechshift_tl.tasks import Example, Examples, TextPair
from mechshift_tl.tasks.decoding import decode_answers

PROMPTS = torch.tensor([[0, 9, 14, 30], [0, 7, 7, 41], [0, 40, 5, 6]])
MASK = 2


def mdm(native, **spec) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec(attention="full", mask_token_id=MASK, **spec))


@torch.no_grad()
def greedy(hf_model, prompt: Tensor, k: int) -> list[int]:
    """The most likely next token, `k` times, from the native model."""
    row = prompt.tolist()
    for _ in range(k):
        row.append(int(hf_model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    return row[len(prompt) :]


def test_an_arm_continues_greedily(native) -> None:
    expected = [greedy(native(), prompt, 6) for prompt in PROMPTS]
    hf_model = native()
    plain = build_bridge_from_module(hf_model, "LlamaForCausalLM", hf_config=hf_model.config, tokenizer=None, model_name="plain")
    for model in (HookedDiffusionTransformer.from_hf(native()), plain):
        assert decode(model, PROMPTS, 6).tolist() == expected
        assert decode(model, PROMPTS[:1], 1).tolist() == [expected[0][:1]]


@pytest.mark.parametrize("shift", [0, 1])
def test_an_mdm_commits_its_most_confident_token_one_a_step(native, shift) -> None:
    model = mdm(native, logit_shift=shift)
    canvas = torch.cat([PROMPTS, torch.full((3, 5), MASK)], 1)
    masked = canvas == MASK
    for _ in range(5):
        confidence, tokens = model.token_logits(canvas).softmax(-1).max(-1)
        chosen = confidence.masked_fill(~masked, -1).argmax(1, keepdim=True)
        canvas.scatter_(1, chosen, tokens.gather(1, chosen))
        masked.scatter_(1, chosen, False)
    assert decode(model, PROMPTS, 5).tolist() == canvas[:, 4:].tolist()


def test_a_mask_id_in_the_prompt_is_a_word(native) -> None:
    prompts = PROMPTS.clone()
    prompts[:, 1] = MASK
    model = mdm(native, mask_is_reused=True)
    where = torch.zeros(3, 8, dtype=torch.bool)
    where[:, 4:] = True
    canvas = torch.cat([prompts, torch.full((3, 4), MASK)], 1)
    with pytest.warns(UserWarning, match=f"the prompt holds id {MASK}, which this model also reads as a mask"):
        decoded = decode(model, prompts, 4)
        assert torch.equal(decoded, model.denoise(canvas, steps=4, mask_positions=where).tokens[:, 4:])
    assert decoded.shape == (3, 4)


def test_the_recipe_s_tail_follows_the_masks_and_is_not_returned(native) -> None:
    model = mdm(native, tail=(1, 20))
    seen: list[Tensor] = []
    with model.hooks(fwd_hooks=[("embed.hook_in", lambda tokens, hook: seen.append(tokens))]):
        assert decode(model, PROMPTS, 3).shape == (3, 3)
    assert len(seen) == 3 and all(canvas.shape == (3, 9) and canvas[:, 7:].unique(dim=0).tolist() == [[1, 20]] for canvas in seen)


def test_an_mdm_without_a_mask_token_is_refused(native) -> None:
    model = HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec(attention="full"))
    with pytest.raises(ValueError, match="an MDM without a mask token cannot be read; give its DiffusionSpec a mask_token_id"):
        decode(model, PROMPTS, 2)


@pytest.mark.parametrize("kind", ["arm", "mdm"])
@pytest.mark.parametrize("batch_tokens", [1, 1000])
def test_answers_of_mixed_lengths_come_back_in_order(native, word_tokenizer, kind: str, batch_tokens: int) -> None:
    model = HookedDiffusionTransformer.from_hf(native()) if kind == "arm" else mdm(native)
    shapes = [(4, 2), (3, 5), (4, 2), (2, 1), (4, 3)]
    generator = torch.Generator().manual_seed(0)
    rows = []
    for start, k in shapes:
        clean, corrupt = torch.randint(4, 48, (2, start + k), generator=generator).tolist()
        rows.append(Example(tuple(clean), tuple(corrupt), start, tuple(corrupt[start:]), (True,) * k, TextPair("", "", "", "", "", "g")))
    texts = decode_answers(model, Examples("toy", tuple(rows), word_tokenizer), batch_tokens=batch_tokens)
    for row, text in zip(rows, texts, strict=True):
        alone = decode(model, torch.tensor([row.clean[: row.answer_start]]), len(row.answer))[0]
        assert text == word_tokenizer.decode(alone) and len(text.split()) == len(row.answer)
