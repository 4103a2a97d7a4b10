"""What holds of every run, whatever the canvas and the settings; and what is said of input that looks wrong."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer

MASK, D_VOCAB, PAD = 2, 48, 1
pytestmark = pytest.mark.filterwarnings("ignore:.*steps commit nothing")


@pytest.fixture(scope="module")
def models(native) -> dict[str, HookedDiffusionTransformer]:
    specs = {
        "full": DiffusionSpec("full", 0, MASK),
        "shifted": DiffusionSpec("full", 1, MASK),
        "block": DiffusionSpec("block", 0, MASK, block_length=3),
        "shifted block": DiffusionSpec("block", 1, MASK, block_length=3),
    }
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16}
    return {name: HookedDiffusionTransformer.from_hf(native(**shape), spec=spec) for name, spec in specs.items()}


@st.composite
def canvases(draw: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and visibility: each row has its own length, prompt and masks; position 0 of a row is given."""
    rows = [draw(st.lists(st.booleans(), min_size=1, max_size=8)) for _ in range(draw(st.integers(1, 3)))]
    rows[0] = [*rows[0], True]
    width, left = 1 + max(map(len, rows)), draw(st.booleans())
    tokens, visible = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.bool)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    for i, row in enumerate(rows):
        masked = torch.tensor([False, *row])
        place = slice(width - len(masked), None) if left else slice(0, len(masked))
        tokens[i, place] = torch.where(masked, MASK, torch.randint(MASK + 1, D_VOCAB, masked.shape, generator=generator))
        visible[i, place] = True
    return tokens, visible


@st.composite
def chosen(draw: Any) -> dict[str, Any]:
    """Settings; each is left out more often than not."""
    offered = {
        "preset": ("dream", "llada", "diffullama", "dllm", "threshold"),
        "select": ("confidence", "entropy", "margin", "random", "left_to_right", "threshold"),
        "schedule": ("even", "time_grid", "rounded", "bernoulli"),
        "steps": (9, 14, 20),  # a row has at most nine blocks
        "block_length": (1, 3),
        "temperature": (0.7, 3.0),
        "top_p": (0.1, 0.8),
        "top_k": (1, 5),
        "alg_temp": (0.3,),
        "threshold": (0.0, 0.1, 1.0),
        "cfg_scale": (0.5,),
        "remask": (0.3, 0.9),
        "seed": (1, 2),
    }
    return {name: draw(st.sampled_from(values)) for name, values in offered.items() if draw(st.integers(0, 2)) == 0}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(("full", "shifted", "block", "shifted block")), canvases(), chosen(), st.booleans())
def test_every_run(models, which, canvas, wanted, carried):
    tokens, visible = canvas
    carried = carried or "remask" in wanted
    trajectory = models[which].denoise(tokens, attention_mask=visible, masked_by_token=False if carried else None, **wanted)
    given_masks = (tokens == MASK) & visible
    canvases, masked = trajectory.canvases, trajectory.masked

    assert canvases.shape == masked.shape == (trajectory.steps + 1, *tokens.shape)
    assert trajectory.steps == wanted.get("steps", int(given_masks.sum(1).max()))
    assert (canvases.dtype, masked.dtype, trajectory.confidence.dtype) == (torch.long, torch.bool, torch.float32)
    assert trajectory.commit_step.shape == trajectory.confidence.shape == tokens.shape
    assert torch.equal(canvases[0], tokens) and torch.equal(masked[0], given_masks)
    assert ((canvases >= 0) & (canvases < D_VOCAB)).all()
    assert torch.equal(canvases[:, ~given_masks], tokens[~given_masks].expand(len(canvases), -1))
    assert (masked.sum(-1).diff(dim=0) <= 0).all()
    assert ((trajectory.confidence >= 0) & (trajectory.confidence <= 1)).all()
    assert (canvases[masked] == MASK).all()

    if "remask" not in wanted:
        stands = ~masked[:-1]
        assert torch.equal(canvases[1:][stands], canvases[:-1][stands])
        assert (masked[1:] <= masked[:-1]).all()
    if carried:
        assert not masked[-1].any()
        assert ((trajectory.commit_step >= 0) == given_masks).all()
    assert trajectory.forwards <= trajectory.steps * (2 if "cfg_scale" in wanted else 1)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(("full", "shifted", "block", "shifted block")), canvases(), chosen())
def test_every_run_is_repeatable_and_can_be_resumed(models, which, canvas, wanted):
    tokens, visible = canvas
    wanted = {name: value for name, value in wanted.items() if name != "steps"}
    trajectory = models[which].denoise(tokens, attention_mask=visible, **wanted)
    assert torch.equal(models[which].denoise(tokens, attention_mask=visible, **wanted).canvases, trajectory.canvases)
    again = models[which].resume_denoising(trajectory, trajectory.steps // 2)
    assert torch.equal(again.canvases, trajectory.canvases) and torch.equal(again.masked, trajectory.masked)


@pytest.mark.filterwarnings("default:.*steps commit nothing")
def test_more_steps_than_masks_are_said_to_be_idle(models):
    canvas = torch.tensor([[7, MASK, 9, MASK], [7, 8, 9, MASK]])
    with pytest.warns(UserWarning, match='6 steps for at most 2 masks in a row: with schedule "even" 4 steps commit nothing') as caught:
        models["full"].denoise(canvas, steps=6)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models["full"].denoise(canvas, steps=2)
        models["full"].denoise(canvas, preset="dream", steps=64)  # a finer grid


def test_a_doubled_bos_is_said(native, word_tokenizer, tmp_path):
    word_tokenizer.save_pretrained(tmp_path)
    model = HookedDiffusionTransformer.from_hf(native(), AutoTokenizer.from_pretrained(tmp_path), DiffusionSpec("full", 1, MASK))
    bos = model.tokenizer.bos_token_id
    with pytest.warns(UserWarning, match=f"BOS .id {bos}. stands twice at the start of row 1; tokenise with prepend_bos=False") as caught:
        model.denoise(torch.tensor([[bos, 7, MASK, 9], [bos, bos, 7, MASK]]))
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="at the start of row 0;"):
        model.denoise(torch.tensor([[PAD, bos, bos, MASK]]), attention_mask=torch.tensor([[0, 1, 1, 1]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.denoise(torch.tensor([[bos, 7, bos, bos, MASK]]))


def test_many_places_are_listed_shortly(native):
    model = HookedDiffusionTransformer.from_hf(native(), spec=DiffusionSpec("full", 1, MASK, mask_is_reused=True))
    wanted = torch.zeros(1, 10, dtype=torch.bool)
    wanted[0, 9] = True
    with pytest.warns(UserWarning, match=r"\(0, 0\), \(0, 1\), \(0, 2\), \(0, 3\), \(0, 4\), \(0, 5\) and 3 more; it stays as it is"):
        model.denoise(torch.full((1, 10), MASK), mask_positions=wanted)


def test_nothing_to_denoise_is_refused(models):
    with pytest.raises(
        ValueError, match="canvas has no masked position; write the mask id where tokens are wanted, or pass mask_positions"
    ):
        models["full"].denoise(torch.tensor([[7, 8, 9]]))
    with pytest.raises(ValueError, match="no masked position"):  # the only mask is padding
        models["full"].denoise(torch.tensor([[7, 8, MASK]]), attention_mask=torch.tensor([[1, 1, 0]]))
