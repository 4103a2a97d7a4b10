"""The result of a denoising run: it can be saved, shown and measured."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, cast

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from hooked_diffusion import artefact
from hooked_diffusion.artefact import Artefact
from hooked_diffusion.denoising.canvas_figure import MASK, draw_canvases, shown_positions, spell, state
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.record import DenoisingRecord
from hooked_diffusion.denoising.settings import DenoisingSettings
from hooked_diffusion.denoising.statistics import measure
from hooked_diffusion.denoising.trajectory_statistics import TrajectoryStatistics

#: A notebook shows the canvases of so many steps.
SHOWN_STEPS = 48


class Decoder(Protocol):
    """A tokenizer, which turns token ids into text."""

    def decode(self, token_ids: Sequence[int], /) -> str:
        """The text of these tokens."""
        ...


@dataclass(frozen=True, eq=False)
class DenoisingTrajectory(DenoisingRecord, Artefact):
    """The record of one denoising run, and how it was made. The tensors: `DenoisingRecord`.

    - `mask_token_id`: the id that the canvases hold at masks; None for a model without one.
    - `settings`: of the run.
    - `forwards`: how often the model ran. A step that commits nothing needs no forward; guidance needs two a step.
    - `provenance`: the model that ran (`model`) and how it was read (`spec`).
    - `words`: how the ids that occur are spelled; empty in a file of an older version.
    """

    KIND: ClassVar[str] = "denoising trajectory"

    _model: ClassVar[Callable[[], DenoisingModel | None]] = staticmethod(lambda: None)

    mask_token_id: int | None
    settings: DenoisingSettings
    forwards: int
    provenance: dict[str, object] = field(default_factory=dict)
    words: dict[int, str] = field(default_factory=dict, repr=False)

    def spell(self, token: int) -> str:
        """The text of a token id that occurs; `#id` where it is not known."""
        return spell(self.words, token)

    def figure(self, row: int = 0, most: int = SHOWN_STEPS) -> go.Figure:
        """One row of the batch, canvas by canvas: tokens as words, masks as ·, the tokens that a step has just committed in colour.

        Hovering shows a token's id, its step and its probability. `most`: canvases beyond so many steps are left out. A row of over 32
        tokens shows its masked positions alone. Raises IndexError on a row that is not there.
        """
        return draw_canvases(self, self.words, row, most)

    def made_by(self, model: DenoisingModel) -> DenoisingTrajectory:
        """This trajectory, which remembers the model that made it as long as somebody else keeps that."""
        object.__setattr__(self, "_model", weakref.ref(model))  # no field: no file holds it
        return self

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_model"}  # a weak reference cannot be pickled

    def statistics(self, model: DenoisingModel | None = None, *, attention: bool = True) -> TrajectoryStatistics:
        """Commit order, settling, flips, confidence, attention to the first token and its drift; one forward per canvas.

        `model` is by default the one that made the trajectory. Call it under the same `model.attention(…)` as the run. `attention=False`
        leaves attention out. Raises ValueError where no model is given and the trajectory comes from a file.
        """
        known = self._model()
        if (model or known) is None:
            raise ValueError("statistics: this trajectory comes from a file, or its model is gone; give the model: statistics(model)")
        return measure(cast(DenoisingModel, model or known), self, attention=attention)

    def to_dataframe(self, tokenizer: Decoder | None = None) -> pd.DataFrame:
        """One line per masked position, in order of commit: row, step, pos, token id, confidence, text (by `words`, or by a tokenizer)."""
        row, pos = self.mask_positions.nonzero(as_tuple=True)
        frame = pd.DataFrame({"row": row.tolist(), "step": self.commit_step[row, pos].tolist(), "pos": pos.tolist()})
        frame["token"], frame["confidence"] = self.tokens[row, pos].tolist(), self.confidence[row, pos].tolist()
        frame["text"] = [self.spell(token) if tokenizer is None else tokenizer.decode([token]) for token in frame["token"]]
        return frame.sort_values(["row", "step", "pos"], ignore_index=True)

    def save(self, path: str | Path) -> None:
        """Write `path`.safetensors (tensors) and `path`.json (settings, provenance). An ending that is given is not doubled."""
        tensors, side = _files(path)
        packed, values = self._packed()
        artefact.write(tensors, self.KIND, packed, {})
        artefact.write_json(side, values)

    @classmethod
    def load(cls, path: str | Path) -> DenoisingTrajectory:
        """Read what `save` wrote.

        Raises FileNotFoundError when either file is missing, ValueError, naming file and field, when one is something else or was changed.
        """
        tensors, side = _files(path)
        found, _ = artefact.read(tensors, cls.KIND, "DenoisingTrajectory.save")
        values = artefact.read_json(side, "DenoisingTrajectory.save")
        return artefact.rebuilt(f"{tensors} or {side.name}", cls, lambda: cls._unpacked(found, values))

    def __repr__(self) -> str:
        batch, pos = self.tokens.shape
        work = f"{int(self.mask_positions.sum())} masks in {self.steps} steps, {self.forwards} forwards"
        return f"DenoisingTrajectory: {batch} × {pos} tokens, {work}, by {self.settings.select}"

    def _repr_html_(self) -> str:
        """The first row, one line per canvas: · while masked, bold when just committed."""
        positions = shown_positions(self, 0)
        lines = [Markup("<tr><th>canvas</th>{}</tr>").format(_join("th", positions))]
        for canvas in range(min(self.steps, SHOWN_STEPS) + 1):
            cells = [self._cell(canvas, p) for p in positions]
            lines.append(Markup("<tr><th>{}</th>{}</tr>").format(canvas, _join("td", cells)))
        return Markup("<p>{}; row 0</p><table>{}</table>").format(repr(self), Markup("").join(lines))

    def _cell(self, canvas: int, position: int) -> str:
        found = state(self, 0, canvas, position)
        if found == "masked":
            return MASK
        text = self.spell(int(self.canvases[canvas, 0, position]))
        return Markup("<b>{}</b>").format(text) if found == "just committed" else text


def _join(tag: str, cells: Sequence[object]) -> Markup:
    return Markup("").join(Markup("<{0}>{1}</{0}>").format(tag, cell) for cell in cells)


def _files(path: str | Path) -> tuple[Path, Path]:
    stem = str(path).removesuffix(".safetensors")
    return Path(stem + ".safetensors"), Path(stem + ".json")
