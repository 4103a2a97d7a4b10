"""The logit lens along a denoising run: what the residual stream says after every layer, at every recorded step.

The stream behind each layer goes through the model's own final norm and unembedding (nostalgebraist 2020). At the last layer this is the
model's prediction. A canvas position is read where it is predicted: one position to the left in a model with logit shift 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from hooked_diffusion.artefact import Artefact
from hooked_diffusion.denoising.lens_figure import Panel, draw_lens
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.record import DenoisingRecord
from hooked_diffusion.html import card
from hooked_diffusion.plotting import plain
from hooked_diffusion.tokenizers import spelled

STREAM = "blocks.{}.hook_resid_post"
READINGS = ("top_id", "confidence", "final", "entropy")


@dataclass(frozen=True, eq=False)
class DenoisingLens(Artefact):
    """What one row's stream says after every layer, all `(steps, layers, positions)`.

    - `top_id`: the first choice; `words` spells the ids that occur. `confidence`: its probability, in [0, 1].
    - `final`: probability, in [0, 1], of the token that the run ended with. `entropy`: of the prediction, nats.
    - `masked (steps, positions)`: where the step's canvas is masked.
    - `steps`, `positions`: what the first and last dimension stand for; `tokens (positions,)`: ids of the run's result.

    Raises ValueError when the tensors disagree in shape.
    """

    KIND: ClassVar[str] = "denoising lens"

    steps: list[int]
    positions: list[int]
    top_id: Int[Tensor, "steps layers positions"]
    confidence: Float[Tensor, "steps layers positions"]
    final: Float[Tensor, "steps layers positions"]
    entropy: Float[Tensor, "steps layers positions"]
    masked: Bool[Tensor, "steps positions"]
    tokens: list[int]
    words: dict[int, str]
    provenance: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ends = (len(self.steps), len(self.positions))
        for name in READINGS:
            shape = tuple(getattr(self, name).shape)
            if len(shape) != 3 or (shape[0], shape[2]) != ends or shape != tuple(self.top_id.shape):
                raise ValueError(f"DenoisingLens: {name} is {shape}, not {ends[0]} steps × layers × {ends[1]} positions")

    @property
    def n_layers(self) -> int:
        """Layers that were read: all of the model's."""
        return self.top_id.shape[1]

    def to_dataframe(self) -> pd.DataFrame:
        """One line per step, layer and position: step, layer, pos, masked, top (text), confidence, final, entropy."""
        steps, layers, positions = self.top_id.shape
        ids = self.top_id.flatten().tolist()
        frame = pd.DataFrame(
            {
                "step": [step for step in self.steps for _ in range(layers * positions)],
                "layer": [layer for layer in range(layers) for _ in range(positions)] * steps,
                "pos": self.positions * (steps * layers),
                "masked": self.masked[:, None].expand(-1, layers, -1).flatten().tolist(),
                "top": [self.words[one] for one in ids],
            }
        )
        return frame.assign(**{name: getattr(self, name).flatten().tolist() for name in READINGS[1:]})

    def figure(self, step: int | None = None) -> go.Figure:
        """Layer × position at one step (by default the first recorded): first choices as words; colour: the final token's probability.

        A slider leads to the other steps. Raises KeyError on a step that was not recorded.
        """
        if step is not None and step not in self.steps:
            raise KeyError(f"step {step} was not recorded; recorded are {', '.join(map(str, self.steps))}")
        panels = [Panel(str(one), self._words(i), self._hovers(i), self.final[i]) for i, one in enumerate(self.steps)]
        columns = [f"{position}<br>{plain(self.words[token]).strip()}" for position, token in zip(self.positions, self.tokens, strict=True)]
        return draw_lens(panels, columns, self.steps.index(self.steps[0] if step is None else step))

    def _words(self, step: int) -> list[list[str]]:
        return [[plain(self.words[one]).strip() for one in line] for line in self.top_id[step].tolist()]

    def _hovers(self, step: int) -> list[list[str]]:
        lines = zip(self._words(step), self.confidence[step].tolist(), self.entropy[step].tolist(), strict=True)
        return [[f"<b>{w}</b>, probability {c:.3f}, entropy {e:.2f} nats" for w, c, e in zip(*line, strict=True)] for line in lines]

    def __repr__(self) -> str:
        return f"DenoisingLens: {len(self.steps)} steps × {self.n_layers} layers × {len(self.positions)} positions"

    def _repr_html_(self) -> str:
        last = self.to_dataframe().query("layer == @last", local_dict={"last": self.n_layers - 1})
        return card(repr(self), "after the last layer", last[last["masked"]].head(12))


