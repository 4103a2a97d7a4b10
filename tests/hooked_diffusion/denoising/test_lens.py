"""The logit lens along a run: at the last layer it is the model's own prediction; every picture says what the tensors say."""

from __future__ import annotations

import pytest
import torch

from hooked_diffusion import load_pair
from hooked_diffusion.denoising import DenoisingCache
from hooked_diffusion.denoising.lens import DenoisingLens


def stream(name: str) -> bool:
    return name.endswith("hook_resid_post")


@pytest.fixture(scope="module")
def mdm():
    return load_pair("tiny").mdm


@pytest.fixture(scope="module")
def canvas(mdm):
    prompt = mdm.to_tokens("Input : 5 , 40 , 20 , 4 Output :")
    return torch.cat([prompt, torch.full((1, 11), mdm.spec.mask_token_id)], 1)


@pytest.fixture(scope="module")
def run(mdm, canvas):
    return mdm.run_with_denoising_cache(canvas, 4, names_filter=stream)


def test_the_last_layer_is_the_model_s_prediction(mdm, run) -> None:
    trajectory, cache = run
    lens = cache.logit_lens(trajectory)
    assert lens.positions == list(range(12, 23)) and lens.top_id.shape == (4, 6, 11)
    for i, step in enumerate(lens.steps):
        log_p = mdm.token_logits(trajectory.canvases[step])[0, lens.positions].log_softmax(-1)
        torch.testing.assert_close(lens.confidence[i, -1], log_p.max(-1).values.exp(), atol=1e-6, rtol=0)
        torch.testing.assert_close(lens.final[i, -1], log_p.gather(-1, trajectory.tokens[0, lens.positions][:, None])[:, 0].exp())
        torch.testing.assert_close(lens.entropy[i, -1], -(log_p.exp() * log_p).sum(-1), atol=1e-5, rtol=0)
        assert torch.equal(lens.masked[i], trajectory.masked_at(step)[0, lens.positions])


def test_an_early_layer_is_the_stream_through_norm_and_head(mdm, run) -> None:
    trajectory, cache = run
    lens = cache.logit_lens(trajectory, positions=[15])
    native = mdm.original_model
    hidden = cache[2, "blocks.1.hook_resid_post"][0, 14]  # shift 1: the token at 15 is predicted from 14
    logits = hidden * torch.rsqrt(hidden.pow(2).mean() + native.config.rms_norm_eps) * native.state_dict()[NORM(native)]
    logits = logits @ native.state_dict()[HEAD(native)].T
    assert int(lens.top_id[2, 1, 0]) == int(logits.argmax())
    torch.testing.assert_close(lens.confidence[2, 1, 0], logits.softmax(-1).max(), atol=1e-6, rtol=0)


def NORM(native) -> str:
    return next(key for key in native.state_dict() if "model.norm" in key and key.endswith("weight"))


def HEAD(native) -> str:
    return next(key for key in native.state_dict() if "lm_head" in key and key.endswith("weight"))


def test_it_reads_a_folder_saves_itself_and_says_what_is_missing(mdm, canvas, run, tmp_path) -> None:
    trajectory, streamed = mdm.run_with_denoising_cache(canvas, 4, names_filter=stream, folder=tmp_path / "cache")
    lens = streamed.logit_lens(trajectory)
    lens.save(tmp_path / "lens.safetensors")
    again = DenoisingLens.load(tmp_path / "lens.safetensors")
    assert torch.equal(again.top_id, run[1].logit_lens(run[0]).top_id) and again.words == lens.words
    with pytest.raises(ValueError, match="knows no model"):
        DenoisingCache.load(tmp_path / "cache").logit_lens(trajectory)
    _, one = mdm.run_with_denoising_cache(canvas, 4, names_filter="blocks.0.hook_resid_post")
    with pytest.raises(ValueError, match="lacks blocks.1.hook_resid_post; record it"):
        one.logit_lens(trajectory)
    _, part = mdm.run_with_denoising_cache(canvas, 4, names_filter=stream, positions=[3, 4])
    with pytest.raises(ValueError, match="holds 2 of 23 positions"):
        part.logit_lens(trajectory)
    with pytest.raises(ValueError, match="positions are"):
        streamed.logit_lens(trajectory, positions=[23])
    with pytest.raises(KeyError, match="step 9 was not recorded"):
        lens.figure(step=9)


def test_a_trajectory_shows_words_step_by_step(mdm, run) -> None:
    trajectory, _ = run
    figure = trajectory.figure()
    heat = figure.data[0]
    assert heat.text[0][1] == "Input" and heat.text[0][12] == "·" and len(heat.text) == trajectory.steps + 1
    final = [mdm.tokenizer.decode([token]).strip() for token in trajectory.tokens[0].tolist()]
    assert [text.replace("&lt;", "<").replace("&gt;", ">") for text in heat.text[-1]] == final
    fresh = [(k, p) for k, line in enumerate(heat.z) for p, state in enumerate(line) if state == 3]
    assert sorted(fresh) == sorted((step + 1, p) for p, step in enumerate(trajectory.commit_step[0].tolist()) if step >= 0)
    assert "<b>" in trajectory._repr_html_() and "·" in trajectory._repr_html_() and "Input" in trajectory._repr_html_()
    assert list(trajectory.to_dataframe()["text"]) == [mdm.tokenizer.decode([t]) for t in trajectory.to_dataframe()["token"]]
    with pytest.raises(IndexError, match="row 1 lies outside"):
        trajectory.figure(row=1)


def test_words_are_saved_and_ids_stand_in_for_unknown_ones(run, tmp_path) -> None:
    trajectory, _ = run
    trajectory.save(tmp_path / "run")
    again = type(trajectory).load(tmp_path / "run")
    assert again.words == trajectory.words and again.spell(10**6) == "#1000000"


def test_the_cache_draws_how_far_layers_move(run) -> None:
    _, cache = run
    heat = cache.figure().data[0]
    a, b = (cache[step, "blocks.5.hook_resid_post"][0] for step in (1, 2))
    assert heat.z[5][1] == pytest.approx(((b - a).norm() / a.norm()).item(), rel=1e-5)
    with pytest.raises(ValueError, match="0 layers of 'attn.hook_z'"):
        cache.figure("attn.hook_z")
