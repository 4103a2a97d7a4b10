"""One prompt denoised, step by step: what stands on the canvas, what the model would say at every depth, and where its heads look.

1. Mask the answer, and let the model fill it in, one position a step, as it would decode.
2. At every step, read the logit lens of the residual stream at each masked position (nostalgebraist 2020): each depth at its own scale.
3. At every step, keep the attention of some heads from the positions that predict the masked ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_diffusion import HookedDiffusionTransformer
from hooked_diffusion.artefact import Artefact
from hooked_diffusion.html import card
from mechshift_tl.bridge.alignment import logit_shift
from mechshift_tl.plotting import INK, plain, style
from mechshift_tl.tasks.examples import Example
from mechshift_tl.views.projection import Projection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: A longer answer is filled in with several positions a step.
MOST_STEPS = 32


@dataclass(frozen=True, eq=False)
class Playback(Artefact):
    """A denoising run with its lens and its attention. *masks* are the positions that were masked at first, in their order.

    - `canvases`, `masked (steps + 1, pos)`: token ids and where they are masked; row k is what step k starts from, the last is the result.
    - `positions (masks,)`; `commit_step`, `confidence (masks,)`: when each was written, and the token's probability then, in [0, 1].
    - `lens_id`, `lens_probability (steps, depths, masks)`: the token that each depth of the stream would say, and its probability. Depth 0
      is the embeddings, the last one the prediction.
    - `attention (steps, heads, masks, pos)`: weights of `heads` from the position that predicts each mask, in [0, 1].
    - `words`: spells the ids. `answer`, `written`: the task's answer, and what the model wrote; `right`: whether that is right.
    """

    KIND: ClassVar[str] = "playback"

    canvases: Int[Tensor, "steps_plus_1 pos"] = field(repr=False)
    masked: Bool[Tensor, "steps_plus_1 pos"] = field(repr=False)
    positions: Int[Tensor, " masks"]
    commit_step: Int[Tensor, " masks"] = field(repr=False)
    confidence: Float[Tensor, " masks"] = field(repr=False)
    lens_id: Int[Tensor, "steps depths masks"] = field(repr=False)
    lens_probability: Float[Tensor, "steps depths masks"] = field(repr=False)
    attention: Float[Tensor, "steps heads masks pos"] = field(repr=False)
    heads: list[str]
    words: dict[int, str] = field(repr=False)
    answer: str
    written: str
    right: bool

    @property
    def steps(self) -> int:
        """Denoising steps."""
        return len(self.canvases) - 1

    def finding(self) -> str:
        """What was written in how many steps, and in which order."""
        order = self.commit_step.argsort(stable=True)
        left = bool((order == torch.arange(len(order))).all())
        spelled = f"“{self.written.strip()}”, " + ("which is right" if self.right else f"where the answer is “{self.answer.strip()}”")
        how = "from left to right" if left else "not from left to right"
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps, {how}"
        return f"On one prompt the MDM writes {spelled}, in {steps}. One prompt is an example and supports no claim."

    def to_dataframe(self) -> pd.DataFrame:
        """One row per mask: position, token, step of its commit, probability of the token then."""
        tokens = [self.words[token] for token in self.canvases[-1, self.positions].tolist()]
        made = {"position": self.positions.tolist(), "token": tokens, "step": self.commit_step.tolist()}
        return pd.DataFrame(made | {"confidence": self.confidence.tolist()})

    def figure(self) -> go.Figure:
        """Every canvas as a row: the tokens written so far, darker where the model was surer when it wrote them."""
        later = torch.arange(self.steps + 1)[:, None]
        known = later > self.commit_step
        tokens = self.canvases[:, self.positions].tolist()
        texts = [
            [plain(self.words[t]) if on else "" for t, on in zip(*row, strict=True)] for row in zip(tokens, known.tolist(), strict=True)
        ]
        shown = torch.where(known, self.confidence, torch.nan).tolist()
        bar = {"title": "confidence", "thickness": 12}
        heat = go.Heatmap(
            z=shown, text=texts, texttemplate="%{text}", zmin=0, zmax=1, colorscale=[[0, "#f8f8f6"], [1, INK]], colorbar=bar,
            x=[f"{at}" for at in self.positions.tolist()], hovertemplate="step %{y}, position %{x}: %{text} %{z:.2f}<extra></extra>",
        )  # fmt: skip
        figure = go.Figure(heat).update_xaxes(title_text="position", type="category")
        figure.update_yaxes(title_text="step", autorange="reversed", dtick=max(1, self.steps // 16))
        return style(figure, 140 + 24 * (self.steps + 1))

    def _repr_html_(self) -> str:
        return card("Playback", self.finding(), self.to_dataframe())


@torch.no_grad()
def play(
    model: HookedDiffusionTransformer,
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    heads: Sequence[str] = (),
    *,
    solved: Callable[[Example, str], bool] = lambda example, written: written == example.pair.answer,
    steps: int | None = None,
) -> Playback:
    """Denoise the answer of one example; `heads` (ids such as `a3.h1`) are those whose attention is kept.

    `solved` judges what was written, as `Task.solved` does. `steps`: by default one per masked position, at most
    32. Raises ValueError on a model without a mask token, and where `denoise` does.
    """
    spec, start = model.spec, example.answer_start
    if spec.mask_token_id is None:
        raise ValueError(f"play: {model.cfg.model_name} has no mask token to denoise; give an MDM")
    masks = list(range(start, start + len(example.answer)))
    row = [*example.clean[:start], *[spec.mask_token_id] * len(masks), *example.suffix, *spec.tail]
    canvas = torch.tensor([row], device=model.cfg.device)
    where = torch.zeros_like(canvas, dtype=torch.bool)
    where[0, masks] = True
    layers = sorted({int(head[1 : head.index(".")]) for head in heads})
    streams = [f"blocks.{i}.hook_resid_pre" for i in range(model.cfg.n_layers)] + [f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"]
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    steps = min(len(masks), MOST_STEPS) if steps is None else steps
    run, cache = model.run_with_denoising_cache(canvas, steps=steps, mask_positions=where, names_filter=[*streams, *patterns])
    read = [position - logit_shift(model) for position in masks]
    ids, sure = _lens(model, [torch.stack([cache[step, name][0, read] for name in streams]) for step in range(run.steps)])
    seen = torch.unique(torch.cat([run.canvases.cpu().flatten(), ids.flatten()])).tolist()
    written = str(tokenizer.decode(run.tokens[0, masks].tolist()))
    return Playback(
        canvases=run.canvases[:, 0].cpu(), masked=run.masked[:, 0].cpu(), positions=torch.tensor(masks),
        commit_step=run.commit_step[0, masks].cpu(), confidence=run.confidence[0, masks].float().cpu(), lens_id=ids, lens_probability=sure,
        attention=torch.stack([_attention(cache[step], heads, read) for step in range(run.steps)]), heads=list(heads),
        words={token: str(tokenizer.decode([token])) for token in seen},
        answer=str(tokenizer.decode(list(example.answer))), written=written, right=solved(example, written),
    )  # fmt: skip


def _lens(
    model: HookedDiffusionTransformer, streams: list[Float[Tensor, "depths masks d"]]
) -> tuple[Int[Tensor, "steps depths masks"], Float[Tensor, "steps depths masks"]]:
    """The token that each depth would say at each step, and its probability."""
    projection = Projection.of(model)
    found = [projection.logits(projection.normalize(one, None, constant=True), constant=True).softmax(-1).max(-1) for one in streams]
    return torch.stack([one.indices for one in found]).cpu(), torch.stack([one.values for one in found]).float().cpu()


def _attention(cache: object, heads: Sequence[str], read: list[int]) -> Float[Tensor, "heads masks pos"]:
    """The heads' weights from the positions `read`."""
    places = [head[1:].split(".h") for head in heads]
    rows = [cache[f"blocks.{layer}.attn.hook_pattern"][0, int(head), read] for layer, head in places]  # type: ignore[index]
    return torch.stack(rows).float().cpu() if rows else torch.zeros(0, len(read), 0)
