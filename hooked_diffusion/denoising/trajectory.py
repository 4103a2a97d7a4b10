"""What a denoising run did: every canvas, and when and how surely each position was committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from hooked_diffusion import artefact
from hooked_diffusion.artefact import Artefact
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.record import DenoisingRecord
from hooked_diffusion.denoising.settings import DenoisingSettings
from hooked_diffusion.denoising.statistics import measure
from hooked_diffusion.denoising.trajectory_statistics import TrajectoryStatistics

SHOWN_STEPS = 48


@dataclass(frozen=True, eq=False)
class DenoisingTrajectory(DenoisingRecord, Artefact):
    """The record of one denoising run, and how it was made. The tensors: `DenoisingRecord`.

    - `mask_token_id`: the id that the canvases hold at masks; None for a model without one.
    - `settings`: of the run.
    - `forwards`: how often the model ran; steps that commit nothing need no forward, guidance needs two a step.
    - `provenance`: the model that ran (`model`) and how it was read (`spec`).
    """

    KIND: ClassVar[str] = "denoising trajectory"

    mask_token_id: int | None
    settings: DenoisingSettings
    forwards: int
    provenance: dict[str, Any] = field(default_factory=dict)

    def statistics(self, model: DenoisingModel, *, attention: bool = True) -> TrajectoryStatistics:
        """Commit order, settling, flips, confidence, attention to the first token and its drift; one forward per canvas.

        Call it under the same `model.attention(…)` as the run. `attention=False` leaves attention out.
        """
        return measure(model, self, attention=attention)

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
        packed, values = self._packed()
        artefact.write(tensors, self.KIND, packed, {})
        artefact.write_json(side, values)

    @classmethod
    def load(cls, path: str | Path) -> DenoisingTrajectory:
        """Read what `save` wrote. Raises FileNotFoundError when either file is missing, ValueError when one is something else."""
        tensors, side = _files(path)
        values = artefact.read_json(side, "DenoisingTrajectory.save")
        found, _ = artefact.read(tensors, cls.KIND, "DenoisingTrajectory.save")
        return artefact.rebuilt(side, cls, lambda: cls._unpacked(found, values))

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
