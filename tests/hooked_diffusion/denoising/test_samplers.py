"""The presets against loops written out from the samplers' descriptions, at temperature 0; guidance, remasking, batches, distributions."""

from __future__ import annotations

import math
from itertools import permutations, product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.attention import attention_mask_4d
from hooked_diffusion.denoising.job import DenoisingArguments, Job
from hooked_diffusion.denoising.loop import Denoiser, Forward
from hooked_diffusion.denoising.settings import make_settings

MASK = 2
pytestmark = pytest.mark.filterwarnings("ignore:.*steps commit nothing")


def spec_of(attention: Any, shift: Any, block_length: int | None = None) -> DiffusionSpec:
    return DiffusionSpec(attention, shift, MASK, block_length=block_length)


@pytest.fixture(scope="module")
def full(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native(), spec=spec_of("full", 0))


def canvas_of(prompt: int, masks: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    tokens = torch.randint(MASK + 1, 48, (rows, prompt), generator=torch.Generator().manual_seed(seed))
    return torch.cat([tokens, torch.full((rows, masks), MASK)], 1)


@torch.no_grad()
def best(model: Any, canvas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Most probable token and its probability at every position of a one-row canvas."""
    top = model.token_logits(canvas)[0].softmax(-1).max(-1)
    return top.indices, top.values


def write_best(model: Any, canvas: torch.Tensor, window: range, count: int) -> torch.Tensor:
    """The canvas with its `count` surest masks within the window written."""
    tokens, probability = best(model, canvas)
    masks = [p for p in window if canvas[0, p] == MASK]
    written = canvas.clone()
    for p in sorted(masks, key=lambda p: -float(probability[p]))[:count]:
        written[0, p] = tokens[p]
    return written


@pytest.mark.parametrize(("masks", "steps", "per_step"), [(10, 4, [2, 3, 2, 3]), (6, 9, [1, 1, 1, 1, 1, 1])])
def test_dllm_reveals_what_its_linear_schedule_rounds_to_and_drops_empty_steps(full, masks, steps, per_step):
    canvas = canvas_of(5, masks)
    trajectory = full.denoise(canvas, preset="dllm", steps=steps)
    assert trajectory.forwards == len(per_step)
    expected = canvas
    for step, count in enumerate(per_step):
        expected = write_best(full, expected, range(5, 5 + masks), count)
        assert torch.equal(trajectory.canvases[step + 1], expected)
    assert torch.equal(trajectory.tokens, expected)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.999])
def test_threshold_commits_what_is_sure_and_at_least_one(full, threshold):
    canvas, expected, forwards = canvas_of(4, 8), canvas_of(4, 8), 0
    trajectory = full.denoise(canvas, preset="threshold", threshold=threshold)
    while (expected == MASK).any():
        tokens, probability = best(full, expected)
        masked = expected[0] == MASK
        sure = masked & (probability > threshold)
        sure[torch.where(masked, probability, -1).argmax()] = True
        expected = torch.where(sure, tokens, expected[0])[None]
        forwards += 1
    assert torch.equal(trajectory.tokens, expected)
    assert trajectory.forwards == forwards
    assert (trajectory.forwards < 8) == (threshold == 0.05)


def test_threshold_with_few_steps_commits_at_least_their_share(full):
    """SDAR and LLaDA2: a step commits its n // steps surest even when none reaches the threshold."""
    canvas = canvas_of(4, 8)
    assert torch.equal(
        full.denoise(canvas, preset="threshold", threshold=1.0, steps=4).canvases,
        full.denoise(canvas, steps=4, select="confidence").canvases,
    )


@pytest.mark.parametrize("prompt", [4, 6, 7])
@pytest.mark.parametrize("block_length", [None, 2])
@torch.no_grad()
def test_fast_dllm_v2(native, prompt, block_length):
    """Blocks of 4 on the canvas; a block's first token is the finished block's next-token prediction, the rest is read one row before."""
    model = HookedDiffusionTransformer.from_hf(native("qwen2"), spec=spec_of("block", 1, 4))
    canvas = canvas_of(prompt, 13 - prompt, seed=prompt)
    expected, pos = canvas, canvas.shape[1]
    small = block_length or 4
    for start in range(0, pos, 4):
        block = range(start, min(start + 4, pos))
        if start >= prompt:
            assert expected[0, start] == MASK
            next_token = model(expected[:, :start])[0, -1].argmax()  # nothing of the new block is on the canvas yet
            expected = torch.cat([expected[:, :start], next_token.view(1, 1), expected[:, start + 1 :]], 1)
        for small_start in range(start, block.stop, small):
            window = [p for p in range(small_start, min(small_start + small, block.stop))]
            while any(expected[0, p] == MASK for p in window):
                logits = model(expected[:, : block.stop])[0]
                top = logits[[p - 1 for p in window]].softmax(-1).max(-1)
                open_ = [i for i, p in enumerate(window) if expected[0, p] == MASK]
                sure = {i for i in open_ if top.values[i] > 0.4} | {max(open_, key=lambda i: float(top.values[i]))}
                expected = expected.clone()
                for i in sure:
                    expected[0, window[i]] = top.indices[i]
    trajectory = model.denoise(canvas, preset="threshold", threshold=0.4, block_length=block_length)
    assert torch.equal(trajectory.tokens, expected)


@pytest.mark.parametrize("prompt", [4, 6])
def test_bd3lm_and_sdar_read_a_block_where_it_stands(native, prompt):
    model = HookedDiffusionTransformer.from_hf(native(), spec=spec_of("block", 0, 4))
    canvas = canvas_of(prompt, 12 - prompt)
    expected = canvas
    for start in range(4 * (prompt // 4), 12, 4):
        for _ in range(4):
            seen = expected[:, : start + 4]  # later blocks are not there yet
            expected = torch.cat([write_best(model, seen, range(start, start + 4), 1), expected[:, start + 4 :]], 1)
    assert torch.equal(model.denoise(canvas).tokens, expected)
    assert torch.equal(model.denoise(canvas, preset="dllm", steps=12 - prompt if prompt == 4 else 8).tokens, expected)


def test_a_block_causal_forward_hides_later_blocks(native):
    model = HookedDiffusionTransformer.from_hf(native(), spec=spec_of("block", 0, 4))
    tokens = canvas_of(6, 4)
    other = tokens.clone()
    other[0, 8:] = 7
    assert torch.equal(model(tokens)[:, :8], model(other)[:, :8])
    pattern = model.run_with_cache(tokens)[1]["pattern", 1]
    visible = torch.ones(1, 10, dtype=torch.bool)
    assert torch.equal(pattern[0] > 0, attention_mask_4d(visible, "block", 4)[0].expand(4, -1, -1))


@pytest.mark.parametrize("shift", [0, 1])
def test_guidance_is_lladas(native, shift):
    """u + (s + 1)(l − u), u the logits on a canvas whose prompt is masked as well."""
    model = HookedDiffusionTransformer.from_hf(native(), spec=spec_of("full", shift))
    canvas, expected = canvas_of(4, 3), canvas_of(4, 3)
    trajectory = model.denoise(canvas, cfg_scale=1.5)
    for step in range(3):
        unprompted = expected.clone()
        unprompted[0, :4] = MASK
        alone = model.token_logits(unprompted)[0]
        logits = alone + 2.5 * (model.token_logits(expected)[0] - alone)
        top = logits.softmax(-1).max(-1)
        pos = int(torch.where(expected[0] == MASK, top.values, -1).argmax())
        expected = expected.clone()
        expected[0, pos] = top.indices[pos]
        assert torch.equal(trajectory.canvases[step + 1], expected)
    assert trajectory.forwards == 6
    assert torch.equal(model.denoise(canvas, cfg_scale=0.0).canvases, model.denoise(canvas).canvases)


class Made(SimpleNamespace):
    """A made-up model. Unlike a plain namespace, a trajectory can remember it without keeping it."""


def lookup_model(table: torch.Tensor) -> Any:
    """A stand-in whose prediction at every position is `table[(token on the left)]`, a distribution over three words and the mask."""

    def token_logits(canvas: torch.Tensor) -> torch.Tensor:
        return table[torch.cat([canvas[:, :1], canvas[:, :-1]], 1)].log()

    cfg = SimpleNamespace(device="cpu", d_vocab=4, model_name="lookup")
    return Made(token_logits=token_logits, spec=DiffusionSpec("full", 0, 3), source={}, tokenizer=None, cfg=cfg)


TABLE = torch.tensor([[0.6, 0.3, 0.1, 0.0], [0.1, 0.2, 0.7, 0.0], [0.3, 0.4, 0.3, 0.0], [0.25, 0.25, 0.5, 0.0]])
ROWS = 6000


def drawn(**settings: Any) -> torch.Tensor:
    """What `ROWS` rows of one given word and two masks become."""
    model = lookup_model(TABLE)
    canvas = torch.tensor([[0, 3, 3]]).expand(ROWS, 3)
    job = Job.make(model, canvas, make_settings(**settings))
    return Denoiser(Forward(model, job), job).run().tokens[:, 1:]


def exact(first_alone: float, temperature: float, top_p: float) -> torch.Tensor:
    """P(words at positions 1 and 2), given how often the second is drawn after the first is written; else it is drawn beside a mask."""
    tempered = TABLE ** (1 / temperature)
    tempered = tempered / tempered.sum(-1, keepdim=True)
    if top_p < 1:
        order = tempered.argsort(-1, descending=True)
        kept = tempered.gather(-1, order).cumsum(-1).roll(1, -1)
        kept[:, 0] = 0
        cut = torch.zeros_like(kept, dtype=torch.bool).scatter(-1, order, kept > top_p)
        tempered = tempered.masked_fill(cut, 0)
        tempered = tempered / tempered.sum(-1, keepdim=True)
    p = torch.zeros(3, 3, dtype=torch.double)
    for a, b in product(range(3), range(3)):
        apart = tempered[0, a] * tempered[3, b]
        p[a, b] = first_alone * tempered[0, a] * tempered[a, b] + (1 - first_alone) * apart
    assert math.isclose(p.sum(), 1, abs_tol=1e-6)
    return p / p.sum()


@pytest.mark.parametrize(
    ("settings", "first_alone", "temperature", "top_p"),
    [
        # Two steps of DiffuLLaMA: coins of 1/2, then everything: first alone 1/4, second alone 1/4, both together 1/2 of the time.
        ({"preset": "diffullama", "steps": 2, "temperature": 1.0, "top_p": 1.0}, 1 / 4, 1.0, 1.0),
        ({"preset": "diffullama", "steps": 2}, 1 / 4, 0.95, 0.9),
        # Dream's origin: the grid 1, (1 + eps)/2, eps gives the same coins up to eps/2.
        ({"preset": "dream", "select": "random", "schedule": "bernoulli", "steps": 2, "temperature": 1.0, "eps": 1e-6}, 1 / 4, 1.0, 1.0),
        ({"select": "random", "temperature": 1.0}, 1 / 2, 1.0, 1.0),
        ({"steps": 1, "temperature": 1.0}, 0.0, 1.0, 1.0),
        ({"select": "left_to_right", "temperature": 0.7}, 1.0, 0.7, 1.0),
        ({"block_length": 1, "temperature": 1.0}, 1.0, 1.0, 1.0),
    ],
    ids=str,
)
def test_stochastic_samplers_draw_from_the_exact_distribution(settings, first_alone, temperature, top_p):
    tokens = drawn(seed=7, **settings)
    counts = (tokens[:, 0] * 3 + tokens[:, 1]).bincount(minlength=9).double()
    expected = exact(first_alone, temperature, top_p).flatten()
    possible = expected > 0
    assert not counts[~possible].any()
    assert chisquare(counts[possible], expected[possible] * ROWS).pvalue > 1e-3


def test_positions_are_drawn_by_their_confidence(full):
    """alg_temp: which of the masks is committed first follows softmax(confidence / alg_temp)."""
    canvas = canvas_of(5, 3)
    probability = best(full, canvas)[1][5:]
    trajectory = full.denoise(canvas.expand(3000, -1), alg_temp=0.5, temperature=0.0, steps=2, seed=3)
    first = (trajectory.commit_step[:, 5:] == 0).sum(1)
    assert (first == 2).all()  # even: two of three in the first step
    w = (probability.double() / 0.5).softmax(-1)
    orders = [list(permutations({0, 1, 2} - {o})) for o in range(3)]
    left_out = torch.stack([torch.stack([w[i] * w[j] / (1 - w[i]) for i, j in order]).sum() for order in orders])
    counts = (trajectory.commit_step[:, 5:] == 1).sum(0).double()
    assert chisquare(counts, left_out * 3000).pvalue > 1e-3


@pytest.mark.parametrize("chosen", [{"schedule": "even"}, {"schedule": "time_grid"}, {"schedule": "rounded"}, {"block_length": 3}], ids=str)
def test_remasking_follows_the_schedule_and_reopens_by_a_coin(full, chosen):
    canvas = canvas_of(3, 6, rows=200)
    plain = full.denoise(canvas, steps=6, **chosen)
    again = full.denoise(canvas, steps=6, remask=0.4, seed=5, **chosen)
    assert torch.equal(again.masked.sum(-1), plain.masked.sum(-1))  # as many masks at every step
    assert not again.masked[-1].any() and torch.equal(again.canvases[..., :3], canvas[:, :3].expand(7, -1, -1))
    reopened = ~again.masked[:-1] & again.masked[1:]
    assert reopened.any() and not (~plain.masked[:-1] & plain.masked[1:]).any()
    assert (again.canvases[again.masked] == MASK).all()
    standing = (again.commit_step[:, 3:] >= 0).all()
    assert standing and (again.confidence > 0).all()


def test_remasking_reopens_with_the_given_probability(full):
    again = full.denoise(canvas_of(3, 9, rows=300), steps=9, remask=0.2, seed=1)
    step = 2  # two committed, seven masks left: room for all that the coins say
    done = ~again.masked[step] & again.masked[0]
    rate = (done & again.masked[step + 1]).sum() / done.sum()
    assert abs(float(rate) - 0.2) < 0.05


def test_an_arm_has_no_mask_to_write(native):
    arm = HookedDiffusionTransformer.from_hf(native())
    canvas = canvas_of(3, 2)
    for refused in (DenoisingArguments(cfg_scale=1.0), DenoisingArguments(remask=0.1)):
        with pytest.raises(ValueError, match="no mask token, which cfg_scale and remask write"):
            arm.denoise(canvas, **{**refused, "mask_positions": canvas == MASK})
    with pytest.raises(ValueError, match="leave out threshold"):
        arm.denoise(canvas, mask_positions=canvas == MASK, threshold=0.5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("spec", "chosen"),
    [
        (spec_of("full", 0), {}),
        (spec_of("full", 1), {"preset": "dream", "steps": 8}),
        (spec_of("full", 0), {"preset": "llada", "steps": 6, "block_length": 2}),
        (spec_of("full", 0), {"preset": "dllm", "steps": 4}),
        (spec_of("full", 0), {"preset": "threshold", "threshold": 0.3}),
        (spec_of("full", 0), {"cfg_scale": 0.5}),
        (spec_of("block", 0, 4), {}),
        (spec_of("block", 1, 4), {"preset": "threshold", "threshold": 0.3}),
    ],
    ids=str,
)
def test_padded_prompts_are_denoised_as_they_are_alone(native, spec, chosen, side):
    model = HookedDiffusionTransformer.from_hf(native("qwen2"), spec=spec)
    rows = [canvas_of(3, 6, seed=1), canvas_of(5, 2, seed=2), canvas_of(2, 4, seed=3)]
    width = max(row.shape[1] for row in rows)
    blank = [torch.ones(1, width - row.shape[1], dtype=torch.long) for row in rows]
    parts = [[fill, row] if side == "left" else [row, fill] for fill, row in zip(blank, rows, strict=True)]
    shown = [
        [fill * 0, torch.ones_like(row)] if side == "left" else [torch.ones_like(row), fill * 0]
        for fill, row in zip(blank, rows, strict=True)
    ]
    canvas, visible = torch.cat([torch.cat(p, 1) for p in parts]), torch.cat([torch.cat(p, 1) for p in shown]).bool()
    together = model.denoise(canvas, attention_mask=visible, **chosen)
    for i, row in enumerate(rows):
        alone = model.denoise(row, **chosen)
        assert torch.equal(together.tokens[i, visible[i]], alone.tokens[0])
        assert torch.equal(together.commit_step[i, visible[i]], alone.commit_step[0])
        assert (together.commit_step[i, ~visible[i]] == -1).all()
