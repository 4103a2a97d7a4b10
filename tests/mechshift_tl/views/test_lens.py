"""The component lens: its terms sum to the logits, each term is TransformerLens' reading of it, and what it aggregates."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.tools.analysis.logit_lens import logit_readout
from transformers import GPT2Config, GPT2LMHeadModel

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts, aligned_logits, readouts
from mechshift_tl.tasks import IOI
from mechshift_tl.views import ComponentLens, component_lens, projection
from mechshift_tl.views import lens as lens_module
from mechshift_tl.views.lens_table import LensSettings
from mechshift_tl.views.projection import ranks, summarise

VOCAB = 48
ARM, SHIFTED, ALIGNED = DiffusionSpec(), DiffusionSpec("full", 1, 2), DiffusionSpec("full", 0, 2)
MODELS = {
    "causal": ("llama", {}, ARM),
    "full, shifted": ("llama", {}, SHIFTED),
    "full, aligned": ("llama", {}, ALIGNED),
    "biases of every projection": ("llama", {"attention_bias": True, "mlp_bias": True}, ALIGNED),
    "query and key biases": ("qwen2", {}, ARM),
    "query and key biases, full": ("qwen2", {}, SHIFTED),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, native):
    family, settings, spec = MODELS[request.param]
    return HookedDiffusionTransformer.from_hf(native(family, **settings), spec=spec)


@pytest.fixture(scope="module")
def aligned_model(native):
    return HookedDiffusionTransformer.from_hf(native("llama", attention_bias=True), spec=ALIGNED)


def plain_bridge(hf_model):
    hf_model.config.use_cache = False
    return build_bridge_from_module(hf_model, type(hf_model).__name__, hf_config=hf_model.config, tokenizer=None, model_name="plain")


def random_rows(n: int = 5, pos: int = 7, k: int = 2, seed: int = 0) -> Readouts:
    generator = torch.Generator().manual_seed(seed)
    clean, corrupt = torch.randint(3, VOCAB, (2, n, pos), generator=generator)
    target = torch.stack([torch.randperm(pos - 1, generator=generator)[:k] + 1 for _ in range(n)])
    answer = torch.randint(VOCAB, (n, k), generator=generator)
    return Readouts.from_tokens(clean, corrupt, target, answer, (answer + 7) % VOCAB)


def stepwise_rows() -> Readouts:
    """Two examples of lengths 6 and 5, two steps each; the first reads two positions at step 0, all others one."""
    short, long = random_rows(1, 5, 1, seed=1), random_rows(1, 6, 2, seed=2)
    pad = torch.nn.functional.pad
    rows = [(long, 6, 2, 0, 0), (long, 6, 1, 1, 0), (short, 5, 1, 0, 1), (short, 5, 1, 1, 1)]
    tokens: dict[str, Any] = {
        name: torch.stack([pad(getattr(r, name)[0], (0, 6 - length), value=-1) for r, length, *_ in rows]) for name in ("clean", "corrupt")
    }
    reads: dict[str, Any] = {
        name: torch.stack([pad(getattr(r, name)[0, :k], (0, 2 - k), value=-1) for r, _, k, *_ in rows])
        for name in ("target_pos", "answer_ids", "foil_ids")
    }
    step, example = torch.tensor([row[3:] for row in rows]).unbind(1)
    return Readouts(**tokens, **reads, step=step, example=example, groups=("a", "b"))


def logits_of(model, rows: Readouts, ids: torch.Tensor) -> torch.Tensor:
    """The model's logits of `ids` at the target positions, read by read."""
    with torch.no_grad():
        at = aligned_logits(model, rows.clean).gather(1, rows.target_pos[..., None].expand(-1, -1, VOCAB))
    return at.gather(2, ids[..., None]).flatten()


