"""What a denoising run did: every canvas, and when and how surely each position was committed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked_diffusion.denoising.settings import DenoisingSettings

if TYPE_CHECKING:
    from hooked_diffusion.denoising.trajectory_statistics import TrajectoryStatistics
    from hooked_diffusion.model import HookedDiffusionTransformer

TENSORS = ("canvases", "masked", "commit_step", "confidence", "visible")
SHOWN_STEPS = 48


@dataclass(frozen=True, eq=False)
class DenoisingTrajectory:
    """The record of one denoising run.

    - `canvases (steps + 1, batch, pos)`: token ids; canvas k is what step k starts from, the last one is the result.
    - `masked (steps + 1, batch, pos)`: where each canvas is masked; `mask_positions` is the first of them.
    - `commit_step (batch, pos)`: the step that wrote the position last; −1 where none did, or a later one reopened it.
    - `confidence (batch, pos)`: probability of the token at its commit, by the model at temperature 1, in [0, 1]; 1 where it was given,
      0 where a mask was left open (frozen, or when masks go by token).
    - `visible (batch, pos)`: False at padding.
    - `forwards`: how often the model ran; steps that commit nothing need none, guidance needs two.
    - `settings`, `mask_token_id`, `provenance`: how and by which model.
    """

    canvases: Int[Tensor, "steps_plus_1 batch pos"]
    masked: Bool[Tensor, "steps_plus_1 batch pos"]
    commit_step: Int[Tensor, "batch pos"]
    confidence: Float[Tensor, "batch pos"]
    visible: Bool[Tensor, "batch pos"]
    mask_token_id: int | None
    settings: DenoisingSettings
    forwards: int
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in TENSORS[1:]:
            shape = self.canvases.shape[0 if name == "masked" else 1 :]
            if getattr(self, name).shape != shape:
                raise ValueError(f"DenoisingTrajectory: {name} is {tuple(getattr(self, name).shape)}, the canvases are {tuple(shape)}")

    @property
    def tokens(self) -> Int[Tensor, "batch pos"]:
        """The denoised canvas, `(batch, pos)`."""
        return self.canvases[-1]

    @property
    def steps(self) -> int:
        """Denoising steps, those that commit nothing included."""
        return len(self.canvases) - 1

    @property
    def mask_positions(self) -> Bool[Tensor, "batch pos"]:
        """Where the first canvas is masked, `(batch, pos)`."""
        return self.masked[0]

    @property
    def attention_mask(self) -> Bool[Tensor, "batch pos"] | None:
        """What `token_logits` needs to see the canvases as the run did: None when every position is visible."""
        return None if self.visible.all() else self.visible

    def masked_at(self, step: int) -> Bool[Tensor, "batch pos"]:
        """Where the canvas that `step` starts from is masked, `(batch, pos)`; `steps` asks about the result. Raises IndexError outside."""
        if not 0 <= step <= self.steps:
            raise IndexError(f"step {step} lies outside 0 … {self.steps}")
        return self.masked[step]

    def statistics(self, model: HookedDiffusionTransformer, *, attention: bool = True) -> TrajectoryStatistics:
        """Commit order, settling, flips, confidence, attention to the first token and its drift; one forward per canvas."""
        from hooked_diffusion.denoising.trajectory_statistics import TrajectoryStatistics

        return TrajectoryStatistics.of(model, self, attention=attention)

    def to_dataframe(self, tokenizer: Any = None) -> pd.DataFrame:
        """One line per masked position, in order of commit: row, step, pos, token id, confidence, and `text` when a tokenizer is given."""
        row, pos = self.mask_positions.nonzero(as_tuple=True)
        frame = pd.DataFrame({"row": row.tolist(), "step": self.commit_step[row, pos].tolist(), "pos": pos.tolist()})
        frame["token"], frame["confidence"] = self.tokens[row, pos].tolist(), self.confidence[row, pos].tolist()
        if tokenizer is not None:
            frame["text"] = [tokenizer.decode([token]) for token in frame["token"]]
        return frame.sort_values(["row", "step", "pos"], ignore_index=True)

    def save(self, path: str | Path) -> None:
        """Write `path`.safetensors (tensors) and `path`.json (settings, provenance); a given .safetensors ending is not doubled."""
        tensors, side = _files(path)
        save_file({name: getattr(self, name).contiguous() for name in TENSORS}, tensors)
        values = {name: getattr(self, name) for name in ("mask_token_id", "forwards", "provenance")}
        side.write_text(json.dumps({**values, "settings": self.settings.to_dict()}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> DenoisingTrajectory:
        """Read what `save` wrote. Raises FileNotFoundError when either file is missing."""
        tensors, side = _files(path)
        values = json.loads(side.read_text())
        return cls(**load_file(tensors), **{**values, "settings": DenoisingSettings(**values["settings"])})

    def __repr__(self) -> str:
        batch, pos = self.tokens.shape
        work = f"{int(self.mask_positions.sum())} masks in {self.steps} steps, {self.forwards} forwards"
        return f"DenoisingTrajectory: {batch} × {pos} tokens, {work}, by {self.settings.select}"

    def _repr_html_(self) -> str:
        """The first row's masked positions, one line per canvas: · while masked, bold when committed."""
        positions = self.mask_positions[0].nonzero()[:, 0].tolist()
        lines = [f"<tr><th>step</th>{''.join(f'<th>{p}</th>' for p in positions)}</tr>"]
        for step in range(min(self.steps, SHOWN_STEPS) + 1):
            masked = self.masked_at(step)[0]
            cells = [self._cell(step, p, bool(masked[p])) for p in positions]
            lines.append(f"<tr><th>{step}</th>{''.join(cells)}</tr>")
        return f"<p>{escape(repr(self))}; row 0</p><table>{''.join(lines)}</table>"

    def _cell(self, step: int, pos: int, masked: bool) -> str:
        if masked:
            return "<td>·</td>"
        token, fresh = int(self.canvases[step, 0, pos]), int(self.commit_step[0, pos]) == step - 1
        return f"<td><b>{token}</b></td>" if fresh else f"<td>{token}</td>"


def _files(path: str | Path) -> tuple[Path, Path]:
    stem = str(path).removesuffix(".safetensors")
    return Path(stem + ".safetensors"), Path(stem + ".json")
