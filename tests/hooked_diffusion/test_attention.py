"""Who sees whom: masks by hand, padding that changes nothing, and a switched direction that is the other model's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.attention import Direction, attention_mask_4d, position_ids
from hooked_diffusion.gradients import NamedHooks

ROWS = [[7, 3, 9, 12, 30, 8], [5, 6, 41], [22, 9, 17, 40]]
PAD = 1


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`ROWS` as one matrix, and True at their own tokens."""
    width, side_of = max(map(len, ROWS)), slice(None, None, -1 if side == "left" else 1)
    tokens = [(row[side_of] + [PAD] * (width - len(row)))[side_of] for row in ROWS]
    visible = [([True] * len(row) + [False] * (width - len(row)))[side_of] for row in ROWS]
    return torch.tensor(tokens), torch.tensor(visible)


def model_of(native: Any, family: str, attention: Any) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(family), spec=DiffusionSpec(attention, 1, 2 if attention == "full" else None))


def drawn(mask: torch.Tensor) -> list[list[str]]:
    return [["".join("x" if sees else "." for sees in row) for row in one[0]] for one in mask.tolist()]


@pytest.mark.parametrize(
    ("direction", "block_length", "expected"),
    [
        ("causal", None, [".x...", ".xx..", ".xx.x"]),
        ("full", None, [".xx.x", ".xx.x", ".xx.x"]),
        ("block", 2, [".xx..", ".xx..", ".xx.x"]),
    ],
)
def test_masks_drawn_by_hand(direction, block_length, expected):
    visible = torch.tensor([[False, True, True, False, True]])
    assert position_ids(visible).tolist() == [[0, 0, 1, 1, 2]]
    found = drawn(attention_mask_4d(visible, direction, block_length))[0]
    assert [found[q] for q in (1, 2, 4)] == expected
    assert all(row[q] == "x" for q, row in enumerate(found))