def vectors_of(model, rows: Readouts, component: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One component's output `(reads, d)` and the final norm's scale, from TransformerLens' cache."""
    shift = model.spec.logit_shift
    _, cache = model.run_with_cache(rows.clean)
    row, at = torch.arange(len(rows))[:, None], rows.target_pos - shift
    layer, head = (int(part) for part in component[1:].split(".h")) if "h" in component else (int(component[1:]), None)
    if head is None:
        output = cache[f"blocks.{layer}.hook_mlp_out"]
    else:
        output = cache[f"blocks.{layer}.attn.hook_z"][:, :, head] @ model.blocks[layer].attn.W_O[head]
    return output[row, at].flatten(0, 1).detach(), cache["ln_final.hook_scale"][row, at].flatten(0, 1)


def test_terms_sum_to_the_models_logits(model):
    rows = random_rows()
    lens = component_lens(model, rows)
    for read, ids in ((lens.answer, rows.answer_ids), (lens.foil, rows.foil_ids)):
        expected = logits_of(model, rows, ids)
        assert (read.sum(0) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert lens.gap < 1e-5
    assert lens.components == ["input", *(f"a0.h{h}" for h in range(4)), "m0", *(f"a1.h{h}" for h in range(4)), "m1", "bias"]


def test_bias_term_is_empty_without_biases_outside_components(model):
    bias = component_lens(model, random_rows(), ["bias"])
    assert bool(bias.answer.any()) == (model.blocks[0].attn.b_O is not None)


@pytest.mark.parametrize("component", ["a0.h1", "a1.h3", "m1"])
@pytest.mark.parametrize("norm", ["run", "own"])
def test_each_term_is_transformer_lens_reading(model, component, norm):
    rows = random_rows()
    vectors, scale = vectors_of(model, rows, component)
    vectors = vectors if norm == "own" else vectors / scale * model.ln_final.weight.detach()
    lens = component_lens(model, rows, [component], norm=norm)
    for read, rank, ids in ((lens.answer, lens.answer_rank, rows.answer_ids), (lens.foil, lens.foil_rank, rows.foil_ids)):
        expected = logit_readout(model, vectors, apply_ln=norm == "own", targets=ids.flatten())
        torch.testing.assert_close(read[0], expected.values[:, 0], rtol=1e-4, atol=1e-4)
        assert expected.target_ranks is not None and torch.equal(rank[0].long(), expected.target_ranks[:, 0])
    top = logit_readout(model, vectors, apply_ln=norm == "own", top_k=1)
    torch.testing.assert_close(lens.entropy[0], top.entropy, rtol=1e-4, atol=1e-5)
    assert top.top_ids is not None and torch.equal(lens.top_id[0].long(), top.top_ids[:, 0])
    every = logit_readout(model, vectors, apply_ln=norm == "own").values
    torch.testing.assert_close(lens.spread[0], ((every - every.mean(1, keepdim=True)) ** 2).mean(1), rtol=1e-3, atol=1e-4)


def test_plain_bridge_reads_as_an_arm(native):
    rows = random_rows()
    mine = component_lens(HookedDiffusionTransformer.from_hf(native()), rows)
    plain = component_lens(plain_bridge(native()), rows)
    for name in ("answer", "foil", "answer_rank", "foil_rank", "entropy", "top_id"):
        assert torch.equal(getattr(mine, name), getattr(plain, name))
    assert plain.provenance["spec"] is None


def test_layer_norm_with_biases_sums_too():
    torch.manual_seed(0)
    hf_model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=16, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)).eval()
    for name, parameter in hf_model.named_parameters():
        if "ln_" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    model, rows = plain_bridge(hf_model), random_rows()
    lens = component_lens(model, rows)
    expected = logits_of(model, rows, rows.answer_ids)
    assert (lens.answer.sum(0) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert lens.answer[-1].any()


@pytest.mark.parametrize(("by_own", "constant", "expected"), [(True, False, 3.0), (False, True, 3.0), (False, False, 0.0)])
def test_unembedding_bias_goes_to_the_biases_or_to_every_own_reading(aligned_model, by_own, constant, expected):
    biased = replace(projection.Projection.of(aligned_model), b_U=torch.full((VOCAB,), 3.0))
    scale, token = None if by_own else torch.ones(1, 1), torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        assert biased.read(torch.zeros(1, 1, 32), scale, token, token, constant=constant)["answer"].item() == expected


def test_steps_lengths_and_batches_keep_their_places(aligned_model):
    rows = stepwise_rows()
    whole, single = component_lens(aligned_model, rows), component_lens(aligned_model, rows, batch_tokens=1)
    torch.testing.assert_close(whole.answer, single.answer)
    assert torch.equal(whole.answer_rank, single.answer_rank)
    assert whole.step.tolist() == [0, 0, 1, 0, 1] and whole.example.tolist() == [0, 0, 0, 1, 1]
    alone = component_lens(
        aligned_model,
        Readouts.from_tokens(
            *(t[3:, :5] for t in (rows.clean, rows.corrupt)), *(t[3:, 0] for t in (rows.target_pos, rows.answer_ids, rows.foil_ids))
        ),
    )
    torch.testing.assert_close(whole.answer[:, 4:], alone.answer)


def test_per_step_and_at_step(aligned_model):
    lens = component_lens(aligned_model, stepwise_rows())
    second = lens.at_step(1)
    assert torch.equal(second.foil, lens.foil[:, [2, 4]]) and second.example.tolist() == [0, 1]
    frame = lens.per_step
    assert frame["step"].tolist() == [0] * 12 + [1] * 12
    assert frame[frame["step"] == 1].drop(columns="step").reset_index(drop=True).equals(second.to_dataframe())
    with pytest.raises(KeyError, match="step 2 was not read"):
        lens.at_step(2)


def test_frame_is_means_medians_and_shares():
    lens = by_hand()
    line = lens.to_dataframe().iloc[0]
    assert (line["component"], line["layer"]) == ("a0.h0", 0)
    assert line["answer_logit"] == 2.0 and line["foil_logit"] == 1.0 and line["logit_diff"] == 1.0
    assert line["answer_rank"] == 2.0 and line["foil_rank"] == 4.0
    assert line["answer_first"] == pytest.approx(1 / 3) and line["entropy"] == pytest.approx(0.2)
    assert line["top_tokens"] == "'Mary' 67%, ' the' 33%"
    assert lens.top_tokens("a0.h0")[0] == ("Mary", pytest.approx(2 / 3))
    assert lens.top(1)["component"].tolist() == ["bias"] and lens.layers == [0, -1]
    assert "2 components" in lens._repr_html_()


def by_hand() -> ComponentLens:
    return ComponentLens(
        ["a0.h0", "bias"], Graph(1, 1, 1), answer=torch.tensor([[1.0, 2, 3], [0, 0, 0]]), foil=torch.tensor([[1.0, 1, 1], [5, 5, 5]]),
        answer_rank=torch.tensor([[0.0, 2, 9], [1, 1, 1]]), foil_rank=torch.tensor([[4.0, 4, 4], [0, 0, 0]]),
        entropy=torch.tensor([[0.1, 0.2, 0.3], [1, 1, 1]]), spread=torch.ones(2, 3),
        top_id=torch.tensor([[7, 3, 7], [3, 3, 3]], dtype=torch.int32),
        step=torch.zeros(3, dtype=torch.long), example=torch.arange(3), words={7: "Mary", 3: " the"}, gap=0.0,
        settings=LensSettings("run", 5),
    )  # fmt: skip


def test_silent_component_ranks_at_chance(native):
    hf_model = native()
    hf_model.model.layers[1].self_attn.o_proj.weight.data[:, :8] = 0
    lens = component_lens(HookedDiffusionTransformer.from_hf(hf_model, spec=ALIGNED), random_rows(), ["a1.h0"])
    assert (lens.answer_rank == (VOCAB - 1) / 2).all()
    torch.testing.assert_close(lens.entropy, torch.full_like(lens.entropy, math.log(VOCAB)))
    assert lens.to_dataframe()["answer_first"].item() == 0


def test_ranks_share_ties():
    logits = torch.tensor([[3.0, 1, 1, 0], [2, 2, 2, 2]])
    assert ranks(logits, logits[:, 1:2]).tolist() == [1.5, 1.5]
    assert summarise(logits, torch.tensor([0, 0]), torch.tensor([3, 3]))["foil_rank"].tolist() == [3.0, 1.5]


def test_logits_exist_one_chunk_at_a_time(aligned_model, monkeypatch):
    rows, seen = random_rows(), []
    whole = component_lens(aligned_model, rows)

    def spy(logits, answers, foils):
        seen.append(len(logits))
        return summarise(logits, answers, foils)

    monkeypatch.setattr(projection, "CHUNK_BYTES", 3 * 4 * VOCAB)
    monkeypatch.setattr(projection, "summarise", spy)
    chunked = component_lens(aligned_model, rows)
    assert max(seen) == 3 and sum(seen) == 12 * 10
    torch.testing.assert_close(whole.answer, chunked.answer)
    assert torch.equal(whole.top_id, chunked.top_id)


def test_components_are_read_in_the_graphs_order(aligned_model):
    rows = random_rows()
    whole, some = component_lens(aligned_model, rows), component_lens(aligned_model, rows, ["m1", "a0.h2"])
    assert some.components == ["a0.h2", "m1"]
    torch.testing.assert_close(some.answer, whole.answer[[3, 10]])


def test_words_come_from_the_tokenizer(aligned_model, word_tokenizer):
    rows = random_rows()
    spelled = component_lens(aligned_model, rows, ["m1"], tokenizer=word_tokenizer)
    bare = component_lens(aligned_model, rows, ["m1"])
    token = int(spelled.top_id[0, 0])
    assert spelled.words[token] == word_tokenizer.decode([token]) and bare.words[token] == f"#{token}"


def test_save_and_load(aligned_model, tmp_path):
    lens = component_lens(aligned_model, stepwise_rows(), top=2)
    lens.save(tmp_path / "lens.safetensors")
    loaded = ComponentLens.load(tmp_path / "lens.safetensors")
    assert loaded.to_dataframe().equals(lens.to_dataframe()) and loaded.per_step.equals(lens.per_step)
    for name in ("graph", "words", "gap", "settings", "provenance"):
        assert getattr(loaded, name) == getattr(lens, name)
    stepwise_rows().save(tmp_path / "rows.safetensors")
    with pytest.raises(ValueError, match="holds no component lens"):
        ComponentLens.load(tmp_path / "rows.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"components": ["a9.h0", "m1"]}, "a9.h0 names no component"),
        ({"components": []}, "an empty list names no component"),
        ({"norm": "none"}, "norm is 'none'"),
        ({"top": 0}, "top is 0"),
    ],
)
def test_bad_settings_are_refused_before_any_forward(aligned_model, monkeypatch, arguments, message):
    monkeypatch.setattr(lens_module, "run_at", lambda *_: pytest.fail("a forward ran"))
    with pytest.raises(ValueError, match=message):
        component_lens(aligned_model, random_rows(), **arguments)


def test_terms_that_miss_the_logits_are_refused(aligned_model, monkeypatch):
    terms = lens_module.terms
    monkeypatch.setattr(lens_module, "terms", lambda *arguments: list(terms(*arguments))[:-2])
    with pytest.raises(ValueError, match="miss the model's logits by"):
        component_lens(aligned_model, random_rows())


def test_readings_of_unequal_shape_are_refused():
    good = by_hand()
    with pytest.raises(ValueError, match="entropy is"):
        ComponentLens(**{**vars(good), "entropy": good.entropy[:, :2]})
    with pytest.raises(KeyError, match="'m9' was not read"):
        good.top_tokens("m9")


@pytest.mark.slow
def test_a_real_model_has_a_head_that_names_the_answer(smollm2):
    model = HookedDiffusionTransformer.from_pretrained(smollm2)
    rows = readouts(model, IOI().examples(model.tokenizer, n=20, seed=0))
    lens = component_lens(model, rows, ["a29.h1", "a5.h0"])
    assert lens.gap < 1e-4
    assert lens.to_dataframe().set_index("component")["answer_first"].tolist() == [0.0, pytest.approx(0.85)]