@torch.no_grad()
def read_lens(caches: Mapping[int, ActivationCache], run: DenoisingRecord, row: int, positions: Sequence[int] | None) -> DenoisingLens:
    """What `DenoisingCache.logit_lens` promises."""
    model = _model_of(caches)
    places = run.mask_positions[row].nonzero()[:, 0].tolist() if positions is None else list(positions)
    n_pos = run.tokens.shape[1]
    if not places or not all(0 <= p < n_pos for p in places):
        raise ValueError(f"logit_lens: positions are {places}; name some of 0 … {n_pos - 1}")
    predicted_from = [max(p - model.spec.logit_shift, 0) for p in places]
    final = run.tokens[row, places]
    read = [[_read(model, vectors, final) for vectors in _streams(cache, model, row, predicted_from, n_pos)] for cache in caches.values()]
    stacked = [torch.stack([torch.stack([layer[i] for layer in step]) for step in read]).cpu() for i in range(len(READINGS))]
    values = dict(zip(READINGS, stacked, strict=True))
    masked = torch.stack([run.masked_at(step)[row, places] for step in caches]).cpu()
    occurring = torch.cat([values["top_id"].flatten(), final.cpu()])
    return DenoisingLens(
        list(caches), places, **values, masked=masked, tokens=final.tolist(), words=spelled(model.tokenizer, occurring),
        provenance={"model": model.source, "spec": model.spec.to_dict(), "row": row},
    )  # fmt: skip


class _Reading(DenoisingModel):
    """A denoising model with the parts that turn a stream into logits; every bridge has them."""

    ln_final: Callable[[Tensor], Tensor]
    unembed: Callable[[Tensor], Tensor]


def _model_of(caches: Mapping[int, ActivationCache]) -> _Reading:
    model: Any = next(iter(caches.values())).model
    if model is None:
        raise ValueError("logit_lens: this cache knows no model; open its folder by DenoisingCache.load(folder, model)")
    return cast(_Reading, model)


def _streams(
    cache: ActivationCache, model: DenoisingModel, row: int, positions: list[int], n_pos: int
) -> list[Float[Tensor, "positions d_model"]]:
    """The stream behind every layer at `positions` of one row. Raises ValueError where the cache does not hold all of it."""
    names = [STREAM.format(layer) for layer in range(model.cfg.n_layers)]
    found = []
    for name in names:
        if name not in cache:
            raise ValueError(f"logit_lens: the cache lacks {name}; record it, such as by names_filter=lambda name: 'resid_post' in name")
        stream = cache[name]
        if stream.shape[1] != n_pos:
            raise ValueError(f"logit_lens: {name} holds {stream.shape[1]} of {n_pos} positions; record it without `positions`")
        found.append(stream[row, positions])
    return found


def _read(model: _Reading, stream: Float[Tensor, "positions d_model"], final: Int[Tensor, " positions"]) -> tuple[Tensor, ...]:
    """First choice, its probability, the final token's probability and the entropy, each `(positions,)`."""
    logits = model.unembed(model.ln_final(stream[None]))[0].float()
    log_p = logits.log_softmax(-1)
    best = log_p.max(-1)
    entropy = -(log_p.exp() * log_p.clamp(min=-1e4)).sum(-1)
    return best.indices, best.values.exp(), log_p.gather(-1, final.to(log_p.device)[:, None])[:, 0].exp(), entropy
