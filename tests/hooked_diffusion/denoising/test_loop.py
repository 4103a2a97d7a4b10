"""The denoising loop on tiny random models, and on a made-up one whose answers are known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.denoising import DenoisingSettings, DenoisingTrajectory
from hooked_diffusion.denoising.job import Job
from hooked_diffusion.denoising.loop import Denoiser, Forward
from hooked_diffusion.denoising.settings import make_settings

MASK, D_VOCAB = 3, 40
pytestmark = pytest.mark.filterwarnings("ignore:.*steps commit nothing")
MDM = DiffusionSpec("full", 1, MASK)


def tiny(spec: DiffusionSpec) -> HookedDiffusionTransformer:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=D_VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return HookedDiffusionTransformer.from_hf(LlamaForCausalLM(config), spec=spec)


@pytest.fixture(scope="module")
def mdm() -> HookedDiffusionTransformer:
    return tiny(MDM)


@pytest.fixture(scope="module")
def arm() -> HookedDiffusionTransformer:
    return tiny(DiffusionSpec())


def canvas_of(*rows: str, seed: int = 0) -> torch.Tensor:
    """Random tokens above the mask id; `_` is a mask."""
    masked = torch.tensor([[c == "_" for c in row] for row in rows])
    tokens = torch.randint(MASK + 1, D_VOCAB, masked.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(masked, MASK, tokens)


@st.composite
def runs(draw) -> tuple[torch.Tensor, dict]:
    """A canvas (position 0 given) and settings."""
    batch, pos = draw(st.integers(1, 3)), draw(st.integers(2, 9))
    rows = ["." + "".join(draw(st.lists(st.sampled_from("._"), min_size=pos - 1, max_size=pos - 1))) for _ in range(batch)]
    rows[0] = rows[0][:-1] + "_"
    chosen = {
        "select": draw(st.sampled_from(("confidence", "entropy", "margin", "random", "left_to_right"))),
        "schedule": draw(st.sampled_from(("even", "time_grid", "rounded"))),
        "steps": draw(st.none() | st.integers(1, 20)),
        "temperature": draw(st.sampled_from((0.0, 0.7))),
        "preset": draw(st.sampled_from((None, "dream", "llada"))),
    }
    return canvas_of(*rows, seed=draw(st.integers(0, 9))), chosen


@settings(max_examples=60, deadline=None)
@given(runs())
def test_what_every_run_keeps(mdm, run):
    canvas, chosen = run
    trajectory = mdm.denoise(canvas, **chosen)
    masks, canvases = canvas == MASK, trajectory.canvases
    steps = chosen["steps"] or int(masks.sum(1).max())
    assert canvases.shape == (steps + 1, *canvas.shape)
    for part in (trajectory.tokens, trajectory.commit_step, trajectory.confidence, trajectory.mask_positions):
        assert part.shape == canvas.shape
    assert torch.equal(canvases[0], canvas)
    assert torch.equal(trajectory.tokens, canvases[-1])
    assert torch.equal(trajectory.mask_positions, masks)
    assert torch.equal(canvases[:, ~masks], canvas[~masks].expand(steps + 1, -1))
    assert torch.equal(canvases[1:][canvases[:-1] != MASK], canvases[:-1][canvases[:-1] != MASK])
    masked = torch.stack([trajectory.masked_at(step) for step in range(steps + 1)])
    assert (masked[1:] <= masked[:-1]).all()
    assert ((trajectory.confidence >= 0) & (trajectory.confidence <= 1)).all()
    assert (trajectory.commit_step[~masks] == -1).all()
    assert trajectory.forwards <= steps


@settings(max_examples=40, deadline=None)
@given(runs())
def test_carried_masks_are_each_committed_once(mdm, run):
    canvas, chosen = run
    trajectory = mdm.denoise(canvas, masked_by_token=False, **chosen)
    masks = trajectory.mask_positions
    assert (trajectory.commit_step[masks] >= 0).all()
    assert not trajectory.masked_at(trajectory.steps).any()
    for step in range(trajectory.steps):
        written = trajectory.commit_step == step
        assert torch.equal(trajectory.masked_at(step) & ~written, trajectory.masked_at(step + 1))
        assert torch.equal(trajectory.canvases[step + 1][~written], trajectory.canvases[step][~written])


@pytest.mark.parametrize("schedule", ["even", "time_grid", "rounded"])
@pytest.mark.parametrize("select", ["confidence", "entropy", "margin"])
@pytest.mark.parametrize("block_length", [None, 2])
def test_a_batch_is_denoised_as_its_rows_are(mdm, select, schedule, block_length):
    rows = [".._____..._", "..__.......", ".____......"]
    chosen = dict(steps=12, select=select, schedule=schedule, block_length=block_length)
    canvas = canvas_of(*rows)
    together = mdm.denoise(canvas, **chosen)
    for row in range(3):
        alone = mdm.denoise(canvas[row : row + 1], **chosen)
        assert torch.equal(alone.canvases[:, 0], together.canvases[:, row])
        assert torch.equal(alone.commit_step[0], together.commit_step[row])


def test_a_committed_token_is_what_the_model_ranks_first(mdm):
    canvas = canvas_of("..____")
    trajectory = mdm.denoise(canvas)
    for step in range(4):
        logits = mdm.token_logits(trajectory.canvases[step])
        probs = torch.where(trajectory.masked_at(step), logits.softmax(-1).amax(-1), -1)
        pos = int(probs.argmax())
        assert int(trajectory.commit_step[0, pos]) == step
        assert int(trajectory.tokens[0, pos]) == int(logits[0, pos].argmax())
        torch.testing.assert_close(trajectory.confidence[0, pos], probs[0, pos])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("chosen", [{"schedule": "time_grid"}, {"preset": "dream"}, {"schedule": "even"}, {"select": "random"}])
def test_idle_steps_cost_nothing_and_change_nothing(mdm, chosen, temperature):
    canvas = canvas_of("..____.__", "._..._...")
    skipping = mdm.denoise(canvas, steps=40, temperature=temperature, **chosen)
    job = Job.make(mdm, canvas, make_settings(steps=40, temperature=temperature, **chosen))
    forward = Forward(mdm, job)
    forward.observed = range(40)
    running = Denoiser(forward, job).run()
    assert torch.equal(skipping.canvases, running.canvases)
    assert skipping.forwards < running.forwards == 40


def test_seeds_decide_random_runs(mdm):
    canvas = canvas_of("..________")
    one, again, other = (mdm.denoise(canvas, temperature=1.0, select="random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.canvases, again.canvases)
    assert not torch.equal(one.commit_step, other.commit_step)


def greedy(model, prompt: torch.Tensor, k: int) -> torch.Tensor:
    for _ in range(k):
        prompt = torch.cat([prompt, model(prompt)[:, -1].argmax(-1, keepdim=True)], 1)
    return prompt


def test_an_arm_is_decoded_greedily_by_the_same_loop(arm):
    prompt = canvas_of("....", "....")
    canvas = torch.cat([prompt, torch.zeros(2, 5, dtype=torch.long)], 1)
    wanted = torch.zeros_like(canvas, dtype=torch.bool)
    wanted[:, 4:] = True
    trajectory = arm.denoise(canvas, mask_positions=wanted)
    assert torch.equal(trajectory.canvases[0], canvas)
    assert torch.equal(trajectory.tokens, greedy(arm, prompt, 5))
    assert trajectory.commit_step[0].tolist() == [-1] * 4 + [0, 1, 2, 3, 4]


def test_an_arm_is_refused_what_only_an_mdm_can(arm):
    canvas = canvas_of(".....")
    wanted = torch.tensor([[False, True, True, True, True]])
    with pytest.raises(ValueError, match="pass mask_positions"):
        arm.denoise(canvas)
    with pytest.raises(ValueError, match="select=\"left_to_right\", not 'confidence'"):
        arm.denoise(canvas, mask_positions=wanted, select="confidence")
    with pytest.raises(ValueError, match="one token per step, but 2 steps"):
        arm.denoise(canvas, mask_positions=wanted, steps=2)
    with pytest.raises(ValueError, match="commit 2 at once"):
        arm.denoise(canvas, mask_positions=wanted, schedule="time_grid")
    with pytest.raises(ValueError, match="masked_by_token=False"):
        arm.denoise(canvas, mask_positions=wanted, preset="llada", select="left_to_right")


def test_a_reused_mask_id_needs_mask_positions_and_stays_a_word_elsewhere():
    model = tiny(DiffusionSpec("full", 1, MASK, mask_is_reused=True))
    canvas = canvas_of("..__.__")
    wanted = torch.tensor([[False, False, False, False, False, True, True]])
    with pytest.raises(ValueError, match="pass mask_positions"):
        model.denoise(canvas)
    with pytest.warns(
        UserWarning, match=r"id 3, which this model also reads as a mask, at \(row, position\) \(0, 2\), \(0, 3\);"
    ) as caught:
        trajectory = model.denoise(canvas, mask_positions=wanted)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="reads as a mask"), pytest.raises(ValueError, match="masked_by_token=False"):
        model.denoise(canvas, mask_positions=wanted, preset="dream")
    assert trajectory.tokens[0, 2:4].tolist() == [MASK, MASK]
    assert (trajectory.commit_step[wanted] >= 0).all()


def test_mask_positions_are_written_with_the_mask_id(mdm):
    canvas = canvas_of("......")
    wanted = torch.tensor([[False, False, True, True, False, False]])
    trajectory = mdm.denoise(canvas, mask_positions=wanted)
    assert torch.equal(trajectory.canvases[0], torch.where(wanted, MASK, canvas))
    assert torch.equal(trajectory.canvases, mdm.denoise(trajectory.canvases[0]).canvases)


class Made(SimpleNamespace):
    """A made-up model. Unlike a plain namespace, a trajectory can remember it without keeping it."""


def made_up_model(*answers: list[int]) -> Any:
    """A stand-in whose n-th forward predicts `answers[n]`, the more surely the further left."""
    calls = iter(answers)

    def token_logits(canvas: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([next(calls)]), D_VOCAB) * torch.tensor([5.0, 4.0, 3.0])[:, None]

    cfg = SimpleNamespace(device="cpu", d_vocab=D_VOCAB, model_name="made up")
    return Made(token_logits=token_logits, spec=DiffusionSpec("full", 0, MASK), source={}, tokenizer=None, cfg=cfg)


@pytest.mark.parametrize(
    ("masked_by_token", "tokens", "commit_step", "left"),
    [(True, [9, 8, MASK], [1, 2, -1], [False, False, True]), (False, [MASK, 8, 7], [0, 1, 2], [False] * 3)],
)
def test_a_position_that_commits_the_mask_id_stays_open_when_masks_go_by_token(masked_by_token, tokens, commit_step, left):
    model = made_up_model([MASK, 5, 6], [9, 8, 6], [9, 8, 7])
    chosen = DenoisingSettings(masked_by_token=masked_by_token)
    job = Job.make(model, torch.full((1, 3), MASK), chosen)
    trajectory = Denoiser(Forward(model, job), job).run()
    assert trajectory.tokens[0].tolist() == tokens
    assert trajectory.commit_step[0].tolist() == commit_step
    assert trajectory.masked_at(3)[0].tolist() == left


@pytest.mark.parametrize(
    ("canvas", "chosen", "message"),
    [
        (canvas_of("......"), {}, "no masked position"),
        (canvas_of("_....."), {}, "row 0 masks position 0"),
        (canvas_of(".._")[0], {}, r"token ids \(batch, pos\)"),
        (canvas_of(".._").float(), {}, "torch.float32"),
        (canvas_of(".._") + D_VOCAB, {}, f"outside the vocabulary of {D_VOCAB}"),
        (canvas_of(".._") - MASK - 1, {}, "holds id -1"),
        (canvas_of(".._"), {"mask_positions": torch.ones(1, 2, dtype=torch.bool)}, r"shaped like the canvas \(1, 3\), got \(1, 2\)"),
        (canvas_of(".._"), {"mask_positions": torch.ones(1, 3)}, "mask_positions is boolean"),
        (canvas_of(".._"), {"mask_positions": torch.zeros(1, 3, dtype=torch.bool)}, "no masked position"),
        (canvas_of(".____"), {"block_length": 1, "steps": 3}, "3 steps are fewer than the 4 blocks of row 0"),
        (canvas_of(".._"), {"top_p": 0.0}, "top_p, the mass"),
        (canvas_of(".._"), {"top_k": 0}, "top_k is a whole number"),
        (canvas_of(".._"), {"alg_temp": -1.0}, "alg_temp is finite"),
        (canvas_of(".._"), {"threshold": 1.5}, "threshold is a probability"),
        (canvas_of(".._"), {"cfg_scale": float("inf")}, "cfg_scale is finite"),
        (canvas_of(".._"), {"remask": 1.0}, "remask is a probability"),
        (canvas_of(".._"), {"attention_mask": torch.tensor([[1, 1, 0]]), "mask_positions": canvas_of(".._") == MASK}, "padding cannot be"),
        (canvas_of(".__"), {"attention_mask": torch.tensor([[0, 1, 1]])}, "row 0 masks position 1, which nothing predicts"),
        (canvas_of(".._"), {"attention_mask": torch.ones(1, 2)}, r"attention_mask has shape \(1, 2\)"),
        (canvas_of(".._"), {"select": "best"}, "unknown select 'best'"),
        (canvas_of(".._"), {"schedule": "cosine"}, "unknown schedule 'cosine'"),
        (canvas_of(".._"), {"preset": "bert"}, "unknown preset 'bert'"),
        (canvas_of(".._"), {"steps": 0}, "steps is a whole number"),
        (canvas_of(".._"), {"steps": 10**9, "schedule": "time_grid"}, "steps is at most 1000000"),
        (canvas_of(".._").expand(4000, -1), {"steps": 10**6, "schedule": "time_grid"}, r"1000000 steps of 4000 rows keep 100\.6 GiB"),
    ],
)
def test_bad_input_is_refused_before_any_forward(mdm, monkeypatch, canvas, chosen, message):
    monkeypatch.setattr(HookedDiffusionTransformer, "forward", lambda *_, **__: pytest.fail("a forward ran"))
    with pytest.raises(ValueError, match=message):
        mdm.denoise(canvas, **chosen)
    with pytest.raises(ValueError, match=message):
        mdm.run_with_denoising_cache(canvas, **chosen)


@pytest.mark.parametrize("method", ["denoise", "run_with_denoising_hooks", "run_with_denoising_cache"])
def test_an_unknown_argument_is_named_beside_those_there_are(mdm, method):
    with pytest.raises(TypeError, match="denoising takes no argument remasking; it takes canvas, steps, select, .*mask_positions.*top_p"):
        getattr(mdm, method)(canvas_of(".._"), remasking="low_confidence")


def test_steps_and_select_can_be_given_by_position(mdm):
    canvas = canvas_of("..____")
    assert torch.equal(mdm.denoise(canvas, 2, "entropy").canvases, mdm.denoise(canvas, steps=2, select="entropy").canvases)


def test_a_trajectory_survives_saving(mdm, tmp_path):
    trajectory = mdm.denoise(canvas_of("..____", "..__.."), steps=3, preset="llada", seed=5)
    trajectory.save(tmp_path / "run.3")
    assert {path.name for path in tmp_path.iterdir()} == {"run.3.safetensors", "run.3.json"}
    loaded = DenoisingTrajectory.load(tmp_path / "run.3.safetensors")
    for name in ("canvases", "masked", "commit_step", "confidence", "visible", "mask_positions", "tokens"):
        assert torch.equal(getattr(loaded, name), getattr(trajectory, name))
    for name in ("settings", "mask_token_id", "forwards", "provenance"):
        assert getattr(loaded, name) == getattr(trajectory, name)
    assert loaded.settings.steps == 3


def test_a_trajectory_as_a_table(mdm):
    trajectory = mdm.denoise(canvas_of("..__", "._.."))
    frame = trajectory.to_dataframe(SimpleNamespace(decode=lambda ids: f"<{ids[0]}>"))
    assert list(frame.columns) == ["row", "step", "pos", "token", "confidence", "text"]
    assert frame["row"].tolist() == [0, 0, 1]
    assert frame["step"].tolist() == [0, 1, 0]
    for line in frame.itertuples():
        assert line.token == trajectory.tokens[line.row, line.pos]
        assert line.text == f"<{line.token}>"


def test_a_trajectory_shows_itself(mdm):
    trajectory = mdm.denoise(canvas_of("..____"), steps=2)
    assert repr(trajectory) == "DenoisingTrajectory: 1 × 6 tokens, 4 masks in 2 steps, 2 forwards, by confidence"
    html = trajectory._repr_html_()
    assert html.count("<tr>") == 4  # header and three canvases
    assert html.count("·") == 4 + 2
    assert html.count("<b>") == 4


def test_a_trajectory_knows_its_ends(mdm):
    trajectory = mdm.denoise(canvas_of("..__"))
    assert torch.equal(trajectory.masked_at(0), trajectory.mask_positions)
    with pytest.raises(IndexError, match="outside 0 … 2"):
        trajectory.masked_at(3)
    with pytest.raises(ValueError, match="commit_step"):
        replace(trajectory, commit_step=torch.zeros(1, 2))