def test_blocks_begin_at_the_first_visible_token():
    visible = torch.tensor([[True] * 5, [False] * 2 + [True] * 3])
    mask = attention_mask_4d(visible, "block", 2)
    assert drawn(mask)[0] == ["xx...", "xx...", "xxxx.", "xxxx.", "xxxxx"]
    assert torch.equal(mask[1, 0, 2:, 2:], mask[0, 0, :3, :3])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("attention", ["causal", "full"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_have_the_logits_they_have_alone(native, family, attention, side):
    model = model_of(native, family, attention)
    tokens, visible = padded(side)
    raw, aligned = model(tokens, attention_mask=visible), model.token_logits(tokens, attention_mask=visible.long())
    assert torch.isfinite(raw).all()
    for i, row in enumerate(ROWS):
        alone = torch.tensor([row])
        torch.testing.assert_close(raw[i, visible[i]], model(alone)[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(aligned[i, visible[i]][1:], model.token_logits(alone)[0, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_a_mask_that_hides_nothing_changes_no_bit(native, attention):
    model = model_of(native, "llama", attention)
    tokens = torch.tensor([ROWS[0]])
    _, plain = model.run_with_cache(tokens)
    _, masked = model.run_with_cache(tokens, attention_mask=torch.ones_like(tokens))
    for name in ("blocks.1.attn.hook_pattern", "blocks.1.hook_resid_post"):
        assert torch.equal(plain[name], masked[name])


def test_caches_and_hooks_see_the_padding(native):
    model = model_of(native, "llama", "full")
    tokens, visible = padded("left")
    _, cache = model.run_with_cache(tokens, attention_mask=visible)
    pattern = cache["pattern", 1]
    assert not pattern[1, :, 3:, :3].any()
    torch.testing.assert_close(
        pattern[1, :, 3:, 3:], model.run_with_cache(torch.tensor([ROWS[1]]))[1]["pattern", 1][0], atol=1e-5, rtol=1e-5
    )


def test_padding_changes_no_gradient(native):
    model = model_of(native, "llama", "full")
    tokens, visible = padded("left")
    rows = []

    def keep(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        rows.append(activation)
        return activation

    def gradient(tokens: torch.Tensor, mask: torch.Tensor | None, row: int) -> torch.Tensor:
        with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", keep)]):
            value = model.token_logits(tokens, attention_mask=mask)[row, -1].log_softmax(-1)[7]
        return torch.autograd.grad(value, rows.pop())[0][row]

    together = gradient(tokens, visible, 1)
    assert torch.isfinite(together).all() and not together[:3].any()
    torch.testing.assert_close(together[3:], gradient(torch.tensor([ROWS[1]]), None, 0), atol=1e-5, rtol=1e-5)


def plain(native: Any, family: str) -> tuple[Any, Any]:
    """A plain TransformerBridge and an untouched native twin."""
    if family == "llama":
        return build_bridge_from_module(native(), "LlamaForCausalLM", hf_config=native().config), native()
    config = GPT2Config(vocab_size=48, n_positions=32, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, use_cache=False)
    twins = []
    for _ in range(2):
        torch.manual_seed(0)
        twins.append(GPT2LMHeadModel(config).eval())
    return build_bridge_from_module(twins[0], "GPT2LMHeadModel", hf_config=config), twins[1]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_plain_causal_bridge_is_right_with_the_padding_mask_alone(native, family, side):
    bridge, twin = plain(native, family)
    tokens, visible = padded(side)
    logits = bridge(tokens, attention_mask=visible.long(), use_cache=False)
    spelled_out = bridge(tokens, attention_mask=attention_mask_4d(visible, "causal"), position_ids=position_ids(visible), use_cache=False)
    for i, row in enumerate(ROWS):
        expected = twin(torch.tensor([row]), use_cache=False).logits[0]
        torch.testing.assert_close(logits[i, visible[i]], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(spelled_out[i, visible[i]], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_learned_positions_need_the_positions_too(native, side):
    """Absolute positions are not forgiving: with the 4D mask alone left padding moves GPT-2's logits, with `position_ids` it does not."""
    bridge, twin = plain(native, "gpt2")
    tokens, visible = padded(side)
    mask = attention_mask_4d(visible, "full")
    without = bridge(tokens, attention_mask=mask, use_cache=False)
    logits = bridge(tokens, attention_mask=mask, position_ids=position_ids(visible), use_cache=False)
    twin.config.is_causal = False
    expected = twin(torch.tensor([ROWS[1]]), use_cache=False).logits[0]
    torch.testing.assert_close(logits[1, visible[1]], expected, atol=1e-5, rtol=1e-5)
    assert ((without[1, visible[1]] - expected).abs().max() > 0.01) == (side == "left")


@pytest.mark.parametrize(("own", "other"), [("full", "causal"), ("causal", "full")])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_switched_attention_is_the_other_models(native, family, own, other):
    model, twin = model_of(native, family, own), model_of(native, family, other)
    tokens = torch.tensor([ROWS[0], ROWS[0][::-1]])
    before = model(tokens)
    with model.attention(other) as switched:
        assert switched is model
        logits, cache = model.run_with_cache(tokens)
        aligned = model.token_logits(tokens)
    expected, theirs = twin.run_with_cache(tokens)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(aligned, twin.token_logits(tokens), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cache["pattern", 1], theirs["pattern", 1], atol=1e-5, rtol=1e-5)
    assert torch.equal(model(tokens), before)
    assert model.spec.attention == own


@pytest.mark.parametrize("side", ["left", "right"])
def test_switched_attention_keeps_out_padding(native, side):
    model, twin = model_of(native, "llama", "causal"), model_of(native, "llama", "full")
    tokens, visible = padded(side)
    with model.attention("full"):
        logits = model(tokens, attention_mask=visible)
    for i, row in enumerate(ROWS):
        torch.testing.assert_close(logits[i, visible[i]], twin(torch.tensor([row]))[0], atol=1e-5, rtol=1e-5)


def test_hooks_act_under_a_switched_direction(native):
    model, twin = model_of(native, "llama", "full"), model_of(native, "llama", "causal")

    def silence(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.zeros_like(activation)

    hooks: NamedHooks = [("blocks.0.attn.hook_z", silence)]
    tokens = torch.tensor([ROWS[0]])
    with model.attention("causal"):
        found = model.run_with_hooks(tokens, fwd_hooks=hooks)
    torch.testing.assert_close(found, twin.run_with_hooks(tokens, fwd_hooks=hooks), atol=1e-5, rtol=1e-5)


def test_switches_nest_and_survive_errors(native):
    model = model_of(native, "llama", "full")
    tokens = torch.tensor([ROWS[0]])
    own = model(tokens)
    with model.attention("causal"):
        causal = model(tokens)
        with pytest.raises(RuntimeError, match="on purpose"), model.attention("full"):
            assert torch.equal(model(tokens), own)
            raise RuntimeError("on purpose")
        assert torch.equal(model(tokens), causal)
    assert torch.equal(model(tokens), own)
    assert not torch.equal(own, causal)


def test_residuals_can_be_resumed_under_a_switched_direction(native):
    model = model_of(native, "llama", "causal")
    tokens = torch.tensor([ROWS[0]])
    with model.attention("full"):
        logits, cache = model.run_with_cache(tokens)
        torch.testing.assert_close(model(cache["resid_post", 0], start_at_layer=1), logits, atol=1e-6, rtol=1e-6)


def test_lists_of_text_are_padded_under_every_direction(native, word_tokenizer, tmp_path):
    word_tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = ["w7 w9 w12 w30", "w5 w6"]
    cases: tuple[tuple[Direction, Direction | None], ...] = (("causal", None), ("full", None), ("causal", "full"), ("full", "causal"))
    for own, switched in cases:
        spec = DiffusionSpec(own, 1, 2 if own == "full" else None)
        model = HookedDiffusionTransformer.from_hf(native(), tokenizer, spec)
        with model.attention(switched or own):
            for side in ("left", "right"):
                logits = model(text, padding_side=side)
                alone = model(model.to_tokens(text[1]))
                rows = slice(2, None) if side == "left" else slice(None, 3)
                torch.testing.assert_close(logits[1, rows], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 6), r"shape \(2, 6\); give one entry per token, \(1, 6\)"),
        (torch.ones(1, 6) * 2, "other values than 0"),
        (torch.zeros(1, 6), "hides all of row 0"),
    ],
)
def test_an_impossible_mask_is_refused(native, mask, message):
    with pytest.raises(ValueError, match=message):
        model_of(native, "llama", "full")(torch.tensor([ROWS[0]]), attention_mask=mask)


def test_what_a_switched_direction_does_not_allow_is_refused(native):
    model = model_of(native, "llama", "causal")
    tokens = torch.tensor([ROWS[0]])
    unknown: Any = "sideways"
    with pytest.raises(ValueError, match="direction 'sideways' is unknown"), model.attention(unknown):
        pass
    with pytest.raises(ValueError, match="needs block_length"), model.attention("block"):
        pass
    with model.attention("full"):
        for refused in ({"return_type": "loss"}, {"use_past_kv_cache": True}):
            with pytest.raises(ValueError, match="attention is switched to 'full'"):
                model(tokens, **refused)
    visible = torch.tensor([[False, False, True, True, True, True]])
    padded_loss = model(tokens, return_type="loss", attention_mask=visible.long())
    torch.testing.assert_close(padded_loss, model(tokens[:, 2:], return_type="loss"), atol=1e-5, rtol=1e-5)
