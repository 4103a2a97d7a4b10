"""A playback holds what denoising, the logit lens and the attention patterns say by themselves."""

import pytest
import torch

from mechshift_tl.views.playback import Playback, play
from mechshift_tl.views.projection import Projection


@pytest.fixture(scope="module")
def example(echo_task, word_tokenizer):
    return echo_task.examples(word_tokenizer, 1)[0]


@pytest.fixture(scope="module")
def run(models, example, word_tokenizer) -> Playback:
    return play(models["mdm"], example, word_tokenizer, ["a1.h2", "a0.h0"])


def test_it_is_the_run_that_denoise_makes(models, example, run):
    model, start = models["mdm"], example.answer_start
    canvas = torch.tensor([[*example.clean[:start], 2, 2]])
    trajectory = model.denoise(canvas)
    assert torch.equal(run.canvases, trajectory.canvases[:, 0]) and run.steps == 2
    assert run.positions.tolist() == [start, start + 1]
    torch.testing.assert_close(run.confidence, trajectory.confidence[0, start:])


def test_the_last_depth_of_the_lens_is_the_prediction(models, run):
    model = models["mdm"]
    for step in range(run.steps):
        logits = model.token_logits(run.canvases[step][None])[0, run.positions]
        assert torch.equal(run.lens_id[step, -1], logits.argmax(-1))
        torch.testing.assert_close(run.lens_probability[step, -1], logits.softmax(-1).amax(-1).detach(), atol=1e-5, rtol=1e-4)


def test_the_first_depth_is_the_embeddings(models, run):
    model = models["mdm"]
    _, cache = model.run_with_cache(run.canvases[0][None])
    projection = Projection.of(model)
    stream = cache["blocks.0.hook_resid_pre"][0, run.positions - model.spec.logit_shift]
    logits = projection.logits(projection.normalize(stream[None], None, constant=True), constant=True)[0]
    assert torch.equal(run.lens_id[0, 0], logits.argmax(-1))


def test_attention_is_the_pattern_of_the_step(models, run):
    _, cache = models["mdm"].run_with_cache(run.canvases[1][None])
    expected = cache["blocks.1.attn.hook_pattern"][0, 2, run.positions - models["mdm"].spec.logit_shift]
    torch.testing.assert_close(run.attention[1, 0], expected.detach())
    torch.testing.assert_close(run.attention.sum(-1), torch.ones(run.attention.shape[:-1]))


def test_kept_and_shown(run, tmp_path):
    run.save(tmp_path / "run.safetensors")
    again = Playback.load(tmp_path / "run.safetensors")
    assert again.finding() == run.finding() and torch.equal(again.attention, run.attention)
    assert run.to_dataframe().columns.tolist() == ["position", "token", "step", "confidence"]
    assert "One prompt is an example" in run.finding() and len(run.figure().data) == 1  # type: ignore[arg-type]


def test_an_arm_is_refused(models, example, word_tokenizer):
    with pytest.raises(ValueError, match="has no mask token to denoise; give an MDM"):
        play(models["arm"], example, word_tokenizer)
