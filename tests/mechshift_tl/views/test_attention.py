"""Attention statistics: rows worked out by hand, the cache's patterns in plain loops, and heads whose behaviour is built in."""

from __future__ import annotations

import math

import pytest
import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.readouts import Readouts
from mechshift_tl.views.attention import QUERIES, STATISTICS, AttentionPatterns, attention_patterns, query_statistics

SPECS = {"causal": DiffusionSpec(), "full": DiffusionSpec("full", 0, 2), "block": DiffusionSpec("block", 0, 2, block_length=3)}


@pytest.fixture(scope="module", params=SPECS)
def model(request, native):
    return HookedDiffusionTransformer.from_hf(native(), spec=SPECS[request.param])


def some_rows(n: int = 4, pos: int = 6, k: int = 2) -> Readouts:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(3, 48, (n, pos), generator=generator)
    answer = torch.randint(3, 48, (n, k), generator=generator)
    return Readouts.from_tokens(clean, clean, torch.tensor([[3, 5]] * n), answer, (answer + 1) % 48)


def written_out(row: list[float], query: int, seen: int) -> dict[str, float]:
    """The statistics of one query's row, in plain Python."""
    entropy = -sum(p * math.log(p) for p in row if p > 0)
    return {
        "self": row[query],
        "previous": row[query - 1] if query else 0.0,
        "next": row[query + 1] if query + 1 < len(row) else 0.0,
        "first": row[0],
        "distance": sum(p * abs(query - key) for key, p in enumerate(row)),
        "entropy": entropy,
        "evenness": entropy / math.log(seen),
    }


def seen(model, query: int, length: int) -> int:
    return {"causal": query + 1, "full": length, "block": min(length, 3 * (query // 3 + 1))}[model.spec.attention]


def test_statistics_are_those_of_the_caches_patterns(model):
    rows = some_rows()
    found = attention_patterns(model, rows)
    _, cache = model.run_with_cache(rows.clean)
    read = [3 - model.spec.logit_shift, 5 - model.spec.logit_shift]
    for head, name in ((1, "a1.h1"), (3, "a0.h3")):
        pattern = cache[f"blocks.{name[1]}.attn.hook_pattern"][:, head].tolist()
        for queries, places in (("all", range(1, 6)), ("read", read)):
            for example in range(4):
                lines = [written_out(pattern[example][q], q, seen(model, q, 6)) for q in places]
                for statistic in STATISTICS:
                    mine = found.of(statistic, queries)[found.heads.index(name), example].item()
                    assert mine == pytest.approx(sum(line[statistic] for line in lines) / len(lines), abs=1e-5)


def test_a_uniform_head_is_even(model):
    found = attention_patterns(model, some_rows())
    by_name = dict(zip(STATISTICS, found.uniform[0], strict=True))
    assert by_name["evenness"].tolist() == pytest.approx([1.0] * 4)
    expected = [1 / seen(model, q, 6) for q in range(1, 6)]
    assert by_name["self"].tolist() == pytest.approx([sum(expected) / 5] * 4)
    assert (found.of("evenness") <= 1 + 1e-5).all()


def test_heads_made_to_look_at_one_key():
    """Three heads of one row: all on the first key, all on the key before, all on itself."""
    eye = torch.eye(5)
    pattern = torch.stack([torch.cat([torch.ones(5, 1), torch.zeros(5, 4)], 1), eye.roll(-1, 1), eye])[None]
    sees, visible = torch.ones(1, 5, 5, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    found = query_statistics(pattern, sees, visible)[0, :, :, 1:]
    means = {name: found[:, i].mean(-1).tolist() for i, name in enumerate(STATISTICS)}
    assert means["first"] == [1, 0.25, 0] and means["previous"] == [0.25, 1, 0] and means["self"] == [0, 0, 1]
    assert means["distance"] == [2.5, 1, 0] and means["entropy"] == [0, 0, 0] and means["next"] == [0, 0, 0]


def test_a_causal_head_never_sees_what_follows(native):
    found = attention_patterns(HookedDiffusionTransformer.from_hf(native()), some_rows())
    assert (found.of("next") == 0).all() and (found.uniform[:, STATISTICS.index("next")] == 0).all()


def test_padding_is_not_seen_and_first_is_the_first_visible_token(native):
    model = HookedDiffusionTransformer.from_hf(native())
    rows = some_rows()
    fill = torch.full((4, 2), 7)
    mask = torch.cat([torch.zeros(4, 2), torch.ones(4, 6)], 1).bool()
    padded = Readouts.from_tokens(
        torch.cat([fill, rows.clean], 1), torch.cat([fill, rows.corrupt], 1), rows.target_pos + 2, rows.answer_ids, rows.foil_ids,
        attention_mask=mask,
    )  # fmt: skip
    torch.testing.assert_close(attention_patterns(model, padded).values, attention_patterns(model, rows).values, rtol=1e-4, atol=1e-5)


def test_batches_heads_and_the_plain_bridge(native):
    rows = some_rows()
    whole = attention_patterns(HookedDiffusionTransformer.from_hf(native()), rows)
    hf_model = native()
    hf_model.config.use_cache = False
    plain = build_bridge_from_module(hf_model, "LlamaForCausalLM", hf_config=hf_model.config, tokenizer=None, model_name="plain")
    torch.testing.assert_close(attention_patterns(plain, rows, batch_tokens=1).values, whole.values)
    some = attention_patterns(plain, rows, ["a1.h2", "a0.h1"])
    assert some.heads == ["a0.h1", "a1.h2"]
    torch.testing.assert_close(some.of("first", "read"), whole.of("first", "read")[[1, 6]])


def test_the_picture_is_one_rows_pattern(model):
    rows = some_rows()
    found = attention_patterns(model, rows, ["a1.h1"], example=2)
    _, cache = model.run_with_cache(rows.clean[2:3])
    torch.testing.assert_close(found.pattern[0], cache["blocks.1.attn.hook_pattern"][0, 1].detach())
    assert found.tokens == [f"#{token}" for token in rows.clean[2].tolist()]
    torch.testing.assert_close(found.pattern.sum(-1), torch.ones(1, 6))


def test_saved_and_shown(model, tmp_path):
    found = attention_patterns(model, some_rows())
    found.save(tmp_path / "one.safetensors")
    again = AttentionPatterns.load(tmp_path / "one.safetensors")
    assert again.to_dataframe().equals(found.to_dataframe()) and "8 heads, 4 examples" in again._repr_html_()
    assert len(found.to_dataframe()) == len(QUERIES) * 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"heads": ["m0"]}, "m0 names no head"), ({"heads": []}, "an empty list"), ({"example": 4}, "example is 4")],
)
def test_refusals(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        attention_patterns(model, some_rows(), **arguments)
    with pytest.raises(ValueError, match="no 'sink'"):
        attention_patterns(model, some_rows()).of("sink")
